"""A profile's own budget against a measurement: what ``edgekd bench`` decides.

A projection leaves its line unchecked. Only on request does its range decide, and then as a range:
passed or failed where all of it lies on one side of the limit, otherwise inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekd.bench.measurement import Measurement
from edgekd.profiles import Profile

Status = Literal["passed", "failed", "inconclusive", "unchecked"]


@dataclass(frozen=True)
class Line:
    """One limit. Latencies in ms, sizes and memory in bytes; ``range`` is a projection's."""

    bundle: str
    profile: str
    name: str
    limit: float
    value: float | None
    status: Status
    range: tuple[float, float] | None = None
    excludes: str | None = None  # the error that the range does not allow for

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    bundle: str, profile: Profile, measurement: Measurement, *, gate_projections: bool = False
) -> list[Line]:
    """Every line that the profile states; only what was measured there decides.

    ``gate_projections`` lets a projected range decide as well.
    """
    row = measurement.to_dict(raw=False)
    latency = row.get("latency_ms") or {}
    projected = (latency["low"], latency["high"]) if "low" in latency else None
    stated: list[tuple[str, float | None, float | None, tuple[float, float] | None]] = [
        ("size", profile.budget.size, measurement.exact["size_bytes"], None),
        ("latency", profile.budget.latency, latency.get("p50"), projected),
        ("load", profile.budget.load, row.get("load_ms"), None),
        ("memory", profile.budget.memory, row.get("peak_memory_bytes"), None),
        ("memory cap", profile.memory_cap_bytes, row.get("peak_memory_bytes"), None),
    ]
    return [
        Line(
            bundle,
            profile.name,
            name,
            limit,
            value,
            _status(limit, value, span if gate_projections else None),
            span,
            measurement.projection.excludes if span and measurement.projection else None,
        )
        for name, limit, value, span in stated
        if limit is not None
    ]


def exit_code(lines: Sequence[Line], strict: bool) -> int:
    """1 where a line failed, 3 where one is open (under ``strict``: or unchecked), otherwise 0."""
    statuses = {line.status for line in lines}
    if "failed" in statuses:
        return 1
    return 3 if statuses & ({"inconclusive", "unchecked"} if strict else {"inconclusive"}) else 0


def _status(limit: float, value: float | None, span: tuple[float, float] | None) -> Status:
    if value is not None:
        return "passed" if value <= limit else "failed"
    if span is None:
        return "unchecked"
    low, high = span
    return "passed" if high <= limit else "failed" if low > limit else "inconclusive"
