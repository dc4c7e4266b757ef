"""The ``searches`` block of ``report.json``: what ``precision: auto`` tried and chose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class Trial(BaseModel):
    """One candidate that a precision search tried; figures are None where ``failure`` says why."""

    model_config = _STRICT

    precision: str
    kept: list[str] = []  # groups left in float
    accuracy: float | None = None  # the main metric on the selection split
    drop: float | None = None  # against the float bundle, absolute
    expected_drop: float | None = None  # by how far the scores of a class are moved
    drop_bound: float | None = None  # what of that is not ruled out: one-sided, 95 %
    latency_ms: float | None = None
    size_bytes: int | None = None
    within: bool = False
    slower: bool = False  # than the rung tried above it
    larger: bool = False
    failure: str | None = None
    refused: bool = False  # made, but its outputs were too far off to keep
    note: str | None = None  # how it compared side by side, or why it has no latency


class Sensitivity(BaseModel):
    """Damage that remains while one group is back in float: the less, the more it costs."""

    model_config = _STRICT

    precision: str
    group: str
    remaining: float | None = None
    alone: float | None = None  # where that settled nothing: the damage that the group does alone


class Timing(BaseModel):
    """What a search timed its candidates on, or in ``note`` why on nothing."""

    model_config = _STRICT

    evidence: Literal["measured", "reference"] | None = None
    note: str


class Search(BaseModel):
    """What ``precision: auto`` tried for one target; ``missed`` says by what nothing fitted."""

    model_config = _STRICT

    target: str
    max_drop: float
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    rows: int | None = None  # of the selection that it chose on
    timing: Timing
    bundle: str  # path of the bundle that it chose, or of the closest to the budget
    chosen: Trial | None
    nearest: Trial | None = None
    missed: str | None = None
    trials: list[Trial]
    ranking: list[Sensitivity] = []
