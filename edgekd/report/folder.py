"""The ``folders`` block of ``report.json``: what ships with several precisions in it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Folder(BaseModel):
    """One directory with the model files of several bundles, byte for byte.

    So nothing in it is scored or timed again: the figures of each are those of its bundle's row.
    """

    model_config = ConfigDict(extra="forbid")

    path: str  # relative to the run directory
    target: str
    bundle_bytes: int
    holds: dict[str, str]  # what the runtime asks by, such as a dtype -> path of the bundle
    left_out: list[str] = []  # bundles whose place another has
