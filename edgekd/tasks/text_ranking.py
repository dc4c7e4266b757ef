"""Text ranking: a cross-encoder scores how well a passage answers a query.

Rows of one query are its candidates. Metrics and agreement are per query, so that intervals
resample queries and not pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Preprocessor, Row
from edgekd.tasks import retrieval
from edgekd.tasks.base import Metric, Task


class TextRanking(Task):
    """``logits`` [batch, 1]: the score. ``label`` is a relevance, 0 or 1, or graded."""

    name = "text-ranking"
    outputs = ("logits",)
    has_classes = False
    group = ("text",)
    signal_dtype = "float32"  # one number a row
    methods = ("regression", "binary_kl")
    hard_loss = "binary_cross_entropy"
    auto_class = "AutoModelForSequenceClassification"
    default_columns: ClassVar = {
        "text": ("text", "query", "question", "sentence1"),
        "text_pair": ("text_pair", "passage", "document", "candidate", "sentence2"),
        "label": ("label", "relevance", "score", "labels"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return []

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"num_labels": 1}

    def collect(
        self, outputs: Mapping[str, np.ndarray], rows: Sequence[Row], preprocessor: Preprocessor
    ) -> dict[str, np.ndarray]:
        """The scores, and ``query`` int64 [rows], which is the same for one query's candidates."""
        digests = [hashlib.blake2b(str(row["text"]).encode(), digest_size=8) for row in rows]
        query = [int.from_bytes(digest.digest(), "big", signed=True) for digest in digests]
        return {"logits": outputs["logits"], "query": np.array(query, np.int64)}

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return (
            _metric("mrr", retrieval.reciprocal_rank),
            _metric("ndcg@10", retrieval.discounted_gain),
        )

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """(query, score) of each row."""
        queries, scores = outputs["query"].tolist(), outputs["logits"].reshape(-1).tolist()
        return list(zip(queries, scores, strict=True))

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        """(query's text, relevance) of each row."""
        found = []
        for row in rows:
            try:
                grade = float(row["label"])
            except ValueError:
                grade = -1.0
            if not 0 <= grade < float("inf"):
                raise InputError(
                    f"the relevance {row['label']!r} is no number of 0 or more; a label says how"
                    " well the passage answers the query, 0 for not at all"
                )
            found.append((row["text"], grade))
        return found

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        """Grades as a share of the highest: float32 [1] per row."""
        highest = max((grade for _, grade in references), default=1.0) or 1.0
        return [np.array([grade / highest], np.float32) for _, grade in references]

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """Both put the same passage first, per query."""
        groups = _groups([query for query, _ in left])
        ours, theirs = _scores(left), _scores(right)
        return np.array([ours[g].argmax() == theirs[g].argmax() for g in groups], bool)

    def correct(self, decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """The passage that stands first is relevant, per query."""
        scores, grades = _scores(decoded), _scores(references)
        groups = _groups([query for query, _ in references])
        return np.array([grades[g][scores[g].argmax()] > 0 for g in groups], bool)


def _metric(name: str, of_query: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        scores, grades = _scores(decoded), _scores(references)
        groups = _groups([query for query, _ in references])
        return retrieval.per_query([of_query(scores[g], grades[g]) for g in groups])

    return Metric(name, statistics, retrieval.mean)


def _scores(pairs: Sequence[tuple[Any, float]]) -> np.ndarray:
    return np.array([value for _, value in pairs], np.float64)


def _groups(queries: Sequence[Any]) -> list[np.ndarray]:
    """The rows of each query, in the order in which queries are first seen."""
    found: dict[Any, list[int]] = {}
    for row, query in enumerate(queries):
        found.setdefault(query, []).append(row)
    return [np.array(rows) for rows in found.values()]
