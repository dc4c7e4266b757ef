"""What tasks over a vocabulary share: the text itself is the truth, and no class has a name.

A distribution over a vocabulary at every position is too much to keep of a whole test set, so a
model's answers are reduced as they come: the negative log-likelihood of the true token, the
likeliest token, and the true one. Only what a student learns from is kept whole, or as k tokens
that stand for all of them (:mod:`edgekd.signals.sampled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from edgekd.preprocess import Preprocessor, Row
from edgekd.signals.sampled import draws, sample
from edgekd.tasks.base import Metric, Task


class Reading(NamedTuple):
    """What a model made of one row: arrays [places]."""

    nll: np.ndarray  # of the true token, in nats
    choice: np.ndarray  # the likeliest token
    truth: np.ndarray  # the true one


class LanguageModel(Task):
    """Next or masked tokens. A subclass says where they are (``places``) and which (``truths``)."""

    outputs = ("logits",)
    per_token = True
    has_classes = False
    over_vocabulary = True
    default_top_k = 64
    answer = "text"
    methods = ("softened_kl_sampled", "softened_kl")
    default_columns: ClassVar = {"text": ("text", "content", "sentence", "document")}

    def method(self, given: str | None, top_k: int | None) -> str:
        sparse, dense = self.methods
        return given or (dense if top_k == 0 else sparse)

    def temperature(self, given: float | None, method: str) -> float:
        """A sample of tokens is drawn for 1, and is noisier above."""
        sampled = method == self.methods[0]
        return 1.0 if given is None and sampled else super().temperature(given, method)

    def truths(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """The true token of every place: an int64 array per row."""
        raise NotImplementedError

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return []

    def collect(
        self, outputs: Mapping[str, np.ndarray], rows: Sequence[Row], preprocessor: Preprocessor
    ) -> dict[str, np.ndarray]:
        found = []
        for values, truth in self._at_places(outputs["logits"], rows, preprocessor):
            values = values.astype(np.float32)
            top = values.max(-1, keepdims=True, initial=-np.inf)
            whole = np.log(np.exp(values - top).sum(-1)) + top[:, 0]
            nll = whole - np.take_along_axis(values, truth[:, None], -1)[:, 0]
            choice = values.argmax(-1).astype(np.int32)
            found.append({"nll": nll, "choice": choice, "truth": truth.astype(np.int32)})
        return _filled(found)

    def signals(
        self,
        outputs: Mapping[str, np.ndarray],
        rows: Sequence[Row],
        preprocessor: Preprocessor,
        fields: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        """Dense ``logits``, k tokens of each place, or what :meth:`collect` keeps."""
        if "nll" in fields:
            return self.collect(outputs, rows, preprocessor)
        values = [v for v, _ in self._at_places(outputs["logits"], rows, preprocessor)]
        if "logits" in fields:
            return _filled([{"logits": v.astype(fields["logits"].dtype)} for v in values])
        k, pairs = fields["indices"].shape[-1], zip(values, rows, strict=True)
        return _filled([sample(v, k, draws(row, len(v))) for v, row in pairs])

    def _at_places(
        self, logits: np.ndarray, rows: Sequence[Row], preprocessor: Preprocessor
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Logits and true tokens of the places that the model read, row by row."""
        encodings = preprocessor.tokens(rows)  # type: ignore[attr-defined]
        pairs = zip(self.places(encodings), self.truths(encodings), strict=True)
        found = []
        for row, (where, truth) in enumerate(pairs):
            read = where < logits.shape[1]
            found.append((logits[row, where[read]], truth[read]))
        return found

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        lengths = (outputs["mask"] > 0).sum(-1)
        return [
            Reading(*(outputs[name][row, :n] for name in Reading._fields))
            for row, n in enumerate(lengths)
        ]

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        """The texts: which tokens they are is the tokenizer's affair, so a reading brings them."""
        return [row["text"] for row in rows]

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        assert encodings is not None  # a per-token task has tokens
        return self.truths(encodings)

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """Whether the same token is likeliest: bool [places of all rows]."""
        return np.concatenate([a.choice == b.choice for a, b in zip(left, right, strict=True)])

    def correct(self, decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """Whether the likeliest token is the true one: bool [places of all rows]."""
        return np.concatenate([reading.choice == reading.truth for reading in decoded])


def perplexity() -> Metric:
    """exp of the mean negative log-likelihood of a token, over all tokens of all texts."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        sums = [(reading.nll.sum(dtype=np.float64), len(reading.nll)) for reading in decoded]
        return np.array(sums, np.float64).reshape(-1, 2)

    value = lambda sums: np.exp(sums[..., 0] / np.maximum(sums[..., 1], 1))  # noqa: E731
    return Metric("perplexity", statistics, value, lower_is_better=True)


def token_accuracy(name: str) -> Metric:
    """Share of places whose likeliest token is the true one."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        sums = [((r.choice == r.truth).sum(), len(r.truth)) for r in decoded]
        return np.array(sums, np.float64).reshape(-1, 2)

    value = lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1)  # noqa: E731
    return Metric(name, statistics, value)


def _filled(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows with as many places as they have, as arrays [rows, places, …] and their ``mask``."""
    places = [len(next(iter(row.values()))) for row in rows]
    kept = {}
    for name, values in rows[0].items():
        kept[name] = np.zeros((len(rows), max(places), *values.shape[1:]), values.dtype)
        for i, row in enumerate(rows):
            kept[name][i, : places[i]] = row[name]
    kept["mask"] = (np.arange(max(places)) < np.array(places)[:, None]).astype(np.uint8)
    return kept
