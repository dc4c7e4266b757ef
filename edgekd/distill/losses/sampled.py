"""Softened KL against k classes of the teacher's, kept so that they stand for all of them.

Its law beside the usual ones: over the draws of :func:`edgekd.signals.sampled.sample`, value and
gradient have the dense loss's (:func:`edgekd.distill.losses.logits.softened_kl`) as their mean,
and are equal to them where k is the whole vocabulary. A single value may be below 0, and at
equality it is 0 although its gradient is 0 only on average.

A top-k without the rest teaches that all else is impossible (Anshumann et al., "Sparse Logit
Sampling", ACL 2025, arXiv:2503.16870), and with the rest's mass as one more class that nothing is
known of the rest. Here a class that was kept with probability π weighs p / π. Everything is
computed from logarithms: p / π of a tail fits no float16, its logarithm does.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_temperature, per_sample, wide
from edgekd.signals.sampled import PARTITION_TEMPERATURES


def softened_kl_sampled(
    student_logits: Tensor,
    indices: Tensor,
    values: Tensor,
    threshold: Tensor,
    partition: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """T² · Σ p / π · (log p − log q) over the classes that were kept, p and q softened: [batch].

    ``student_logits`` [batch, ..., classes]; ``indices``, ``values`` [batch, ..., k],
    ``threshold`` [batch, ..., 1] and ``partition`` [batch, ..., 2] as
    :func:`edgekd.signals.sampled.sample` makes them. T is at least 1. What was drawn suits T = 1,
    and varies more the higher T is (the mean of its gradient keeps its size, a single one grows). Unbiased at T = 1, 2 and 4; between them the teacher's
    partition is interpolated, which makes all weights of a place too small by one factor.
    """
    check_temperature(temperature, least=1.0)
    student = F.log_softmax(wide(student_logits) / temperature, -1).gather(-1, indices.long())
    values, threshold = wide(values), wide(threshold)
    whole = log_partition(wide(partition), student_logits.shape[-1], temperature)
    teacher = values / temperature - whole.unsqueeze(-1)
    kept = (values - threshold).clamp(max=0)
    divergence = ((teacher - kept).exp() * (teacher - student)).sum(-1)
    return temperature**2 * per_sample(divergence, mask)


def log_partition(partition: Tensor, classes: int, temperature: float) -> Tensor:
    """log Σ p^(1/T) over all classes, interpolated in 1/T: [...].

    It is a convex function of 1/T: 0 at 1, log(classes) at 0, and stored between.
    """
    ends = torch.zeros_like(partition[..., 0])
    points = [(0.0, ends + math.log(classes)), (1.0, ends)]
    points += [(1 / t, partition[..., i]) for i, t in enumerate(PARTITION_TEMPERATURES)]
    points.sort(key=lambda point: point[0])
    at = 1 / temperature
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            share = (at - left) / (right - left)
            return low + share * (high - low)
    raise ValueError(f"1/T = {at} is above 1")


LOSSES = (
    Loss(
        name="softened_kl_sampled",
        term="soft",
        function=softened_kl_sampled,
        reads=(
            "student.logits",
            "teacher.indices",
            "teacher.values",
            "teacher.threshold",
            "teacher.partition",
        ),
        laws=frozenset(Law) - {Law.SCALE, Law.POSITIVE, Law.HEAT},
        source="Anshumann 2025, arXiv:2503.16870",
        least_classes=2,
        least_temperature=1.0,
    ),
)
