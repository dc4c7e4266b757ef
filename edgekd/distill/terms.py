"""What a recipe's weights and ``losses`` say together: a weight and settings for each loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.distill.losses.base import Loss
from edgekd.distill.losses.registry import LOSSES
from edgekd.distill.losses.relation import PAIRS
from edgekd.errors import InputError, nearest
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.sections import Distill

# Weights of a recipe beside soft_weight and hard_weight, and the losses they weigh.
EXTRA_TERMS = {
    "hidden_weight": "hidden",
    "attention_weight": "attention",
    "relation_weight": "relation",
    "embedding_weight": "embedding_cosine",
    "contrastive_weight": "embedding_contrastive",
    "similarity_weight": "similarity_kl",
}
# Settings that follow from the models and the layer map, so a recipe cannot give them.
_PLANNED = frozenset({"layers", "student_width", "teacher_width", "back_only"})


def terms(settings: Distill, task: Task) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Return weights above 0 and settings, both by the names of losses.

    Raises :class:`InputError` for a loss or a setting that there is not or that the task does not
    have, with the nearest name, for a loss that has two weights or none, and for a temperature or
    a layer map that no loss reads.
    """
    weights = _weights(settings, task)
    unread = {"temperature", "layer_map"} - reads(settings, task)
    own = task.temperature(None, task.method(settings.method, settings.top_k))
    if "temperature" in unread and settings.temperature not in (None, own):
        raise InputError(
            f"distill.temperature softens none of this recipe's losses ({', '.join(weights)}); drop"
            " it, or take a method that has one"
        )
    if "layer_map" in unread and settings.layer_map is not None:
        raise InputError(
            "distill.layer_map pairs layers for hidden_weight and attention_weight, and the recipe"
            " has neither (relations are of the last layers by design); add one, or drop it"
        )
    chosen: dict[str, dict[str, Any]] = {}
    for name in weights:
        found = LOSSES[name]
        if found.softened:
            chosen[name] = {"temperature": task.temperature(settings.temperature, name)}
        if name in settings.losses:
            chosen[name] = chosen.get(name, {}) | _given(found, settings.losses[name].settings)
    return weights, chosen


def reads(settings: Distill, task: Task) -> set[str]:
    """Which of ``temperature`` and ``layer_map`` matter to these settings' losses."""
    weights = _weights(settings, task)
    found = {"temperature"} if any(LOSSES[name].softened for name in weights) else set()
    return found | ({"layer_map"} if weights.keys() & {"hidden", "attention"} else set())


def _weights(settings: Distill, task: Task) -> dict[str, float]:
    method = task.method(settings.method, settings.top_k)
    weights = {method: settings.soft_weight, task.hard_loss: settings.hard_weight}
    for weight, loss in EXTRA_TERMS.items():  # one of them may be the method itself
        weights[loss] = weights.get(loss, 0.0) + getattr(settings, weight)
    known = _usable(task, method)
    for name, term in settings.losses.items():
        if name not in known:
            raise InputError(
                f"distill.losses: '{name}' does not fit {task.name}{nearest(name, known)}; it has"
                f" {', '.join(known)}"
            )
        if term.weight is not None and weights.get(name):
            source = "soft_weight" if name == method else LOSSES[name].weight
            raise InputError(
                f"distill.losses: '{name}' already has the weight {weights[name]:g} from {source};"
                " give it in one place"
            )
        if term.weight is None and not weights.get(name):
            raise InputError(
                f"distill.losses: '{name}' has settings but no weight; add weight: 1 to them"
            )
        weights[name] = weights.get(name) or term.weight or 0.0
    return {name: weight for name, weight in weights.items() if weight}


def _usable(task: Task, method: str) -> list[str]:
    """Losses that read what this task's models and stores say."""
    soft = {method} if task.over_vocabulary else {method, *task.methods}  # one of them is stored
    between = {name for name, loss in LOSSES.items() if loss.term not in ("soft", "hard")}
    return [name for name in LOSSES if name in {*soft, *between, task.hard_loss}]


def _given(loss: Loss, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a recipe gives a loss, each checked by name and kind."""
    known = [name for name in loss.settings() if name not in _PLANNED]
    parameters = inspect.signature(loss.function).parameters
    for name, value in values.items():
        where = f"distill.losses.{loss.name}"
        if name not in known:
            raise InputError(
                f"{where} has no setting '{name}'{nearest(name, known)}; it has"
                f" {', '.join(['weight', *known])}"
            )
        if name == "pairs":
            listed = value if isinstance(value, list) else []
            wrong = [pair for pair in listed if pair not in PAIRS]
            if wrong or not listed:
                said = f", not '{wrong[0]}'{nearest(str(wrong[0]), PAIRS)}" if wrong else ""
                raise InputError(f"{where}.pairs is a list of some of {', '.join(PAIRS)}{said}")
            continue
        whole = isinstance(parameters[name].default, int)
        kind = int if whole else (int, float)
        number = isinstance(value, kind) and not isinstance(value, bool)
        if not number or not (1 if whole else 0) <= value < math.inf:
            wanted = "a whole number above 0" if whole else "a number of 0 or more"
            raise InputError(f"{where}.{name} must be {wanted}, not {value!r}")
    return dict(values)
