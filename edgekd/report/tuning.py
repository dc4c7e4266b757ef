"""The ``tuning`` block of ``report.json``: the trials of a search of hyper-parameters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class TuningTrial(BaseModel):
    """One setting that was tried; trial 0 is the recipe's own."""

    model_config = _STRICT

    number: int
    values: dict[str, Any]
    state: Literal["complete", "pruned", "failed", "running"]
    score: float | None = None  # on the held-out rows, after the last epoch that it trained
    curve: list[float] = []  # after each epoch; with keep: best the best so far
    seconds: float | None = None
    failure: str | None = None


class Tuning(BaseModel):
    """What ``tune`` searched and chose, on rows that are neither trained on nor test rows."""

    model_config = _STRICT

    metric: str
    lower_is_better: bool = False
    held_out: int  # rows that chose
    rows: int  # rows that a trial trained on
    epochs: int | None = None  # the most that a trial trained
    space: dict[str, dict[str, Any]]
    trials: list[TuningTrial]
    chosen: int
    values: dict[str, Any]
    score: float  # of the chosen trial: the best of many, so a little flattered
    score_ci: tuple[float, float]  # 95 %
    gain: float  # over trial 0, on the same rows
    gain_ci: tuple[float, float]
    importance: dict[str, float] = {}  # empty where too few trials say anything
