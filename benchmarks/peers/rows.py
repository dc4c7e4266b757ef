"""Rows and encoded inputs in a file that every environment reads: NumPy alone.

``i.name`` holds the array ``name`` of row ``i``: the layout of ``edgekd.bench.worker``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write raw rows (text, image, audio) or encoded inputs, one mapping each."""
    arrays = {f"{i}.{k}": np.asarray(v) for i, row in enumerate(rows) for k, v in row.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]


def read(file: Path) -> list[dict[str, np.ndarray]]:
    """The rows of ``file`` in order."""
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(".")
            found.setdefault(int(index), {})[name] = arrays[key]
    return [found[index] for index in sorted(found)]
