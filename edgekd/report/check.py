"""The ``checks`` of a bundle in ``report.json``: the same files and rows in other runtimes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Check(BaseModel):
    """Another runtime against the one that the bundle's scores are of.

    Kernels differ, so a few rows may be decided otherwise; this says how many.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    runtime: str  # name and version
    rows: int | None = None
    same: float | None = None  # share of the rows with the same decision
    metric: float | None = None  # the task's main metric, as this runtime has it
    largest_difference: float | None = None  # of one class's probability
    missing: str | None = None  # why it was not asked
