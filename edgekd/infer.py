"""Run a torch model over raw rows: what the teacher is asked, and how a fresh student is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.preprocess import Row
from edgekd.progress import track

if TYPE_CHECKING:
    from edgekd.models import LoadedModel


def forward(
    model: LoadedModel, rows: Sequence[Row], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """One batch: the named ``outputs`` as float32 arrays [rows, …]."""
    import torch

    feeds = {k: torch.from_numpy(v) for k, v in model.preprocessor.encode(rows).items()}
    with torch.inference_mode():
        said = model.model(**feeds)
    return {name: getattr(said, name).float().numpy() for name in outputs}


def predict(
    model: LoadedModel, rows: Sequence[Row], outputs: Sequence[str], what: str, batch: int = 32
) -> dict[str, np.ndarray]:
    """Every row, those of similar length together; arrays in the rows' order."""
    lengths = getattr(model.preprocessor, "lengths", None)
    order = np.argsort(lengths(rows), kind="stable") if lengths else np.arange(len(rows))
    parts: list[dict[str, np.ndarray]] = []
    with track(what, len(rows)) as advance:
        for start in range(0, len(rows), batch):
            indices = order[start : start + batch]
            parts.append(forward(model, [rows[i] for i in indices], outputs))
            advance(len(indices))
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in outputs}


def label_into(
    store: Any, model: LoadedModel, rows: Sequence[Row], outputs: Sequence[str], what: str
) -> int:
    """Store the teacher's signals of the rows that ``store`` lacks; return how many those were."""
    from edgekd.signals.keys import keys
    from edgekd.signals.label import label

    names = keys(rows)
    seen = 0
    with track(what, len(store.missing(names))) as advance:

        def progress(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        def run_teacher(batch: Sequence[Row]) -> Mapping[str, Any]:
            return forward(model, batch, outputs)

        return label(rows, names, run_teacher, store, progress=progress)
