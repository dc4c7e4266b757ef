"""The precisions of the Core ML target: one table that everything else reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rung:
    """One precision.

    ``weights`` are the compressions applied in order (``lut4`` after ``prune`` is the joint
    form); ``tolerance`` is the largest relative error with which a bundle may leave (beyond 1 its
    outputs say nothing of the float bundle's), and ``repeats`` the one with which its own golden
    outputs must repeat on another machine.
    """

    weights: tuple[str, ...] = ()
    activations: bool = False
    compute: Literal["fp16", "fp32"] = "fp16"
    system: str = "iOS16"
    tolerance: float = 1.0
    repeats: float = 2e-2


PRECISIONS: dict[str, Rung] = {
    "fp32": Rung(compute="fp32", tolerance=1e-4, repeats=1e-4),
    "fp16": Rung(tolerance=2e-2),
    "int8": Rung(("int8",), tolerance=0.5),
    "lut8": Rung(("lut8",), tolerance=0.5),
    "lut6": Rung(("lut6",), tolerance=0.5),
    "lut4": Rung(("lut4",)),
    "pruned": Rung(("prune",)),
    "w8a8": Rung(("int8",), activations=True, system="iOS17", tolerance=0.5),
    "int4": Rung(("int4",), system="iOS18"),
    "pruned-int8": Rung(("prune", "int8"), system="iOS18"),
    "pruned-lut4": Rung(("prune", "lut4"), system="iOS18"),
    "lut4-int8": Rung(("lut4", "table8"), system="iOS18"),
    "a8w4": Rung(("lut4", "table8"), activations=True, system="iOS18"),
}


def available(system: str) -> tuple[str, ...]:
    """The precisions that a deployment target can run."""
    return tuple(name for name, rung in PRECISIONS.items() if newer(system, rung.system))


def newer(system: str, least: str) -> bool:
    """Whether ``system`` (``iOS17``) is at least ``least``."""
    return int(system.removeprefix("iOS")) >= int(least.removeprefix("iOS"))
