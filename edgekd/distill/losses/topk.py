"""Softened KL against the teacher's k likeliest classes and the mass of the rest.

The k classes and "any other" are k + 1 events whose distribution is known, so no mass is lost:
unlike a renormalised top-k, the student is never taught that all else is impossible (compare
Anshumann et al., "Sparse Logit Sampling", ACL 2025, arXiv:2503.16870, on that bias).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_temperature, per_sample, wide
from edgekd.signals.topk import REST_TEMPERATURES


def softened_kl_topk(
    student_logits: Tensor,
    indices: Tensor,
    values: Tensor,
    rest: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · KL over the events (each of the k classes, any other class): [batch].

    ``student_logits`` [batch, ..., classes]; ``indices``, ``values`` [batch, ..., k] and ``rest``
    [batch, ..., 3] as :func:`edgekd.signals.topk.topk` makes them. Exact at T = 1, 2 and 4;
    between them the rest's mass is interpolated, which needs T >= 1.
    """
    check_temperature(temperature, least=1.0)
    logits, index = wide(student_logits) / temperature, indices.long()
    others = logits.shape[-1] - index.shape[-1]
    top = logits.gather(-1, index)
    beyond = logits.scatter(-1, index, -torch.inf).logsumexp(-1, keepdim=True)
    student = F.log_softmax(torch.cat([top, beyond], -1), -1)
    mass = rest_mass(wide(rest), others, temperature).unsqueeze(-1)
    teacher = F.log_softmax(torch.cat([wide(values) / temperature, mass], -1), -1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * per_sample(divergence, mask)


def rest_mass(rest: Tensor, others: int, temperature: float) -> Tensor:
    """log Σ p^(1/T) over the ``others`` classes, interpolated in 1/T: [...].

    It is a convex function of 1/T, stored at three points; the fourth, 1/T = 0, is log(others).
    """
    points = [(0.0, torch.full_like(rest[..., 0], math.log(others)))]
    points += sorted((1 / t, rest[..., i]) for i, t in enumerate(REST_TEMPERATURES))
    at = 1 / temperature
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            share = (at - left) / (right - left)
            return low + share * (high - low)
    raise ValueError(f"1/T = {at} lies beyond the stored temperatures")


LOSSES = (
    Loss(
        name="softened_kl_topk",
        term="soft",
        function=softened_kl_topk,
        reads=("student.logits", "teacher.indices", "teacher.values", "teacher.rest"),
        laws=frozenset(Law) - {Law.SCALE},
        source="Anshumann 2025, arXiv:2503.16870",
        least_classes=3,
    ),
)
