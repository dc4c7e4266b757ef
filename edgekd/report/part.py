"""What every part of ``report.json`` is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Interval = Annotated[tuple[float, float], Field(description="95 % interval: low, high")]


class Part(BaseModel):
    """A misspelt field is an error: a number must not get lost on its way into the report."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
