"""Attention transfer: the student looks where the teacher looks.

Wang et al., "MiniLM: Deep Self-Attention Distillation", NeurIPS 2020 (arXiv:2002.10957);
Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv:1612.03928).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.hidden import LayerMap
from edgekd.distill.losses.reduction import check_same_shape, per_sample, wide

_LEAST = 1e-9  # a student that never looks where the teacher does has a large gradient, not ∞


def attention_transfer(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    layers: LayerMap = ((-1, -1),),
    mask: Tensor | None = None,
) -> Tensor:
    """KL(teacher's attention ‖ student's), summed over keys, mean over heads and layers: [batch].

    Each layer is a probability [batch, heads, queries, keys] (``output_attentions`` of the eager
    attention); ``mask`` is [batch, positions]. Where the numbers of heads differ, both are
    averaged over their heads first.
    """
    values = []
    for left, right in layers:
        mine, goal = wide(student[left]), wide(teacher[right])
        if mine.shape[1] != goal.shape[1]:
            mine, goal = mine.mean(1, keepdim=True), goal.mean(1, keepdim=True)
        check_same_shape(mine, goal, "attentions")
        divergence = goal * (goal.clamp(min=_LEAST).log() - mine.clamp(min=_LEAST).log())
        if mask is not None:
            keys = mask.bool()[:, None, None, :]
            divergence = torch.where(keys, divergence, torch.zeros_like(divergence))
        # [batch, heads, queries] -> [batch, queries, heads], which the mask of positions fits
        values.append(per_sample(divergence.sum(-1).transpose(1, 2), mask))
    return torch.stack(values).mean(0)


LOSSES = (
    Loss(
        name="attention",
        term="attention",
        function=attention_transfer,
        reads=("student.attentions", "teacher.attentions"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE}),
        source="Wang 2020, arXiv:2002.10957",
        mask="attention_mask",
    ),
)
