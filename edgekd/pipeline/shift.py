"""Does what is served look like what was trained on? A warning in the report, never a verdict.

Training and served rows are compared by the teacher's features, because the teacher is what every
figure in the report is relative to: rows it was never shown are where the student was not, either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import InputError
from edgekd.evaluate.shift import energy_test, nearest
from edgekd.infer import accelerated, pooled
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Done
from edgekd.preprocess import Row
from edgekd.progress import track

if TYPE_CHECKING:
    import torch

    from edgekd.models import LoadedModel

ROWS = 1000  # of each side at most: enough to see a shift, seconds to compute
FARTHEST = 3  # served rows that the report names
_BATCH = 32
_QUOTED = 80  # characters of a row
CODE = (
    "edgekd.data",
    "edgekd.infer",
    "edgekd.preprocess",
    "edgekd.evaluate.shift",
    "edgekd.pipeline.context",
    "edgekd.pipeline.shift",
)


def check(context: Context) -> None:
    """Refuse served rows that cannot be compared, before anything is trained."""
    if context.recipe.data.served is not None and len(context.served) < 2:
        raise InputError(
            "data.served has one row, which cannot be compared with the training data; give more"
        )


def examine(context: Context, labelled: Done) -> Done | None:
    """Test the served rows against the training rows; None where the recipe names none."""
    if context.recipe.data.served is None:
        return None

    def make(scratch: Path) -> Mapping[str, Any]:
        train, served = (
            draw(rows, context.recipe.seed) for rows in (context.train, context.served)
        )
        ours, theirs = (features(context.teacher, rows) for rows in (train, served))
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise InputError(
                "the teacher's features of the training or the served rows are not finite, so they"
                " cannot be compared; drop data.served, or look at the teacher"
            )
        found = energy_test(ours, theirs, seed=context.recipe.seed)
        distances = nearest(ours, theirs) / _spacing(ours)
        farthest = np.argsort(-distances, kind="stable")[:FARTHEST]
        return {
            "statistic": found.statistic,
            "p_value": found.p_value,
            "rows": found.rows,
            "found": found.found,
            "farthest": [
                {"row": _quote(served[i], int(i)), "distance": float(distances[i])}
                for i in farthest
            ],
        }

    served = context.identity(context.recipe.data.served)
    depends = {"labelled": labelled, "served": served, "seed": context.recipe.seed}
    return context.run.stage("shift", depends, CODE, make)


def draw(rows: Sequence[Row], seed: int) -> list[Row]:
    """At most ``ROWS`` of them, by lot."""
    if len(rows) <= ROWS:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), ROWS, replace=False)
    return [rows[i] for i in np.sort(chosen)]


def features(model: LoadedModel, rows: Sequence[Row]) -> np.ndarray:
    """The last hidden state, averaged over its real positions, or the logits: [rows, width]."""
    import torch

    lengths = getattr(model.preprocessor, "lengths", None)
    order = np.argsort(lengths(rows), kind="stable") if lengths else np.arange(len(rows))
    parts = []
    with track("compare served rows", len(rows)) as advance, accelerated(model):
        device = next(model.model.parameters()).device
        for start in range(0, len(rows), _BATCH):
            batch = [rows[i] for i in order[start : start + _BATCH]]
            encoded = model.preprocessor.encode(batch)
            feeds = {name: torch.from_numpy(v).to(device) for name, v in encoded.items()}
            with torch.inference_mode():
                said = model.model(**feeds, output_hidden_states=True)
            parts.append(_features(said, feeds.get("attention_mask")).float().cpu().numpy())
            advance(len(batch))
    return np.concatenate(parts)[np.argsort(order)]


def _features(said: Any, mask: torch.Tensor | None) -> torch.Tensor:
    states = getattr(said, "hidden_states", None)
    if not states:
        return said.logits.flatten(1)
    last = states[-1]
    if last.ndim == 4:  # feature maps [rows, channels, height, width]
        return last.flatten(2).mean(-1)
    return pooled(last, mask)


def _spacing(features: np.ndarray) -> float:
    """How far a training row usually is from the training row nearest to it."""
    others = [
        nearest(np.delete(features, i, axis=0), features[i : i + 1])[0]
        for i in range(0, len(features), max(1, len(features) // 100))
    ]
    return max(float(np.median(others)), float(np.finfo(np.float32).tiny))


def _quote(row: Row, index: int) -> str:
    words = row.get("tokens") or str(row.get("text") or f"row {index + 1}").split()
    text = " ".join(words)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"
