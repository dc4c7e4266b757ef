"""The comparison's arithmetic: rounds and answers in, rows and verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.bench.statistics import Interval, median_interval
from edgekd.evaluate.bootstrap import mcnemar

LIMIT = 1.03  # of the upper end of the ratio's interval
ERROR = 0.05  # of a McNemar test


@dataclass(frozen=True)
class Latency:
    """``ratio`` is ours / theirs with its 95 % interval; medians are in ms."""

    ratio: Interval
    ours_ms: float
    theirs_ms: float


@dataclass(frozen=True)
class Verdict:
    """One peer's artifact against ours: every clause, and what they rest on."""

    latency: Latency
    accuracy: tuple[float, float]  # ours, theirs
    p_value: float  # McNemar, exact, two-sided
    size: tuple[int, int]  # bytes, ours and theirs

    @property
    def fast(self) -> bool:
        return self.latency.ratio.high <= LIMIT

    @property
    def accurate(self) -> bool:
        return self.accuracy[0] >= self.accuracy[1] or self.p_value >= ERROR

    @property
    def small(self) -> bool:
        return self.size[0] <= self.size[1]

    @property
    def ahead(self) -> tuple[str, ...]:
        """In what ours is better, beyond the interval where there is one."""
        better = {
            "latency": self.latency.ratio.high < 1,
            "size": self.size[0] < self.size[1],
            "accuracy": self.accuracy[0] > self.accuracy[1] and self.p_value < ERROR,
        }
        return tuple(name for name, holds in better.items() if holds)

    @property
    def holds(self) -> bool:
        return self.fast and self.accurate and self.small and bool(self.ahead)


def latency(rounds: Sequence[Mapping[str, Sequence[float]]], ours: str, theirs: str) -> Latency:
    """Ratio of median latencies; a round's own is the median over its turns.

    A turn's two medians come from the same rows within the same second.
    """
    logs = [np.median(np.log(np.divide(r[ours], r[theirs]))) for r in rounds]
    found = median_interval(logs)
    ratio = Interval(*(float(np.exp(v)) for v in (found.value, found.low, found.high)))
    medians = {
        name: float(np.median([np.median(r[name]) for r in rounds])) for name in (ours, theirs)
    }
    return Latency(ratio, medians[ours], medians[theirs])


def judge(timed: Latency, ours: np.ndarray, theirs: np.ndarray, size: tuple[int, int]) -> Verdict:
    """``ours`` and ``theirs`` say of each test row whether it was answered rightly: bool [rows]."""
    return Verdict(
        latency=timed,
        accuracy=(float(ours.mean()), float(theirs.mean())),
        p_value=mcnemar(ours, theirs).p_value,
        size=size,
    )
