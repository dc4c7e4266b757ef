"""What a measurement is: raw samples, the summary they support, and what kind of evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgekd.bench import statistics
from edgekd.bench.projection import Projection
from edgekd.bench.settings import Setting

_IN_ROW = ("p90", "p95", "p99", "samples")  # of the summary; the rest are details
Evidence = Literal["measured", "reference", "published", "projected"]


@dataclass(frozen=True)
class Round:
    """What one fresh process gave; times in ms, energy in joules per inference."""

    load_ms: float
    first_ms: float
    samples_ms: Sequence[float]
    joules: float | None = None
    steal_percent: float | None = None  # of CPU time, taken by the hypervisor meanwhile


@dataclass(frozen=True)
class Measurement:
    """One bundle under one profile: summary, raw samples and where they come from.

    ``evidence`` is ``measured`` only for the target's own runtime on the profile's own hardware;
    ``why`` says what it is otherwise. ``rounds`` is empty where nothing could be timed.
    """

    profile: str
    evidence: Evidence
    why: str | None
    rounds: tuple[Round, ...]
    rows: int
    peak_memory_bytes: int | None
    memory_why: str | None  # there is no peak
    memory_cap_bytes: int | None
    exact: Mapping[str, Any]
    session: Mapping[str, Any]
    environment: Mapping[str, Any]
    protocol: Mapping[str, Any]
    projection: Projection | None = None
    concurrency: tuple[Mapping[str, Any], ...] = ()  # one entry per number of clients
    settings: tuple[Setting, ...] = ()  # the table over threads and devices
    memory_kind: str | None = None  # what kind of mark the peak is

    @property
    def samples(self) -> np.ndarray:
        """Every timed inference, in ms, in order."""
        return np.concatenate([np.asarray(r.samples_ms) for r in self.rounds])

    @property
    def p50(self) -> statistics.Interval | None:
        """Median of the per-process medians, in ms, with its interval."""
        if not self.rounds:
            return None
        return statistics.rounds_interval(
            [np.asarray(r.samples_ms) for r in self.rounds], self.rows
        )

    @property
    def undisturbed(self) -> float:
        """Median of the fastest process, in ms: neighbours only ever add time."""
        return min(float(np.median(r.samples_ms)) for r in self.rounds)

    @property
    def over_memory_cap(self) -> bool | None:
        """Whether the peak is above the profile's cap; None where either is unknown."""
        if self.peak_memory_bytes is None or self.memory_cap_bytes is None:
            return None
        return self.peak_memory_bytes > self.memory_cap_bytes

    def to_dict(self, raw: bool = True) -> dict[str, Any]:
        """The bench row of ``report.json``; ``raw`` keeps every sample in its ``details``.

        A number that was not taken on the profile's own hardware never stands in the row itself:
        what this machine did in its place is ``details["host"]``.
        """
        numbers = self._numbers()
        measured = self.evidence == "measured"
        details: dict[str, Any] = {
            "exact": dict(self.exact),
            "session": dict(self.session),
            "environment": dict(self.environment),
            "protocol": dict(self.protocol),
            "memory_cap_bytes": self.memory_cap_bytes,
            "over_memory_cap": self.over_memory_cap,
            "peak_memory_missing": self.memory_why,
            "peak_memory_kind": self.memory_kind,
            "concurrency": [
                {key: value for key, value in load.items() if raw or key != "samples_ms"}
                for load in self.concurrency
            ],
        }
        if self.rounds:
            summary = statistics.latency_summary(self.samples)
            details["percentiles"] = {k: v for k, v in summary.items() if k not in _IN_ROW}
            joules = [r.joules for r in self.rounds if r.joules is not None]
            details["joules_per_inference"] = float(np.median(joules)) if joules else None
            if not measured:
                details["host"] = numbers
        if raw:
            details["rounds"] = [asdict(r) for r in self.rounds]
        row = {
            "profile": self.profile,
            "evidence": self.evidence,
            "runtime": f"{self.session.get('runtime')} {self.session.get('version')}",
            "threads": self.session.get("threads"),
            "inputs": f"{self.rows} rows as served, batch 1",
            "missing": self.why,
            "settings": [row.to_dict() for row in self.settings],
            "details": details,
        }
        if self.projection:
            row["latency_ms"] = {"low": self.projection.low, "high": self.projection.high}
            row["method"] = f"{self.projection.method}; calibrated by {self.projection.calibration}"
            details["projection"] = asdict(self.projection)
        return row | numbers if measured else row

    def _numbers(self) -> dict[str, Any]:
        """What was timed and weighed on this machine."""
        interval = self.p50
        if interval is None:
            return {"peak_memory_bytes": self.peak_memory_bytes}
        summary = statistics.latency_summary(self.samples)
        return {
            "latency_ms": {
                "p50": interval.value,
                "p50_ci": [interval.low, interval.high],
                **{name: summary[name] for name in _IN_ROW},
            },
            "load_ms": float(np.median([r.load_ms for r in self.rounds])),
            "first_ms": float(np.median([r.first_ms for r in self.rounds])),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True)
class Comparison:
    """Several bundles measured together, round by round."""

    measurements: Mapping[str, Measurement]

    def __getitem__(self, name: str) -> Measurement:
        return self.measurements[name]

    def ratio(self, above: str, below: str) -> statistics.Interval | None:
        """p50 of ``above`` over p50 of ``below``; None where either was not timed."""
        pair = [self.measurements[above], self.measurements[below]]
        if not all(m.rounds for m in pair):
            return None
        samples = [[np.asarray(r.samples_ms) for r in m.rounds] for m in pair]
        return statistics.ratio_interval(samples[0], samples[1], (pair[0].rows, pair[1].rows))
