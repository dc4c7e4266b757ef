"""Regression: the student's numbers against the teacher's, and against the true ones.

Squared error to the teacher's output is the maximum-likelihood loss of a Gaussian around it
(compare Ba & Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, arXiv:1312.6184).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_same_shape, per_sample, wide


def squared_error(student_values: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference, mean over features: [batch].

    Values are [batch], [batch, features] or [batch, positions, features] with ``mask`` [batch,
    positions]; a target without the feature axis is one feature. NaN marks what has no target:
    the mean is over the features that have one.
    """
    if target.ndim == student_values.ndim - 1 and student_values.shape[-1] == 1:
        target = target.unsqueeze(-1)
    check_same_shape(student_values, target, "values")
    known = ~target.isnan()
    difference = wide(student_values) - torch.where(known, target, torch.zeros_like(target))
    if mask is not None:
        known = known & mask.bool().reshape(*mask.shape, *[1] * (known.ndim - mask.ndim))
    return per_sample(difference.square(), known)


_LAWS = frozenset({Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE})

LOSSES = (
    Loss(
        name="regression",
        term="soft",
        function=squared_error,
        reads=("student.logits", "teacher.logits"),
        laws=_LAWS | {Law.ZERO},
        source="Ba 2014, arXiv:1312.6184",
    ),
    Loss(
        name="regression_labels",
        term="hard",
        function=squared_error,
        reads=("student.logits", "labels"),
        laws=_LAWS,
        source="maximum likelihood",
    ),
)
