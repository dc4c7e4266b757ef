"""Intervals for what a model keeps of its teacher, paired over examples.

Both models answer the same examples, so most of the luck of the draw is common to the two and
cancels in a ratio or a difference. The resampling therefore draws *examples*, and reads both
models' statistics of those examples with the same weights (the paired bootstrap of Efron and
Tibshirani, 1993, chapter 13; percentile intervals at 95 %).

The intervals cover which examples were drawn. They do not cover the seed of a training run: two
students trained with other seeds may differ by more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.tasks.base import Metric

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 1 << 22  # resampling weights held at once: 32 MiB of float64


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval.

    Where no resample differs (two models right on exactly the same examples) the interval has
    no width; that says that the sample shows no difference, not that none exists.
    """

    value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class McNemar:
    """Examples that only one of two models gets right, and the exact two-sided p-value."""

    only_left: int
    only_right: int
    p_value: float


def estimate(
    metric: Metric,
    decoded: Sequence[Any],
    references: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The metric of one model."""
    (sums,), (draws,) = _sums(resamples, seed, metric.statistics(decoded, references))
    return _percentile(metric.value(sums), metric.value(draws))


def retained(
    metric: Metric,
    decoded: Sequence[Any],
    teacher_decoded: Sequence[Any],
    references: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """metric(model) / metric(teacher) on the same examples.

    For a metric where lower is better (perplexity) the ratio is turned over, so that 1 always
    means kept and less than 1 means lost. Raises :class:`InputError` where the ratio has no
    meaning because its divisor is not above zero.
    """
    sums, draws = _sums(
        resamples,
        seed,
        metric.statistics(decoded, references),
        metric.statistics(teacher_decoded, references),
    )
    model, teacher = (0, 1) if not metric.lower_is_better else (1, 0)
    divisor = float(metric.value(sums[teacher]))
    if not divisor > 0:
        raise InputError(
            f"the teacher's {metric.name} on these {len(references)} examples is"
            f" {float(metric.value(sums[1])):.4g}, so nothing can be said to be kept of it; check"
            " that data and teacher belong together"
        )
    # A resample in which the divisor is not above zero says nothing about the ratio.
    divisors = metric.value(draws[teacher])
    usable = divisors > 0
    ratios = metric.value(draws[model])[usable] / divisors[usable]
    return _percentile(float(metric.value(sums[model])) / divisor, ratios)


def difference(
    metric: Metric,
    left: Sequence[Any],
    right: Sequence[Any],
    references: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """metric(left) - metric(right) on the same examples: a gain, or a drop."""
    sums, draws = _sums(
        resamples,
        seed,
        metric.statistics(left, references),
        metric.statistics(right, references),
    )
    return _percentile(
        metric.value(sums[0]) - metric.value(sums[1]),
        metric.value(draws[0]) - metric.value(draws[1]),
    )


def mcnemar(left_correct: np.ndarray, right_correct: np.ndarray) -> McNemar:
    """Exact test of whether two models are right equally often (McNemar, 1947).

    Takes bool [examples] twice. Only the examples on which the two differ count: under the null
    each of them is a fair coin.
    """
    from scipy.stats import binomtest

    only_left = int((left_correct & ~right_correct).sum())
    only_right = int((~left_correct & right_correct).sum())
    discordant = only_left + only_right
    p_value = float(binomtest(only_left, discordant).pvalue) if discordant else 1.0
    return McNemar(only_left, only_right, p_value)


def _sums(
    resamples: int, seed: int, *statistics: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sum each model's statistics over the examples and over each resample of them.

    Returns float64 [k] per model and float64 [resamples, k] per model, all models under the same
    resampling weights.
    """
    joined = np.concatenate(statistics, axis=1)
    examples = len(joined)
    if not examples:
        raise InputError("there are no examples to evaluate on")
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, joined.shape[1]))
    chunk = max(1, _CHUNK // examples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each example was drawn: one bincount over all resamples of the chunk.
        picks = rng.integers(0, examples, (size, examples)) + np.arange(size)[:, None] * examples
        weights = np.bincount(picks.ravel(), minlength=size * examples).reshape(size, examples)
        draws[start : start + size] = weights @ joined
    edges = np.cumsum([part.shape[1] for part in statistics])[:-1]
    return np.split(joined.sum(0), edges), np.split(draws, edges, axis=1)


def _percentile(value: Any, draws: np.ndarray) -> Estimate:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))
