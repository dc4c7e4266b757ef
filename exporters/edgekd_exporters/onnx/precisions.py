"""The ladder of ONNX Runtime: every precision, and what it can do, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "dynamic", "static", "blocks", "half"]
Calibration = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True)
class Rung:
    """What a precision does to a graph, whatever it runs on.

    ``tolerance``: relative error with which a bundle may leave, against torch for ``fp32`` and
    against the fp32 bundle for the others. ``repeats``: relative error allowed when a shipped
    bundle runs again, on whatever processor.
    """

    kind: Kind
    summary: str
    tolerance: float
    repeats: float
    fused: bool = False  # attention as one com.microsoft node
    calibration: Calibration | None = None  # wants rows
    block_tables: bool = True  # lookup tables lie in blocks as matrices do; else in int8
    half: bool = False  # what is left in float becomes half precision


@dataclass(frozen=True)
class Precision(Rung):
    """``bits`` is the weights' width, None the widest that is exact here (see ``cpu.py``)."""

    bits: int | None = None


def _static(method: Calibration) -> Precision:
    summary = f"int8 with activation ranges from calibration rows ({method})"
    return Precision("static", summary, 0.5, 0.05, calibration=method)


PRECISIONS = {
    "fp32": Precision("float", "float, standard operators", 1e-4, 1e-4),
    "fp32-fused": Precision("float", "float, attention fused", 1e-4, 1e-4, fused=True),
    "int8": Precision("dynamic", "int8 with activation ranges at run time", 0.5, 0.05),
    "int8-fused": Precision("dynamic", "the same, attention fused", 0.5, 0.05, fused=True),
    "int8-reduced": Precision("dynamic", "the same, weights of 7 bits", 0.5, 0.05, bits=7),
    "int8-static": _static("minmax"),
    "int8-static-percentile": _static("percentile"),
    "int8-static-entropy": _static("entropy"),
    "int8-weights": Precision("blocks", "8-bit weights in blocks", 0.5, 0.05, bits=8),
    "int4-weights": Precision("blocks", "4-bit weights in blocks", 1.0, 0.05, bits=4),
    "fp16": Precision("half", "half precision, for GPU providers", 2e-2, 2e-2),
    "fp16-fused": Precision("half", "the same, attention fused", 2e-2, 2e-2, fused=True),
}
