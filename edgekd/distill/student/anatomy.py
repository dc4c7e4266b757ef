"""Which size of the config sets the length of each axis of each weight.

Nothing is read off names that can be asked: the model is built again without memory, one size of
its config changed, and the axes that grew belong to that size. Names are needed only where a
family ties two meanings to one size (the heads' outputs and the residual stream are both
``hidden_size`` long).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgekd.distill.student.layers import layer_list
from edgekd.errors import InputError

# The axes that a reduction can cut. The first three are ``hidden_size`` long.
HIDDEN, ATTENTION, HEAD = "hidden", "attention", "head"
INTERMEDIATE, EMBEDDING = "intermediate", "embedding"
Axes = tuple[str | int, ...]


@dataclass(frozen=True)
class Family:
    """Where a layout keeps its attention, its classification head and its config values."""

    inputs: tuple[str, ...]  # query, key, value: in a layer
    output: str  # what mixes the heads: in a layer
    head: tuple[str, str] | None = None  # the dense layer before the classifier, the classifier
    intermediate: str = "intermediate_size"  # its key in the config


_BERT = ("attention.self.query", "attention.self.key", "attention.self.value")
_ROBERTA = Family(_BERT, "attention.output.dense", ("classifier.dense", "classifier.out_proj"))
_VIT = Family(("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attention.o_proj")
FAMILIES: dict[str, Family] = {
    "bert": Family(_BERT, "attention.output.dense", ("bert.pooler.dense", "classifier")),
    "roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": _ROBERTA,
    "distilbert": Family(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        ("pre_classifier", "classifier"),
        "hidden_dim",
    ),
    "vit": _VIT,
    "deit": _VIT,
    "audio-spectrogram-transformer": _VIT,
}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that a reduction can change."""

    hidden: int
    heads: int
    intermediate: int
    embedding: int | None = None  # None: the family embeds at the hidden size

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def of(self, axis: str | int) -> int:
        """The length of an axis."""
        if isinstance(axis, int):
            return axis
        if axis == INTERMEDIATE:
            return self.intermediate
        return (self.embedding or self.hidden) if axis == EMBEDDING else self.hidden


@dataclass(frozen=True)
class Weights:
    """How many there are, those in vectors (biases, norms) apart: they stay in float."""

    matrices: int
    vectors: int
    channels: int  # output channels of the matrices, each of which has a scale when compressed

    @property
    def total(self) -> int:
        return self.matrices + self.vectors


@dataclass(frozen=True)
class Anatomy:
    """Every weight of one model with its axes, and the sizes that they have there."""

    axes: Mapping[str, Axes]
    sizes: Sizes
    layers: str  # the path of the layer list
    depth: int

    @property
    def projects(self) -> bool:
        """Whether embeddings of another width are brought to the hidden one."""
        return any("embeddings_project" in name for name in self.axes)

    def layer_of(self, name: str) -> str:
        """The number of the layer that a weight or module stands in; empty outside of them."""
        prefix = f"{self.layers}."
        return name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""

    def count(self, depth: int, sizes: Sizes) -> Weights:
        """Weights of a model of this family with other sizes, exactly: nothing is built for it."""
        matrices = vectors = channels = 0
        if sizes.embedding and not self.projects and sizes.embedding != sizes.hidden:
            matrices = sizes.embedding * sizes.hidden
            vectors = channels = sizes.hidden
        for name, axes in self.axes.items():
            layer = self.layer_of(name)
            if layer not in ("", "0"):
                continue
            number = depth if layer else 1
            for axis in axes:
                number *= sizes.of(axis)
            if sum(sizes.of(axis) > 1 for axis in axes) > 1:
                matrices += number
                channels += (depth if layer else 1) * sizes.of(axes[0])
            else:
                vectors += number
        return Weights(matrices, vectors, channels)


def weights_of(model: nn.Module, layers: Sequence[int]) -> Weights:
    """Weights of ``model`` with these of its layers alone, exactly; of any family.

    Raises :class:`InputError` for one without a list of layers.
    """
    prefix = f"{layer_list(model)[0]}."
    kept = {str(layer) for layer in layers}
    matrices = vectors = channels = 0
    for name, value in model.named_parameters():
        if name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] not in kept:
            continue
        if sum(length > 1 for length in value.shape) > 1:
            matrices += value.numel()
            channels += value.shape[0]
        else:
            vectors += value.numel()
    return Weights(matrices, vectors, channels)


def family_of(model: nn.Module) -> Family:
    """Raise :class:`InputError` for a family whose layout is not known here."""
    kind = getattr(model.config, "model_type", type(model).__name__)
    if kind not in FAMILIES or getattr(model.config, "is_decoder", False):
        raise InputError(
            f"the width of a {kind} model cannot be reduced here, only of {', '.join(FAMILIES)};"
            " keep its width and choose layers:, or give the student as model: or config:"
        )
    return FAMILIES[kind]


def dissect(model: nn.Module) -> Anatomy:
    """Find the axes of every weight of ``model``; nothing of it is changed.

    Raises :class:`InputError` for a family that is not known, and for one whose heads, width and
    projections are not tied as :class:`Sizes` says.
    """
    family, config = family_of(model), model.config
    path, depth = layer_list(model)
    sizes = sizes_of(config, family)
    own = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if sizes.hidden != sizes.heads * sizes.head_size:
        raise InputError(f"{sizes.heads} heads do not share a width of {sizes.hidden} evenly")
    wider = {
        HIDDEN: resized(config, sizes.hidden + sizes.head_size, sizes.heads + 1),
        INTERMEDIATE: resized(config, intermediate=sizes.intermediate + 1),
    }
    if sizes.embedding is not None:
        wider[EMBEDDING] = resized(config, embedding=sizes.embedding + 1)
    axes: dict[str, list[str | int]] = {name: list(shape) for name, shape in own.items()}
    for size, other in wider.items():
        for name, shape in _shapes(type(model), other).items():
            for index, (now, then) in enumerate(zip(own.get(name, ()), shape, strict=False)):
                if now != then:
                    axes[name][index] = size
    head = family.head if family.head and _has(own, *family.head) else ("", "")
    for name, found in axes.items():
        module = name.rpartition(".")[0]
        if module.endswith(family.inputs):
            found[0] = ATTENTION
        elif module.endswith(family.output) and name.endswith("weight"):
            found[1] = ATTENTION
        elif module == head[0]:
            found[0] = HEAD
        elif module == head[1] and name.endswith("weight"):
            found[1] = HEAD
    frozen = {name: tuple(found) for name, found in axes.items()}
    for name, shape in own.items():
        if tuple(sizes.of(axis) for axis in frozen[name]) != shape:
            raise InputError(
                f"{type(model).__name__} ties {name} to its width in a way that is not known here;"
                " keep its width, or give the student as model: or config:"
            )
    return Anatomy(frozen, sizes, path, depth)


def sizes_of(config: Any, family: Family) -> Sizes:
    return Sizes(
        config.hidden_size,
        config.num_attention_heads,
        getattr(config, family.intermediate),
        getattr(config, "embedding_size", None),
    )


def wanted_sizes(
    own: Sizes,
    hidden_size: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
    embedding_size: int | None = None,
) -> Sizes:
    """``own`` with the sizes that are given; heads are kept whole, so they and the width go together.

    Raises :class:`InputError` for sizes past the model's or that do not belong together.
    """
    each = own.head_size
    hidden = hidden_size or (heads * each if heads else own.hidden)
    if hidden % each or (heads and heads * each != hidden):
        nearest = max(round(hidden / each), 1)
        raise InputError(
            f"student.hidden_size {hidden}{f' with {heads} heads' if heads else ''}: the teacher's"
            f" heads are {each} wide and are kept whole; give hidden_size: {nearest * each},"
            f" which has {nearest} heads"
        )
    if embedding_size and own.embedding is None:
        raise InputError(
            "student.embedding_size: this family embeds at its hidden size; reduce hidden_size, or"
            " trim the vocabulary"
        )
    tied = own.embedding == own.hidden
    embedding = embedding_size or (hidden if tied else own.embedding)
    if own.embedding and not tied and embedding == hidden:
        raise InputError(
            f"student.embedding_size {embedding} is the hidden size, at which this family has no"
            " projection between them; give another"
        )
    wanted = Sizes(hidden, hidden // each, intermediate_size or own.intermediate, embedding)
    for name, ours, theirs in (
        ("hidden_size", wanted.hidden, own.hidden),
        ("intermediate_size", wanted.intermediate, own.intermediate),
        ("embedding_size", wanted.embedding or 0, own.embedding or 0),
    ):
        if ours > theirs:
            raise InputError(f"student.{name} {ours} is more than the teacher's {theirs}")
    return wanted


def resized(
    config: Any,
    hidden: int | None = None,
    heads: int | None = None,
    intermediate: int | None = None,
    embedding: int | None = None,
) -> Any:
    """A copy of ``config`` with other sizes; those that are None stay."""
    changed = copy.deepcopy(config)
    values = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        FAMILIES[config.model_type].intermediate: intermediate,
        "embedding_size": embedding,
    }
    for name, value in values.items():
        if value is not None:
            setattr(changed, name, value)
    return changed


def _has(own: Mapping[str, Any], *modules: str) -> bool:
    return all(f"{module}.weight" in own for module in modules)


def _shapes(kind: Any, config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in kind(config).named_parameters()}
