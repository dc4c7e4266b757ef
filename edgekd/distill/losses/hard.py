"""Losses on true labels: what a student learns without a teacher.

A row or position without a label (−100, or NaN where labels are numbers) adds nothing and still
counts as a sample: the mean stays a mean over all samples, however the batch is split.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import per_sample, wide

UNLABELLED = -100


def cross_entropy(student_logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """−log softmax(student)[label]: [batch].

    Logits are [batch, classes] or [batch, positions, classes]; ``labels``, int64 without the last
    axis, are class numbers or ``UNLABELLED``. The mean is over labelled positions.
    """
    logits = wide(student_logits)
    labelled = labels != UNLABELLED
    if mask is not None:
        labelled = labelled & mask.bool()
    values = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        torch.where(labelled, labels, torch.zeros_like(labels)).reshape(-1),
        reduction="none",
    ).reshape(labels.shape)
    return per_sample(values, labelled)


LOSSES = (
    Loss(
        name="cross_entropy",
        term="hard",
        function=cross_entropy,
        reads=("student.logits", "labels"),
        laws=frozenset({Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.SHIFT, Law.FINITE}),
        source="maximum likelihood",
        least_classes=2,
    ),
)
