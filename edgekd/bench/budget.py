"""A profile's own budget against a measurement: what ``edgekd bench`` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekd.bench.measurement import Measurement
from edgekd.profiles import Profile


@dataclass(frozen=True)
class Line:
    """One limit. Latencies in ms, sizes and memory in bytes; ``value`` is None where unchecked."""

    bundle: str
    profile: str
    name: str
    limit: float
    value: float | None
    status: Literal["passed", "failed", "unchecked"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(bundle: str, profile: Profile, measurement: Measurement) -> list[Line]:
    """Every line that the profile states; only what was measured there decides."""
    row = measurement.to_dict(raw=False)
    latency = row.get("latency_ms") or {}
    stated: list[tuple[str, float | None, float | None]] = [
        ("size", profile.budget.size, measurement.exact["size_bytes"]),
        ("latency", profile.budget.latency, latency.get("p50")),
        ("load", profile.budget.load, row.get("load_ms")),
        ("memory", profile.budget.memory, row.get("peak_memory_bytes")),
        ("memory cap", profile.memory_cap_bytes, row.get("peak_memory_bytes")),
    ]
    return [
        Line(bundle, profile.name, name, limit, value, _status(limit, value))
        for name, limit, value in stated
        if limit is not None
    ]


def exit_code(lines: Sequence[Line], strict: bool) -> int:
    """1 where a line failed, 3 where one is unchecked under ``strict``, otherwise 0."""
    statuses = {line.status for line in lines}
    if "failed" in statuses:
        return 1
    return 3 if strict and "unchecked" in statuses else 0


def _status(limit: float, value: float | None) -> Literal["passed", "failed", "unchecked"]:
    if value is None:
        return "unchecked"
    return "passed" if value <= limit else "failed"
