"""A student that is some of the teacher's layers, copied with their weights.

Starting from the teacher's layers instead of random ones is the cheapest gain known
(DistilBERT, arXiv:1910.01108; which layers: arXiv:2305.15032).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor

if TYPE_CHECKING:
    from edgekd.models import LoadedModel


def copy_layers(
    teacher: LoadedModel, layers: Sequence[int] | None, max_length: int | None = None
) -> LoadedModel:
    """Copy the teacher with only the named encoder ``layers`` (counted from 0; None is all).

    The position table is cut to ``max_length`` where the family has a plain one. Raises
    :class:`InputError` for a layer the teacher lacks or a family without a layer list.
    """
    from edgekd.models import LoadedModel, revision_of

    config: Any = copy.deepcopy(teacher.model.config)
    state = dict(teacher.model.state_dict())
    if layers is not None:
        path = check_layers(layers, teacher.model)
        count = config.num_hidden_layers
        config.num_hidden_layers = len(layers)
        # What a family sets layer by layer (ModernBERT's attention) goes with the layers.
        for name, values in list(vars(config).items()):
            per_layer = isinstance(values, list | tuple) and len(values) == count > 1
            if per_layer and name != "architectures":
                setattr(config, name, [values[layer] for layer in layers])
        state = _select_layers(state, path, list(layers))
    preprocessor = teacher.preprocessor
    if isinstance(preprocessor, TextPreprocessor) and max_length:
        preprocessor = replace(preprocessor, max_length=min(max_length, preprocessor.max_length))
        _cut_positions(teacher.model, config, state, preprocessor.max_length)
    model: Any = type(teacher.model)(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"layers {list(layers or ())} of {type(model).__name__} do not fit together in a"
            " smaller model of that family; choose others, or give the student as model: or config:"
        ) from error
    return LoadedModel(
        model.eval(), preprocessor, teacher.labels, teacher.source, revision_of(model, preprocessor)
    )


def check_layers(layers: Sequence[int], teacher: nn.Module) -> str:
    """Raise :class:`InputError` for a layer that ``teacher`` lacks; return where its layers are."""
    if not layers:
        return ""
    path, count = layer_list(teacher)
    beyond = [layer for layer in layers if layer >= count]
    if beyond:
        raise InputError(
            f"student.layers names layer {beyond[0]}, but the teacher has {count}"
            f" (0 to {count - 1})"
        )
    return path


def even_layers(count: int, total: int) -> list[int]:
    """``count`` of ``total`` layers at even steps, the first and the last among them.

    A single one is the first: lower layers are the better start (arXiv:2305.15032).
    """
    if count == 1:
        return [0]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def layer_list(model: nn.Module) -> tuple[str, int]:
    """The module path of the encoder's layer list, and its length.

    It is the ``ModuleList`` of one repeated class that is as long as the config says.
    """
    count = getattr(model.config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != count:
            continue
        if len({type(child) for child in module}) == 1:
            return path, int(count)
    raise InputError(
        f"{type(model).__name__} has no plain list of layers to choose from; give the student as"
        " model: or config: instead of layers:"
    )


def _select_layers(state: dict[str, Any], path: str, layers: list[int]) -> dict[str, Any]:
    kept = {key: value for key, value in state.items() if not key.startswith(f"{path}.")}
    for new, old in enumerate(layers):
        prefix = f"{path}.{old}."
        for key, value in state.items():
            if key.startswith(prefix):
                kept[f"{path}.{new}.{key.removeprefix(prefix)}"] = value.clone()
    return kept


def _cut_positions(model: nn.Module, config: Any, state: dict[str, Any], length: int) -> None:
    """Drop the position embeddings beyond ``length``; rotary and relative families have none."""
    size = getattr(config, "max_position_embeddings", None)
    if not size:
        return
    tables = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and name.endswith("position_embeddings")
        and module.num_embeddings == size
    ]
    from edgekd.processors import position_offset

    wanted = length + position_offset(config)
    if len(tables) != 1 or wanted >= size:
        return
    config.max_position_embeddings = wanted
    key = f"{tables[0]}.weight"
    state[key] = state[key][:wanted].clone()
    # Registered index buffers count positions as well.
    for name, value in list(state.items()):
        if name.endswith((".position_ids", ".token_type_ids")) and value.shape[-1] == size:
            state[name] = value[..., :wanted].clone()
