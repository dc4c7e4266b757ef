"""Text regression: one number per text or pair, such as a rating or a similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.tasks.base import Metric, Task

CLOSE = 0.1  # of the range of one side's numbers: two models that differ by less agree


class TextRegression(Task):
    """``logits`` [batch, 1]: the number itself."""

    name = "text-classification/regression"
    outputs = ("logits",)
    has_classes = False
    signal_dtype = "float32"  # a year or a price is no number of three digits
    methods = ("regression",)
    hard_loss = "regression_labels"
    auto_class = "AutoModelForSequenceClassification"
    default_columns: ClassVar = {
        "text": ("text", "sentence", "sentence1", "content", "query"),
        "label": ("label", "score", "rating", "value", "labels"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return []

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return spearman(), pearson(), squared_error()

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        return outputs["logits"][:, 0].astype(float).tolist()

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        found = []
        for row in rows:
            try:
                value = float(row["label"])
            except ValueError:
                value = float("nan")
            if not np.isfinite(value):
                raise InputError(
                    f"the label {row['label']!r} is no number, and regression needs one"
                )
            found.append(value)
        return found

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        return [np.array([value], np.float32) for value in references]

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """They differ by at most a tenth of the range of ``right``."""
        theirs = np.asarray(right, np.float64)
        return np.abs(np.asarray(left) - theirs) <= CLOSE * np.ptp(theirs)


def pearson() -> Metric:
    return Metric("pearson", lambda a, b: _moments(np.asarray(a), np.asarray(b)), _correlation)


def spearman() -> Metric:
    """Pearson's correlation of ranks; a resample keeps the ranks of the whole sample."""
    return Metric("spearman", lambda a, b: _moments(_ranks(a), _ranks(b)), _correlation)


def squared_error() -> Metric:
    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        errors = (np.asarray(decoded, np.float64) - np.asarray(references)) ** 2
        return np.stack([errors, np.ones_like(errors)], 1)

    value = lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1)  # noqa: E731
    return Metric("mse", statistics, value, lower_is_better=True)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs: float64 [values]."""
    _, index, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index]


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Centred on the whole sample, or the sums of squares would cancel.
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    return np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], 1)


def _correlation(sums: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy, count = np.moveaxis(sums, -1, 0)
    count = np.maximum(count, 1)
    spread = np.sqrt(np.maximum((xx - x * x / count) * (yy - y * y / count), 0))
    return np.where(spread > 1e-12, (xy - x * y / count) / np.maximum(spread, 1e-12), 0.0)
