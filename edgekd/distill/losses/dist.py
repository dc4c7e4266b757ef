"""DIST: match the teacher's rankings, of classes within a sample and of samples within a class.

Huang, You, Wang, Qian & Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022
(arXiv:2205.10536).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_same_shape, check_temperature, per_sample, wide


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · (inter · (1 − ρ over classes) + intra · (1 − ρ over samples)): [batch].

    ρ is Pearson's correlation of softened probabilities. The second one, a mean over classes,
    couples all real positions of the batch: every sample carries the batch's value, and a batch
    of one has none. With two classes the first one is constant and only the second teaches.
    T² is the paper's; a correlation does not shrink as T grows, so here it makes the term larger.
    """
    check_temperature(temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    student = F.softmax(wide(student_logits) / temperature, -1)
    teacher = F.softmax(wide(teacher_logits) / temperature, -1)
    inter = per_sample(_distance(student, teacher, -1), mask)
    keep = torch.ones_like(student[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    if int(keep.sum()) > 1:
        intra = _distance(student[keep], teacher[keep], 0).mean()
    else:
        intra = inter.new_zeros(())
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def _distance(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """1 − Pearson's correlation, as half the squared distance of the unit vectors.

    The two are equal; this one is also exactly zero where both sides are the same constant.
    """
    units = [
        F.normalize(side - side.mean(dim, keepdim=True), dim=dim, eps=1e-8)
        for side in (left, right)
    ]
    return 0.5 * (units[0] - units[1]).square().sum(dim)


LOSSES = (
    Loss(
        name="dist",
        term="soft",
        function=dist,
        reads=("student.logits", "teacher.logits"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.PADDING, Law.SHIFT, Law.FINITE}),
        source="Huang 2022, arXiv:2205.10536",
        least_classes=2,
    ),
)
