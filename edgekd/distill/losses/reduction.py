"""The one normalisation of every loss here.

    sum over classes · mean over features · mean over the real positions of a sample
    · mean over samples · times T² where logits are softened by T

Every loss returns one value per sample, float [batch]; the trainer takes the mean. Then a batch
may be split in any way: the mean over samples is the weighted mean of the parts' means.

Losses on cosines have no T². Theirs is the scale on which two directions are called alike (0.05),
not a softening of logits that have a scale of their own: T² keeps the size of a gradient as T grows
from 1, and would make one at 0.05 four hundred times smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.errors import InputError


def per_sample(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``values`` [batch, ...] over the positions where ``mask`` holds: [batch].

    ``mask`` has the shape of ``values`` or lacks its last axes. A sample without a real position
    counts as 0, and stays one of the samples.
    """
    if mask is None:
        return values.flatten(1).mean(1) if values.ndim > 1 else values
    mask = mask.bool()
    while mask.ndim < values.ndim:
        mask = mask.unsqueeze(-1)
    mask = mask.expand_as(values)
    # where, not a product: whatever stands at a padded position (even NaN) must not count.
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    if values.ndim == 1:
        return kept
    return kept.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def wide(tensor: Tensor) -> Tensor:
    """At least fp32: stored signals are fp16, and a softmax over thousands of classes is not."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_temperature(temperature: float, least: float = 0.0) -> None:
    """Refuse a temperature that softens nothing; raise :class:`InputError`."""
    if least and temperature < least:
        raise InputError(
            f"the temperature must be at least {least:g}, not {temperature:g}: what was sampled at"
            f" {least:g} does not stand for a sharper distribution; raise temperature, or store all"
            " of it (top_k: 0)"
        )
    if not 0 < temperature < float("inf"):
        raise InputError(f"the temperature must be above 0 and finite, not {temperature:g}")


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse a student and a teacher that do not speak of the same things."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the student's {what} have the shape {list(student.shape)}, the teacher's"
            f" {list(teacher.shape)}: this loss needs the same"
        )
