"""Passed, failed or inconclusive: one row per budget line, and the exit code they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgekd.errors import InputError, nearest
from edgekd.report import units

Status = Literal["passed", "failed", "inconclusive"]
LineStatus = Literal["passed", "failed", "inconclusive", "unchecked"]
EXIT_CODES: dict[Status, int] = {"passed": 0, "failed": 1, "inconclusive": 3}


@dataclass(frozen=True)
class Budget:
    """One thing that a budget may limit."""

    title: str
    direction: Literal["at least", "at most"]
    format: Callable[[float | None], str]


BUDGETS = {
    "retained": Budget("Retained of the teacher", "at least", lambda v: units.percent(v, 2)),
    "size": Budget("Model size", "at most", units.size),
    "latency_p50": Budget("Median latency", "at most", units.duration_ms),
    "speedup": Budget("Speed-up over the teacher", "at least", units.times),
    "peak_memory": Budget("Peak memory", "at most", units.size),
    "load": Budget("Load time", "at most", units.duration_ms),
}


class Line(BaseModel):
    """One budget line. ``limit``, ``value`` and ``range`` are ratios, bytes or milliseconds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    limit: float
    value: float | None
    status: LineStatus
    range: tuple[float, float] | None = None  # a projection, which has no value
    evidence: str | None = None
    profile: str | None = None
    bundle: str | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """``Model size is 7.1 MB, at most 6 MB was allowed``."""
        budget = BUDGETS[self.name]
        where = f" ({self.profile})" if self.profile else ""
        asked = f"{budget.direction} {units.short(budget.format(self.limit))} was asked"
        if self.range is not None:
            low, high = map(budget.format, self.range)
            return f"{budget.title}{where} is projected from {low} to {high}, {asked}"
        if self.value is None:
            return f"{budget.title}{where} is unknown, {asked}"
        return f"{budget.title}{where} is {budget.format(self.value)}, {asked}"


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    status: Status
    lines: list[Line] = []
    reason: str

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def check(
    name: str,
    limit: float,
    value: float | tuple[float, float] | None,
    *,
    evidence: str | None = None,
    profile: str | None = None,
    bundle: str | None = None,
    reason: str | None = None,
    interval: tuple[float, float] | None = None,
    gate_projections: bool = False,
) -> Line:
    """Hold one value against its limit.

    The point estimate decides; with ``interval`` given, a limit inside the interval is
    inconclusive instead. None is unchecked, and so is a pair: that is a projected range, and a
    projection does not gate. Under ``gate_projections`` it does: passed or failed where the whole
    range lies on one side of the limit, otherwise inconclusive.

    Raises :class:`InputError` for an unknown budget line.
    """
    if name not in BUDGETS:
        known = list(BUDGETS)
        raise InputError(f"unknown budget line '{name}'{nearest(name, known)}; known: {known}")
    status: LineStatus
    projected = value if isinstance(value, tuple) else None
    if isinstance(value, tuple):
        status, reason = "unchecked", reason or "a projection does not decide"
        if gate_projections:
            status, reason = _side(name, limit, value)
        value, evidence = None, "projected"
    elif value is None:
        status, reason = "unchecked", reason or "not obtained"
    elif interval and interval[0] <= limit <= interval[1]:
        status, reason = "inconclusive", reason or "the limit lies inside the 95 % interval"
    else:
        kept = value >= limit if BUDGETS[name].direction == "at least" else value <= limit
        status = "passed" if kept else "failed"
    return Line(
        name=name,
        limit=limit,
        value=value,
        status=status,
        range=projected,
        evidence=evidence,
        profile=profile,
        bundle=bundle,
        reason=reason,
    )


def _side(name: str, limit: float, span: tuple[float, float]) -> tuple[LineStatus, str | None]:
    """On which side of the limit a projected range lies, where all of it does."""
    kept = [v >= limit if BUDGETS[name].direction == "at least" else v <= limit for v in span]
    if all(kept):
        return "passed", None
    if not any(kept):
        return "failed", None
    return "inconclusive", "the limit lies inside the projected range"


def verdict(lines: Sequence[Line], *, strict: bool = False) -> Verdict:
    """Join the lines: one failure fails, else one inconclusive line leaves it open.

    An unchecked line leaves the verdict open only under ``strict``; the reason names it anyhow.
    """
    failed = [line for line in lines if line.status == "failed"]
    unsure = [line for line in lines if line.status == "inconclusive"]
    unchecked = [line for line in lines if line.status == "unchecked"]
    if failed:
        status: Status = "failed"
        reason = "; ".join(line.sentence for line in failed)
    elif unsure or (strict and unchecked):
        status = "inconclusive"
        open_lines = unsure + (unchecked if strict else [])
        reason = "; ".join(f"{line.sentence}: {line.reason}" for line in open_lines)
    else:
        status = "passed"
        held = len(lines) - len(unchecked)
        reason = "no budget was set" if not lines else f"{held} of {len(lines)} budget lines held"
        if unchecked:
            reason += "; unchecked: " + ", ".join(
                BUDGETS[line.name].title.lower() + (f" on {line.profile}" if line.profile else "")
                for line in unchecked
            )
    return Verdict(status=status, lines=list(lines), reason=reason)
