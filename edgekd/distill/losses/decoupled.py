"""Decoupled knowledge distillation: the true class and the others, each with its own weight.

Zhao, Cui, Song, Qiu & Liang, "Decoupled Knowledge Distillation", CVPR 2022 (arXiv:2203.08679).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.hard import UNLABELLED
from edgekd.distill.losses.reduction import check_same_shape, check_temperature, per_sample, wide
from edgekd.errors import InputError


def decoupled_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · (target_weight · TCKD + non_target_weight · NCKD): [batch].

    TCKD is the KL of (true class, all others); NCKD that among the others alone. Softened KL is
    TCKD + (1 − p_teacher(true)) · NCKD, so a sure teacher hardly teaches the others there.
    ``labels`` is int64 [batch] or [batch, positions]; where unlabelled, the teacher's first class
    stands in. Raises :class:`InputError` on two classes: one other class has no distribution.
    """
    check_temperature(temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    classes = student_logits.shape[-1]
    if classes < 3:
        raise InputError(
            "decoupled KD needs at least three classes: with two, the one non-target class has no"
            " distribution to learn; use softened_kl"
        )
    target = torch.where(labels == UNLABELLED, teacher_logits.argmax(-1), labels)
    student = _split(wide(student_logits) / temperature, target)
    teacher = _split(wide(teacher_logits) / temperature, target)
    among_target, among_others = (
        F.kl_div(s, t, reduction="none", log_target=True).sum(-1)
        for s, t in zip(student, teacher, strict=True)
    )
    value = target_weight * among_target + non_target_weight * among_others
    return temperature**2 * per_sample(value, mask)


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, others) [..., 2], and among the others [..., classes − 1].

    The target is taken out of the tensor rather than masked with a large negative number, which
    overflows in half precision and lets extreme logits leak through.
    """
    is_target = F.one_hot(target, logits.shape[-1]).bool()
    own = logits[is_target].reshape(*logits.shape[:-1], 1)
    others = logits[~is_target].reshape(*logits.shape[:-1], logits.shape[-1] - 1)
    binary = torch.cat([own, others.logsumexp(-1, keepdim=True)], -1)
    return F.log_softmax(binary, -1), F.log_softmax(others, -1)


LOSSES = (
    Loss(
        name="decoupled_kl",
        term="soft",
        function=decoupled_kl,
        reads=("student.logits", "teacher.logits", "labels"),
        laws=frozenset(Law) - {Law.SCALE, Law.UNBIASED},
        source="Zhao 2022, arXiv:2203.08679",
        least_classes=3,
    ),
)
