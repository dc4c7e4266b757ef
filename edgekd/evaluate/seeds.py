"""The gain of distillation over examples *and* over training seeds.

Student and control are trained with the same S seeds; d_i is the difference of their metrics with
seed i. All of them answered the same examples. One replicate of the hierarchical bootstrap draws
S seeds with replacement, then the examples, and reads

    d*  =  D(w)  +  sqrt(S / (S - 1)) · ( mean of d_i(w) over the drawn seeds  −  D(w) )

where w are the resampling weights of the examples, shared by every model, and D(w) is the mean of
d_i(w) over all S seeds. The factor makes the variance over seeds unbiased: without it a mean of S
drawn from S varies by (S − 1) / S of what it should (Rao and Wu, 1988, rescale the same way). The
interval is the percentile one at 95 %.

Three values say little about their own spread, so the interval is stretched about its value by
t(0.975, ν) / z(0.975), with the degrees of freedom of a sum of two variances (Satterthwaite, 1946):
v_e, of the examples, which many of them tell, and v_s = s² / S, of the seeds, which S − 1 do:

    ν  =  (v_e + v_s)² / ( v_s² / (S − 1) )

Where the examples make up most of the variance this changes nothing; where the seeds do, three of
them deserve 2.2 times the width. With normal errors (``benchmarks/gain_coverage.py``) five seeds
cover the true gain in 94 to 96 % of draws whatever training luck weighs, three in 92 to 95 % (in 82
to 95 % unstretched), and two in 86 to 95 %. The spread over seeds holds some of the luck of the
examples as well, so where these are few it is on the wide side. One seed is an interval over its
examples alone, and says nothing about another training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.evaluate.bootstrap import LEVEL, RESAMPLES, Estimate, _percentile, _sums
from edgekd.tasks.base import Metric


def gain(
    metric: Metric,
    students: Sequence[Sequence[Any]],
    controls: Sequence[Sequence[Any]],
    references: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean over seeds of metric(student) − metric(control), each list decoded per seed.

    One seed gives :func:`edgekd.evaluate.bootstrap.difference`. Raises :class:`InputError` where
    students and controls are not as many, for they are paired by seed.
    """
    if not students or len(students) != len(controls):
        raise InputError(
            f"{len(students)} students and {len(controls)} controls: train both with the same seeds"
        )
    statistics = [metric.statistics(said, references) for said in (*students, *controls)]
    sums, draws = _sums(resamples, seed, *statistics)
    whole = by_seed([metric.value(s) for s in sums])
    return over_seeds(whole, by_seed([metric.value(d) for d in draws]), seed)


def over_seeds(whole: np.ndarray, drawn: np.ndarray, seed: int = 0) -> Estimate:
    """The interval of the mean of ``whole`` [seeds], ``drawn`` [seeds, resamples] of the examples."""
    count, resamples = drawn.shape
    centre = drawn.mean(0)
    if count == 1:
        return _percentile(whole.mean(), centre)
    # A stream of its own: the examples drawn are those of every other interval of the report.
    rng = np.random.default_rng((seed, count))
    picks = rng.integers(0, count, (count, resamples))
    mixed = np.take_along_axis(drawn, picks, 0).mean(0)
    widened = centre + np.sqrt(count / (count - 1)) * (mixed - centre)
    found = _percentile(whole.mean(), widened)
    stretch = _stretch(float(centre.var()), float(whole.var(ddof=1)) / count, count)
    low, high = (
        found.value + stretch * (end - found.value) for end in (found.ci_low, found.ci_high)
    )
    return Estimate(found.value, low, high)


def _stretch(examples: float, seeds: float, count: int) -> float:
    """How much wider than normal an interval must be, from the two parts of its variance."""
    from scipy.stats import norm, t

    if not seeds:
        return 1.0
    freedom = (examples + seeds) ** 2 / (seeds**2 / (count - 1))
    tail = (1 + LEVEL) / 2
    return float(t.ppf(tail, freedom) / norm.ppf(tail))


def by_seed(values: Sequence[Any]) -> np.ndarray:
    """Differences d_i from the values of all students, then of all controls: float64 [seeds, …]."""
    students, controls = np.split(np.asarray(values, np.float64), 2)
    return students - controls
