"""MiniLM relations: how positions relate among the queries, the keys and the values.

Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation", Findings of ACL 2021
(arXiv:2012.15828); the value-value relation of MiniLM (arXiv:2002.10957) is one of its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import per_sample, wide
from edgekd.errors import InputError, nearest

PARTS = ("q", "k", "v")
PAIRS = tuple(f"{left}-{right}" for left in PARTS for right in PARTS)


def relation_kl(
    student: Tensor,
    teacher: Tensor,
    heads: int = 12,
    pairs: Sequence[str] = ("q-q", "k-k", "v-v"),
    back_only: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """KL of relations, summed over positions, mean over relation heads and pairs: [batch].

    ``student`` and ``teacher`` are one layer's queries, keys and values with all heads joined,
    [batch, positions, 3, width]. The relation of a pair is softmax(A Bᵀ / √d) with A and B cut
    into ``heads`` relation heads of width d, so neither the widths nor the numbers of attention
    heads need be the same. "q-k" with the attention's own heads is the attention itself. With
    ``back_only``, for decoders, a position is related to itself and those before it.
    Raises :class:`InputError` for an unknown pair, or a width that ``heads`` does not divide.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise InputError(
            f"relations need the same positions: the student has {list(student.shape[:-1])}, the"
            f" teacher {list(teacher.shape[:-1])}; use one tokenizer for both"
        )
    values = []
    for pair in pairs:
        if pair not in PAIRS:
            raise InputError(f"unknown relation '{pair}'{nearest(pair, PAIRS)}")
        mine = _relation(student, pair, heads, mask, back_only)
        goal = _relation(teacher, pair, heads, mask, back_only)
        divergence = F.kl_div(mine, goal, reduction="none", log_target=True).sum(-1)
        values.append(per_sample(divergence.transpose(1, 2), mask))
    return torch.stack(values).mean(0)


def _relation(qkv: Tensor, pair: str, heads: int, mask: Tensor | None, back_only: bool) -> Tensor:
    """Log-softmaxed relation of one pair: [batch, heads, positions, positions]."""
    batch, positions, _, width = qkv.shape
    if heads < 1 or width % heads:
        raise InputError(f"{heads} relation heads do not divide the width {width}")
    left, right = (
        wide(qkv[:, :, PARTS.index(part)])
        .reshape(batch, positions, heads, width // heads)
        .transpose(1, 2)
        for part in pair.split("-")
    )
    scores = left @ right.transpose(2, 3) / (width // heads) ** 0.5
    if mask is not None:
        # A finite floor: −∞ on both sides would make 0 · (∞ − ∞).
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], -1e30)
    if back_only:
        scores = scores.masked_fill(later(scores), -1e30)
    return F.log_softmax(scores, -1)


def later(scores: Tensor) -> Tensor:
    """Which keys come after their query: bool [queries, keys] for scores [..., queries, keys]."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)


LOSSES = (
    Loss(
        name="relation",
        term="relation",
        function=relation_kl,
        reads=("student.qkv", "teacher.qkv"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE}),
        source="Wang 2021, arXiv:2012.15828",
        mask="attention_mask",
    ),
)
