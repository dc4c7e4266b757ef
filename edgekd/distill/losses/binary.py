"""Multi-label classification: every class is its own yes or no.

The softened form treats each class as a distribution of two events (Hinton 2015,
arXiv:1503.02531, applied per class).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_same_shape, check_temperature, per_sample, wide


def binary_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · KL(σ(teacher / T) ‖ σ(student / T)), summed over classes: [batch].

    It is the softened binary cross-entropy less the teacher's own entropy, so that it is zero
    where both agree; the gradient is the same. As T → ∞ it tends to ``logit_mse / 8``.
    """
    check_temperature(temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    student, teacher = wide(student_logits) / temperature, wide(teacher_logits) / temperature
    divergence = torch.zeros_like(student)
    for sign in (1, -1):
        log_teacher, log_student = F.logsigmoid(sign * teacher), F.logsigmoid(sign * student)
        divergence = divergence + log_teacher.exp() * (log_teacher - log_student)
    return temperature**2 * per_sample(divergence.sum(-1), mask)


def binary_cross_entropy(
    student_logits: Tensor, labels: Tensor, mask: Tensor | None = None
) -> Tensor:
    """−log of the probability of each class's 0 or 1, summed over classes: [batch].

    ``labels`` is float [batch, classes]; NaN marks what is not labelled and adds nothing.
    """
    labelled = ~labels.isnan()
    target = torch.where(labelled, labels, torch.zeros_like(labels)).to(wide(student_logits).dtype)
    values = F.binary_cross_entropy_with_logits(wide(student_logits), target, reduction="none")
    return per_sample(torch.where(labelled, values, torch.zeros_like(values)).sum(-1), mask)


LOSSES = (
    Loss(
        name="binary_kl",
        term="soft",
        function=binary_kl,
        reads=("student.logits", "teacher.logits"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE, Law.HEAT}),
        source="Hinton 2015, arXiv:1503.02531",
    ),
    Loss(
        name="binary_cross_entropy",
        term="hard",
        function=binary_cross_entropy,
        reads=("student.logits", "labels"),
        laws=frozenset({Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE}),
        source="maximum likelihood",
    ),
)
