"""Feature extraction: one embedding per text, for search and similarity.

The pooling and the unit length are part of the deployed graph, so an app takes dot products of
what it gets. The student keeps its own width: embeddings of two models are never compared with
each other, only what each finds near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.tasks import retrieval
from edgekd.tasks.base import Metric, Task

NEIGHBOURS = 10  # of the teacher: what counts as relevant where rows have no labels
_LEAST = 1e-3  # of a norm; below what a layer norm gives, and no fp16 subnormal
_CHUNK = 512  # queries at a time


class FeatureExtraction(Task):
    """``embedding`` [batch, width], of unit length.

    With a label, a row is a query and all others of its label are what it should find (MRR,
    nDCG@10). Without labels the teacher's ten nearest rows are, and there is no control.
    """

    name = "feature-extraction"
    outputs = ("embedding",)
    has_classes = False
    has_head = False
    needs_answers = False
    methods = ("embedding_cosine", "embedding_mse", "embedding_contrastive", "similarity_kl")
    hard_loss = "supervised_contrastive"
    auto_class = "AutoModel"
    default_columns: ClassVar = {
        "text": ("text", "sentence", "content", "query"),
        "label": ("label", "labels", "category", "intent", "class"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return []

    def read(self, said: Any, config: Any, mask: Any = None) -> dict[str, Any]:
        states = said.last_hidden_state
        if getattr(config, "sentence_pooling", "mean") == "cls":
            pooled = states[:, 0]
        elif mask is None:
            pooled = states.mean(1)
        else:
            weight = mask.to(states.dtype)[:, :, None]
            # Divided before it is summed: a sum over a long text would not fit fp16.
            pooled = (states * (weight / weight.sum(1, keepdim=True))).sum(1)
        norm = (pooled * pooled).sum(-1, keepdim=True).sqrt()
        return {"embedding": pooled / norm.clamp(min=_LEAST)}

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return (
            _metric("mrr", retrieval.reciprocal_rank),
            _metric("ndcg@10", retrieval.discounted_gain),
        )

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        return list(outputs["embedding"].astype(np.float32))

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        return [row.get("label") for row in rows]

    def truth(
        self, references: Sequence[Any], teacher_outputs: Mapping[str, np.ndarray] | None
    ) -> Sequence[Any]:
        """Labels, or where there are none the rows that are nearest to each for the teacher."""
        if any(reference is not None for reference in references) or teacher_outputs is None:
            return references
        found = []
        for scores in _similarities(list(teacher_outputs["embedding"])):
            found.append(np.argsort(-scores, kind="stable")[: min(NEIGHBOURS, len(scores) - 1)])
        return found

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        index = {label: i for i, label in enumerate(sorted(set(references)))}
        return [index[label] for label in references]

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """The nearest other row is the same."""
        return _nearest(left) == _nearest(right)

    def correct(self, decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """The nearest other row is relevant."""
        grades = _grades(references)
        return np.array([grades(i)[j] > 0 for i, j in enumerate(_nearest(decoded))], bool)


def _metric(name: str, of_query: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    """A metric over queries; the corpus of each is all the other rows, resampled or not."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        grades = _grades(references)
        others = np.ones(len(decoded), bool)
        values = []
        for i, scores in enumerate(_similarities(decoded)):
            others[i] = False
            values.append(of_query(scores[others], grades(i)[others]))
            others[i] = True
        return retrieval.per_query(values)

    return Metric(name, statistics, retrieval.mean)


def _grades(references: Sequence[Any]) -> Callable[[int], np.ndarray]:
    """A function of a row that gives every row's relevance to it: float64 [rows]."""
    if any(reference is None for reference in references):
        raise InputError(
            "the rows have no labels, so nothing says what an embedding should find; give a label"
            " column, or compare with a teacher"
        )
    if isinstance(references[0], np.ndarray):
        count = len(references)
        return lambda i: np.isin(np.arange(count), references[i]).astype(np.float64)
    _, labels = np.unique(np.asarray(references, str), return_inverse=True)
    return lambda i: (labels == labels[i]).astype(np.float64)


def _similarities(decoded: Sequence[Any]) -> Any:
    """Each row's cosines with all rows, −2 with itself: float32 [rows], one after the other."""
    embeddings = np.asarray(decoded, np.float32)
    for start in range(0, len(embeddings), _CHUNK):
        scores = embeddings[start : start + _CHUNK] @ embeddings.T
        for i, row in enumerate(scores):
            row[start + i] = -2
            yield row


def _nearest(decoded: Sequence[Any]) -> np.ndarray:
    return np.array([scores.argmax() for scores in _similarities(decoded)], np.int64)
