"""Spans: two distributions over the positions of a text, where an answer starts and ends.

The softened form is Hinton's (2015, arXiv:1503.02531) over positions instead of classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_same_shape, check_temperature, wide

_STARTS, _ENDS = 1, 2


def span_kl(
    student_start: Tensor,
    student_end: Tensor,
    teacher_start: Tensor,
    teacher_end: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · KL over positions, mean of start and end: [batch]. Logits are [batch, positions]."""
    check_temperature(temperature)
    values = []
    for student, teacher in ((student_start, teacher_start), (student_end, teacher_end)):
        check_same_shape(student, teacher, "positions")
        mine, goal = (_chances(side, mask, temperature) for side in (student, teacher))
        values.append(F.kl_div(mine, goal, reduction="none", log_target=True).sum(-1))
    return temperature**2 * (values[0] + values[1]) / 2


def span_cross_entropy(
    student_start: Tensor, student_end: Tensor, labels: Tensor, mask: Tensor | None = None
) -> Tensor:
    """−log of the chance of the true start and end, mean of the two: [batch].

    ``labels`` int64 [batch, positions] holds flags: 1 where the answer starts, 2 where it ends; a
    row without a flag adds nothing.
    """
    total = torch.zeros(len(labels), dtype=wide(student_start).dtype, device=labels.device)
    for student, flag in ((student_start, _STARTS), (student_end, _ENDS)):
        there = (labels & flag) > 0
        there = there & mask.bool() if mask is not None else there
        loss = torch.where(there, -_chances(student, mask), torch.zeros_like(total)[:, None])
        total = total + loss.sum(-1) / there.sum(-1).clamp(min=1)
    return total / 2


def _chances(logits: Tensor, mask: Tensor | None, temperature: float = 1.0) -> Tensor:
    scores = wide(logits) / temperature
    if mask is not None:
        # A finite floor: −∞ on both sides would make 0 · (∞ − ∞).
        scores = scores.masked_fill(~mask.bool(), -1e30)
    return F.log_softmax(scores, -1)


LOSSES = (
    Loss(
        name="span_kl",
        term="soft",
        function=span_kl,
        reads=(
            "student.start_logits",
            "student.end_logits",
            "teacher.start_logits",
            "teacher.end_logits",
        ),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE, Law.HEAT}),
        source="Hinton 2015, arXiv:1503.02531",
    ),
    Loss(
        name="span_cross_entropy",
        term="hard",
        function=span_cross_entropy,
        reads=("student.start_logits", "student.end_logits", "labels"),
        laws=frozenset({Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE}),
        source="maximum likelihood",
    ),
)
