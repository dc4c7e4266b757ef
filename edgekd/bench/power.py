"""What the gate's own rule can tell: its power, counted exactly and not by a formula for a z-test.

The rule sees of each pair only on which side of the tolerance it lies. So the chance of every
verdict, over all planned looks and the confirmation, follows from two shares alone: of pairs
above the upper edge and of pairs below the lower one. Which share the rule needs for its power
is thus a property of the plan; only turning a share into a size of effect takes the noise: its
spread between the quartiles, beside which the needed shares lie, and near them a bell's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgekd.bench.statistics import at_least

if TYPE_CHECKING:
    from edgekd.bench.sequential import Plan

POWER = 0.8  # of the effects that are printed: seen in eight gates of ten
_MOST = 100_000  # pairs; beyond it "more pairs" is no advice


def detectable(sd: float, plan: Plan) -> float:
    """The smallest slowdown, as a fraction, that the plan calls ``regressed`` with 80 % power.

    It lies beyond the tolerance by as much as the sign test, its looks and the confirmation need
    at noise of standard deviation ``sd`` of one pair's log-ratio. Infinite where no look can.
    """
    beyond = _deviates(_rule(plan))[0]
    return math.expm1(plan.upper + beyond * sd) if math.isfinite(beyond) else math.inf


def floor(sd: float, plan: Plan) -> float:
    """The smallest tolerance at which the plan calls equal bundles ``unchanged`` 4 times in 5."""
    inside = _deviates(_rule(plan))[1]
    return math.expm1(inside * sd) if math.isfinite(inside) else math.inf


def chances(above: float, below: float, plan: Plan) -> tuple[float, float]:
    """P(``regressed`` and confirmed), P(``unchanged``) of one of the plan's metrics.

    ``above`` and ``below`` are the shares of pairs beyond the tolerance's upper and lower edge.
    Holm's correction is taken at its strictest, as if this metric's p-value were the smallest.
    """
    inside = max(0.0, 1 - above - below)
    state = np.ones((1, 1))  # P of so many pairs above (rows) and below (columns), undecided
    regressed = unchanged = 0.0
    for look, error in zip(plan.looks, plan.errors, strict=True):
        while len(state) <= look:
            grown = np.zeros((len(state) + 1, len(state) + 1))
            grown[:-1, :-1] += inside * state
            grown[1:, :-1] += above * state
            grown[:-1, 1:] += below * state
            state = grown
        count = np.arange(look + 1)
        decisive = _decisive(look, error / len(plan.metrics))
        worse, better = count >= decisive, count >= decisive
        near = look - count >= _decisive(look, error)
        regressed += state[worse].sum()
        unchanged += state[np.ix_(~worse & near, ~better & near)].sum()
        state[worse] = 0.0
        state[:, better] = 0.0
        state[np.ix_(near, near)] = 0.0
    return regressed * _confirmed(above, plan.confirm), unchanged


def pairs_needed(room: float, sd: float, error: float) -> int | None:
    """Pairs at which one look sees a median ``room`` from the tolerance; None beyond 100,000."""
    from scipy.special import bdtrc, ndtr

    share = float(ndtr(room / sd)) if sd > 0 else float(room > 0)
    counts, decisive = _schedule(error)
    enough = bdtrc(decisive - 1, counts, share) >= POWER
    return int(counts[enough][0]) if enough.any() else None


@cache
def _schedule(error: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of pairs up to the most, and of each the count that decides a look."""
    from scipy.stats import binom

    counts = np.unique(np.geomspace(1, _MOST, 400).astype(int))
    return counts, binom.isf(error, counts, 0.5) + 1


@cache
def _decisive(pairs: int, error: float) -> int:
    """The fewest pairs on one side that an exact sign test takes for more than half."""
    return next((k for k in range(pairs + 1) if at_least(k, pairs) <= error), pairs + 1)


def _confirmed(above: float, pairs: int) -> float:
    """P(the median of fresh pairs lies above); an even number's tie counts as half, which is less
    than it is worth where more than half lie above."""
    from scipy.stats import binom

    half = pairs // 2
    tie = 0.0 if pairs % 2 else float(binom.pmf(half, pairs, above)) / 2
    return float(binom.sf(half, pairs, above)) + tie


def _rule(plan: Plan) -> Plan:
    """``plan`` without what the shares do not depend on: gates of other seeds share one count."""
    return replace(plan, tolerance=0.05, seed=0, resamples=1)


@cache
def _deviates(plan: Plan) -> tuple[float, float]:
    """How many standard deviations beyond the tolerance, and inside it, give the power."""
    from scipy.stats import norm

    beyond = _share(lambda share: chances(share, 0.0, plan)[0])
    inside = _share(lambda share: chances(1 - share, 1 - share, plan)[1])
    return float(norm.ppf(beyond)), float(norm.ppf(inside))


def _share(chance: Callable[[float], float]) -> float:
    """The share of pairs on the right side at which ``chance`` reaches the power; 1 if never."""
    low, high = 0.5, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high
