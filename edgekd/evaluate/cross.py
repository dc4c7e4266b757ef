"""A second opinion on a bundle: its own rows through another runtime that loads the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.tasks.base import Task


@dataclass(frozen=True)
class Opinion:
    """What another runtime said about every row, in the form and order of the bundle's outputs.

    ``outputs`` is None where it was not asked, and ``missing`` then says why in one line.
    """

    runtime: str  # name and version
    outputs: Mapping[str, np.ndarray] | None = None
    missing: str | None = None


def compare(
    task: Task,
    labels: Sequence[str],
    outputs: Mapping[str, np.ndarray],
    references: Sequence[Any],
    opinion: Opinion,
) -> dict[str, Any]:
    """One row of the report's ``checks``: how far the ``opinion`` is from a bundle's ``outputs``.

    ``same`` is the share of rows with the same decision, ``metric`` the other runtime's own main
    metric, ``largest_difference`` that of one class's probability (None without classes).
    """
    if opinion.outputs is None:
        return {"runtime": opinion.runtime, "missing": opinion.missing}
    ours, theirs = (task.decode(said, labels) for said in (outputs, opinion.outputs))
    said = [task.decisions(arrays, references) for arrays in (outputs, opinion.outputs)]
    mine, other = (found[0] if found else None for found in said)
    apart = None if mine is None or other is None else float(np.abs(mine - other).max())
    return {
        "runtime": opinion.runtime,
        "rows": len(references),
        "same": float(task.agree(ours, theirs).mean()),
        "metric": task.metrics(labels)[0](theirs, references),
        "largest_difference": apart,
    }
