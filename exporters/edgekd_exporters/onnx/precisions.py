"""The ladder of ONNX Runtime: every precision, and what it can do, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """One rung.

    ``tolerance``: relative error with which a bundle may leave, against torch for the float
    rungs and against the float bundle for the others. ``repeats``: relative error allowed when
    a shipped bundle is run again, on whatever processor. ``calibrated`` rungs want rows.
    """

    summary: str
    tolerance: float
    repeats: float
    calibrated: bool = False


PRECISIONS = {
    "fp32": Precision("float, standard operators", 1e-4, 1e-4),
    "int8": Precision("int8 matrices and tables, activation ranges at run time", 0.5, 0.05),
}
