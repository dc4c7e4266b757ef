"""Several losses as one: weights, projections, and how much each pulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.losses.base import Loss
from edgekd.distill.losses.reduction import check_temperature
from edgekd.distill.losses.registry import LOSSES
from edgekd.errors import InputError, nearest


class Objective(nn.Module):
    """A weighted sum of losses: ``Objective({"softened_kl": 0.9, "cross_entropy": 0.1})``.

    ``weights`` maps names of ``LOSSES`` to weights; one of weight 0 is left out. ``settings`` maps
    names to the settings of that loss. ``classes`` is the number the model has, where it has any.
    ``parts`` is in how many parts a step's batch is computed (gradient accumulation × processes);
    a loss that couples samples would change with it and is refused above 1.

    As a module it holds the projections of its losses: train ``objective.parameters()`` beside
    the student's, and nothing of them is in the student.

    Raises :class:`InputError` for an unknown loss or setting, weights that are negative or sum to
    nothing, too few classes, a temperature that the loss cannot have, and coupled losses in
    several parts.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        classes: int | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__()
        settings = dict(settings or {})
        for name in settings:
            if name not in weights:
                raise InputError(
                    f"'{name}' has settings but no weight{nearest(name, list(weights))}"
                )
        self.weights = {name: w for name, w in check_weights(weights).items() if w}
        self.losses: dict[str, Loss] = {name: LOSSES[name] for name in self.weights}
        self.terms: dict[str, Callable[..., Tensor]] = {}
        self.owned = nn.ModuleDict()
        for name, loss in self.losses.items():
            if classes is not None and classes < loss.least_classes:
                raise InputError(
                    f"the loss '{name}' needs at least {loss.least_classes} classes, the model has"
                    f" {classes}; use softened_kl, or binary_kl where classes are independent"
                )
            if parts > 1 and loss.couples_samples:
                raise InputError(
                    f"the loss '{name}' compares the samples of a batch, so computing the batch in"
                    f" {parts} parts would change it; use one part (no gradient accumulation, one"
                    " process) or a loss that does not"
                )
            chosen = settings.get(name, {})
            if "temperature" in chosen:
                check_temperature(chosen["temperature"], loss.least_temperature)
            self.terms[name] = term = loss.make(chosen)
            if isinstance(term, nn.Module):
                self.owned[name] = term

    @property
    def reads(self) -> list[str]:
        """Every tensor that some loss reads: which signals the teacher must be asked for."""
        return sorted({name for loss in self.losses.values() for name in loss.reads})

    def forward(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weighted value per sample of each loss, {name: [batch]}.

        ``outputs`` maps names to the student's tensors (a transformers ``ModelOutput`` does);
        ``batch`` has the teacher's as ``teacher.NAME``, ``labels``, and the masks ``mask``
        (positions that have an answer) and ``attention_mask`` (positions that are no padding).
        The loss to minimise is ``sum(values.values()).mean()``.
        """
        return {name: self.weights[name] * self.value(name, outputs, batch) for name in self.losses}

    def value(self, name: str, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        """One loss without its weight, per sample: [batch]."""
        loss = self.losses[name]
        inputs = [_lookup(name, entry, outputs, batch) for entry in loss.reads]
        return self.terms[name](*inputs, mask=batch.get(loss.mask))

    def gradient_shares(
        self, outputs: Any, batch: Mapping[str, Any], parameters: Iterable[nn.Parameter]
    ) -> dict[str, float]:
        """The norm of each term's gradient in ``parameters``, as a share of all norms.

        A term whose share is next to nothing has no effect, whatever its weight says.
        """
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        norms = {}
        for name, values in self(outputs, batch).items():
            gradients = torch.autograd.grad(
                values.mean(), wanted, retain_graph=True, allow_unused=True
            )
            squares = [g.double().square().sum() for g in gradients if g is not None]
            norms[name] = math.sqrt(float(sum(squares)))
        total = sum(norms.values())
        return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Refuse weights that cannot be meant: unknown, negative, not finite, or all zero."""
    for name, weight in weights.items():
        if name not in LOSSES:
            raise InputError(
                f"unknown loss '{name}'{nearest(name, list(LOSSES))}; there are {', '.join(LOSSES)}"
            )
        if not (0 <= weight < math.inf):
            raise InputError(f"the weight of '{name}' must be 0 or more and finite, not {weight}")
    if not sum(weights.values()):
        raise InputError("the weights of the losses sum to nothing; give at least one above 0")
    return dict(weights)


def _lookup(loss: str, entry: str, outputs: Any, batch: Mapping[str, Any]) -> Any:
    source, name = (outputs, entry[8:]) if entry.startswith("student.") else (batch, entry)
    try:
        value = source[name]
    except (KeyError, AttributeError):
        value = None
    if value is None:
        where = "the student's outputs" if source is outputs else "the batch"
        raise InputError(f"the loss '{loss}' reads '{entry}', which {where} does not have")
    return value
