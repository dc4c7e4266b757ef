"""What ``tune`` searches where the recipe does not say, and what of a space cannot be tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

from pydantic import ValidationError

from edgekd.errors import InputError, nearest
from edgekd.pipeline.context import Context
from edgekd.sections import Distill, Tune
from edgekd.space import Choices, Range, Space


def default_space(context: Context) -> dict[str, Range | Choices]:
    """What is searched where the recipe does not say: around its own values.

    The scale of the weights means little to Adam, so soft_weight stays as it is and the others
    are searched against it; those of value 0 but for hard_weight are losses that the recipe left
    out. Epochs cost time and shapes cost size: both are the user's to offer.
    """
    distill, methods = context.recipe.distill, context.task.methods
    rate = distill.learning_rate
    space: dict[str, Range | Choices] = {"learning_rate": Range(rate / 4, rate * 4, log=True)}
    if distill.soft_weight:
        method = context.task.method(distill.method, distill.top_k)
        space["hard_weight"] = Range(0.0, max(1.0, distill.hard_weight))
        classes = len(context.labels)
        usable = [name for name in methods if not classes or classes >= _least_classes(name)]
        usable = [name for name in usable if name == method or name not in distill.losses]
        # Over a vocabulary the method decides what is stored, which is not to be searched lightly.
        if len(usable) > 1 and not context.task.over_vocabulary:
            space["method"] = Choices(tuple(usable))
        if _softened(context, space):
            heat = context.task.temperature(distill.temperature, method)
            space["temperature"] = Range(min(1.0, heat), max(8.0, heat), log=True)
    for name, weight in distill.weights.items():
        if weight and name not in ("soft_weight", "hard_weight"):
            space[name] = Range(weight / 10, weight * 10, log=True)
    return space


def check(context: Context, settings: Tune, space: Space) -> None:
    """Refuse a space that cannot be tried, before any training.

    Raises :class:`InputError` for epochs that the cap would hide, for a method or losses that the
    task does not have, and for a temperature that nothing would read.
    """
    epochs, cap = space.get("epochs"), settings.epochs
    if cap is not None and epochs is not None and _ends(epochs)[1] > cap:
        raise InputError(
            f"tune.epochs ends every trial at {cap}, so tune.space.epochs cannot tell"
            f" {_ends(epochs)[1]:g} from it; drop one of them"
        )
    known = context.task.methods
    for method in _choices(space, "method", []):
        if method not in known:
            raise InputError(
                f"tune.space.method: '{method}' does not fit {context.recipe.task}"
                f"{nearest(str(method), known)}; it has {', '.join(known)}"
            )
    for losses in _choices(space, "losses", []):
        _check_losses(context, space, losses)
    _check_cuts(context, space)
    if "temperature" in space and not _softened(context, space):
        raise InputError(
            "tune.space.temperature: no method that is tried has one, nor another loss; drop it"
        )


def _check_losses(context: Context, space: Space, losses: Mapping[str, Any]) -> None:
    """Losses must go with one of the methods that are tried, or their trials would all fail."""
    from edgekd.distill.terms import terms

    refused = []
    for settings in _tried(context, {**space, "losses": Choices((losses,))}):
        try:
            terms(settings, context.task)
        except InputError as error:
            refused.append(str(error))
        else:
            return
    why = refused[0] if refused else "all weights are 0: nothing would be learned"
    raise InputError(f"tune.space.losses, {dict(losses)}: {why}")


def _check_cuts(context: Context, space: Space) -> None:
    """Words are to be cut further in some trials, which must not fail for it."""
    from edgekd.distill import subwords
    from edgekd.distill.terms import terms

    tried = space.get("subword_dropout")
    if not (_ends(tried)[1] if tried else context.recipe.distill.subword_dropout):
        return
    for settings in _tried(context, space):
        try:
            weights, _ = terms(settings, context.task)
        except InputError:  # told of elsewhere
            continue
        try:
            subwords.check(context.task, weights)
        except InputError as error:
            raise InputError(f"tune.space: {error}") from None


def _softened(context: Context, space: Space) -> bool:
    """Whether some of the settings that are tried read the temperature."""
    from edgekd.distill.terms import reads

    refused: list[InputError | None] = []
    for settings in _tried(context, space):
        try:
            if "temperature" in reads(settings, context.task):
                return True
        except InputError as error:
            refused.append(error)
        else:
            refused.append(None)
    if refused and None not in refused:
        raise refused[0] or InputError("nothing can be tried")
    return False


def _tried(context: Context, space: Space) -> Iterator[Distill]:
    """The recipe's settings with each method and list of losses, at the ends of each weight."""
    own = context.recipe.distill
    weights = [[(name, v) for v in _ends(space[name])] for name in own.weights if name in space]
    for method in _choices(space, "method", [own.method]):
        for losses in _choices(space, "losses", [own.losses]):
            for chosen in product(*weights):
                values = {
                    "temperature": None,
                    "layer_map": None,
                    "method": method,
                    "losses": losses,
                }
                with suppress(ValidationError):  # all weights 0
                    yield Distill.model_validate({**own.model_dump(), **values, **dict(chosen)})


def _choices(space: Space, name: str, own: list[Any]) -> list[Any]:
    """The values of ``name`` that are tried: ``own`` where it is not searched."""
    values = space.get(name)
    return list(values.values) if isinstance(values, Choices) else own


def _least_classes(method: str) -> int:
    from edgekd.distill.losses.registry import LOSSES

    return LOSSES[method].least_classes


def _ends(values: Range | Choices) -> tuple[float, float]:
    """The lowest and the highest of what is tried."""
    if isinstance(values, Range):
        return values.low, values.high
    return min(values.values), max(values.values)
