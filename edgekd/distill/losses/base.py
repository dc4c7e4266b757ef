"""What a loss declares about itself: what it reads, which laws it keeps, where it comes from.

A loss is a function (or an ``nn.Module`` where it owns parameters) of tensors that returns one
value per sample, float [batch], under the normalisation of ``reduction.py``. What it *declares*
is a :class:`Loss`; every declared law is checked by a property test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from torch import Tensor, nn

from edgekd.errors import InputError, nearest


class Law(StrEnum):
    """A property that holds for every input, with the words of the printed table."""

    ZERO = "zero at equality"
    POSITIVE = "never negative"
    SPLIT = "unchanged by batch split"
    PADDING = "unchanged by padding"
    SHIFT = "unchanged by logit shift"
    SCALE = "unchanged by logit scale"
    FINITE = "finite gradient at extremes"
    UNBIASED = "on average the dense loss"
    HEAT = "gradient kept as T grows"


@dataclass(frozen=True)
class Loss:
    """One entry of the registry.

    ``reads`` names the tensors that the function takes, in order: ``student.X`` from the model's
    outputs, anything else (``teacher.X``, ``labels``) from the batch. ``mask`` is the batch entry
    that says which positions are real. ``term`` names the weight: ``soft`` -> ``soft_weight``.
    """

    name: str
    term: str
    function: Callable[..., Tensor] | type[nn.Module]
    reads: tuple[str, ...]
    laws: frozenset[Law]
    source: str
    mask: str = "mask"
    least_classes: int = 1
    least_temperature: float = 0.0

    @property
    def couples_samples(self) -> bool:
        """Whether a sample's value depends on the others in its batch."""
        return Law.SPLIT not in self.laws

    @property
    def softened(self) -> bool:
        """Whether a recipe's ``temperature``, which is of logits, is its own: cosines have another."""
        return self.term == "soft" and "temperature" in self.settings()

    @property
    def weight(self) -> str:
        return f"{self.term}_weight"

    def make(self, settings: Mapping[str, Any] | None = None) -> Callable[..., Tensor]:
        """Return the loss with its settings applied.

        Raises :class:`InputError` for a setting that it does not have, naming the nearest one.
        """
        chosen = dict(settings or {})
        known = self.settings()
        for name in chosen:
            if name not in known:
                raise InputError(
                    f"the loss '{self.name}' has no setting '{name}'{nearest(name, known)};"
                    f" it has {', '.join(known) or 'none'}"
                )
        if isinstance(self.function, type):
            return self.function(**chosen)
        return partial(self.function, **chosen)

    def settings(self) -> list[str]:
        """The names of the settings it takes."""
        parameters = inspect.signature(self.function).parameters
        inputs = 0 if isinstance(self.function, type) else len(self.reads)
        return [name for name in list(parameters)[inputs:] if name != "mask"]
