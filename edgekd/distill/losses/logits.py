"""Losses on logits: softened KL and mean squared error.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv:1503.02531);
Kim, Oh, Kim, Cho & Yun, "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in
Knowledge Distillation", IJCAI 2021 (arXiv:2105.08919).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import (
    check_same_shape,
    check_temperature,
    per_sample,
    wide,
)


def softened_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), summed over classes: [batch].

    Logits are [batch, classes] or [batch, positions, classes] with ``mask`` [batch, positions].
    T² keeps the gradient's size as T grows: as T → ∞ the loss tends to
    ``logit_mse / (2 · classes)`` of logits centred over the classes.
    """
    check_temperature(temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    student = F.log_softmax(wide(student_logits) / temperature, -1)
    teacher = F.log_softmax(wide(teacher_logits) / temperature, -1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * per_sample(divergence, mask)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the logits, summed over classes: [batch].

    Beside other terms it wants a small weight: it grows with the number of classes and with the
    square of the logits, where a cross-entropy does not.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    return per_sample((wide(student_logits) - wide(teacher_logits)).square().sum(-1), mask)


LOSSES = (
    Loss(
        name="softened_kl",
        term="soft",
        function=softened_kl,
        reads=("student.logits", "teacher.logits"),
        laws=frozenset(Law) - {Law.SCALE, Law.UNBIASED},
        source="Hinton 2015, arXiv:1503.02531",
        least_classes=2,
    ),
    Loss(
        name="logit_mse",
        term="soft",
        function=logit_mse,
        reads=("student.logits", "teacher.logits"),
        laws=frozenset(Law) - {Law.SCALE, Law.SHIFT, Law.UNBIASED, Law.HEAT},
        source="Kim 2021, arXiv:2105.08919",
    ),
)
