"""What a search tries, what comes out, and how it is scored.

Nothing here knows what a bundle is: candidates are names, scores are functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Candidate:
    """A precision for the whole model but for the groups ``kept`` in float."""

    precision: str
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """``latency_ms`` is None where the candidate could not be timed, and ``why`` then says why."""

    latency_ms: float | None
    size_bytes: int
    why: str | None = None


@dataclass(frozen=True)
class Budget:
    """What a bundle may cost; a limit of None is no limit.

    ``max_drop`` is the absolute loss of the main metric against the float candidate on the selection
    split, as counted and as far as it is not ruled out. An untimed candidate is inside no limit of
    the latency.
    """

    max_drop: float
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None


@dataclass(frozen=True)
class Trial:
    """One candidate and what came out: a row of the report.

    ``failure`` says why a candidate could not be made or measured; its figures are then None.
    ``drop`` is what was counted, ``expected_drop`` its expectation and ``drop_bound`` the upper bound
    of that, where the scores can say.
    ``latency_ms`` is None too where nothing timed it. ``refused``: it was made, and its outputs
    were too far off to keep. ``slower`` and ``larger`` compare with the rung tried just above it.
    ``note`` says how a finalist fared side by side, or why there is no latency.
    """

    candidate: Candidate
    accuracy: float | None = None
    drop: float | None = None
    latency_ms: float | None = None
    size_bytes: int | None = None
    within: bool = False
    slower: bool = False
    larger: bool = False
    failure: str | None = None
    refused: bool = False
    note: str | None = None
    expected_drop: float | None = None
    drop_bound: float | None = None

    @property
    def worst_drop(self) -> float:
        """The drop that is held against the budget: what was counted, or what is not ruled out."""
        assert self.drop is not None
        return self.drop if self.drop_bound is None else max(self.drop, self.drop_bound)


@dataclass(frozen=True)
class Sensitivity:
    """The damage that ``precision`` does while ``group`` alone is back in float.

    The less remains, the more that group costs. Where that settled nothing, ``alone`` is the
    damage while all but ``group`` are in float. None stands for outputs that are not numbers.
    """

    precision: str
    group: str
    remaining: float | None
    alone: float | None = None


@dataclass(frozen=True)
class Choice:
    """``chosen`` is None where nothing meets the budget; ``nearest`` is then the closest miss."""

    chosen: Trial | None
    nearest: Trial | None
    trials: tuple[Trial, ...]
    ranking: tuple[Sensitivity, ...]


class Expected(Protocol):
    """A drop on average and its upper bound."""

    @property
    def value(self) -> float: ...
    @property
    def bound(self) -> float: ...


class Interval(Protocol):
    """An estimate with its 95 % interval, as a benchmark gives it."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


# (of what, against what) -> the ratio of their median latencies.
Ratio = Callable[[Candidate, Candidate], Interval]


@dataclass(frozen=True)
class Scores:
    """How candidates are scored. Whatever one raises ends that candidate and not the search.

    ``accuracy``: the main metric on the selection split, higher is better. ``cost``: measured
    latency and size. ``damage``: how far the outputs are from the float candidate's, lower is
    better; finer than an accuracy, which moves in steps of one example, so it ranks the groups.
    ``race`` times candidates side by side; None where nothing can be timed. Where it raises, the
    times taken alone decide. ``expected``: the expectation of the drop, where the scores can say.
    """

    accuracy: Callable[[Candidate], float]
    cost: Callable[[Candidate], Cost]
    damage: Callable[[Candidate], float]
    race: Callable[[Sequence[Candidate]], Ratio] | None = None
    expected: Callable[[Candidate], Expected | None] = lambda candidate: None
