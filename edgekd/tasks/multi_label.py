"""Multi-label text classification: every class is its own yes or no, said at one half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError, nearest
from edgekd.preprocess import Row
from edgekd.tasks.base import Metric, Task


class MultiLabelClassification(Task):
    """``logits`` [batch, classes]; a class is given where its sigmoid is above one half."""

    name = "text-classification/multi-label"
    outputs = ("logits",)
    answer = "labels"
    exclusive = False
    methods = ("binary_kl", "logit_mse")
    hard_loss = "binary_cross_entropy"
    auto_class = "AutoModelForSequenceClassification"
    default_columns: ClassVar = {
        "text": ("text", "sentence", "content", "query"),
        "labels": ("labels", "label", "categories", "classes"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return sorted({label for row in rows for label in row.get("labels") or ()})

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        return {**super().head(labels), "problem_type": "multi_label_classification"}

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return micro_f1(), macro_f1(len(labels))

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """A tuple of 0 and 1 per row, one for each class."""
        return [tuple(row) for row in (outputs["logits"] > 0).astype(int).tolist()]

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        for row in rows:
            for label in row["labels"]:
                if label not in labels:
                    raise InputError(
                        f"the data has the label {label!r}, which the model does not know"
                        f"{nearest(label, list(labels))}; its labels are {', '.join(labels[:8])}"
                        f"{', …' if len(labels) > 8 else ''}"
                    )
        return [tuple(int(label in row["labels"]) for label in labels) for row in rows]

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        return [np.array(reference, np.float32) for reference in references]

    def decisions(
        self, outputs: Mapping[str, np.ndarray], references: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """No or yes, for every class of every row: [rows · classes, 2] and [rows · classes]."""
        logits = outputs["logits"].astype(np.float64).reshape(-1)
        yes = np.exp(-np.logaddexp(0, -logits))
        return np.stack([1 - yes, yes], 1), np.asarray(references, np.int64).reshape(-1)


def _counts(decoded: Sequence[Any], references: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Hits, and what was said plus what is true: float64 [rows, classes] both."""
    said, true = np.asarray(decoded, np.float64), np.asarray(references, np.float64)
    return said * true, said + true


def micro_f1() -> Metric:
    """F1 = 2tp / (said + true) over all classes at once."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        return np.stack([part.sum(1) for part in _counts(decoded, references)], 1)

    return Metric("micro_f1", statistics, lambda s: 2 * s[..., 0] / np.maximum(s[..., 1], 1))


def macro_f1(classes: int) -> Metric:
    """Mean of each class's F1; a class that is neither true nor said anywhere does not count."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        return np.concatenate(_counts(decoded, references), 1)

    def value(sums: np.ndarray) -> np.ndarray:
        hits, total = sums[..., :classes], sums[..., classes:]
        present = total > 0
        return (2 * hits / np.maximum(total, 1)).sum(-1) / np.maximum(present.sum(-1), 1)

    return Metric("macro_f1", statistics, value)
