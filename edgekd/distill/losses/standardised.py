"""Logit standardisation: the student matches the shape of the teacher's logits, not their scale.

Sun, Ren, Li, Wang & Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024
(arXiv:2403.01427).
"""

from __future__ import annotations

from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.logits import softened_kl
from edgekd.distill.losses.reduction import wide
from edgekd.errors import InputError


def standardise(logits: Tensor) -> Tensor:
    """Z-score over the classes: zero mean, unit (population) standard deviation."""
    centred = wide(logits) - wide(logits).mean(-1, keepdim=True)
    # rsqrt of a sum with an epsilon has a gradient where all logits are equal; std has none.
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-12).rsqrt()


def standardised_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`softened_kl` of standardised logits: [batch].

    Raises :class:`InputError` on two classes: standardised, two logits are always +1 and −1, and
    nothing but the sign would be left to learn.
    """
    if student_logits.shape[-1] < 3:
        raise InputError(
            "standardised logits of two classes are always +1 and -1, so nothing is left to learn;"
            " use softened_kl"
        )
    return softened_kl(standardise(student_logits), standardise(teacher_logits), temperature, mask)


LOSSES = (
    Loss(
        name="standardised_kl",
        term="soft",
        function=standardised_kl,
        reads=("student.logits", "teacher.logits"),
        laws=frozenset(Law) - {Law.UNBIASED},
        source="Sun 2024, arXiv:2403.01427",
        least_classes=3,
    ),
)
