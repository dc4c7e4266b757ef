"""Extractive question answering: where in a context the answer to a question begins and ends.

A row is ``text`` (the question), ``text_pair`` (the context) and ``answers``. Scores are SQuAD's
(Rajpurkar et al., 2016, arXiv:1606.05250): exact match and F1 over words, of lower-cased texts
without punctuation and articles. A context longer than the model reads is cut off, not slid over.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Preprocessor, Row
from edgekd.tasks.base import Metric, Task

LONGEST = 30  # tokens of an answer
UNANSWERED = -100  # a place of a row whose answer is not known, or was cut off
STARTS, ENDS = 1, 2  # flags of a place


class QuestionAnswering(Task):
    """``start_logits`` and ``end_logits`` [batch, sequence]; places are the context's tokens.

    A prediction is the (begin, end) of its characters in the context. Teacher and student must
    cut texts into the same tokens, or their places would not be the same.
    """

    name = "question-answering"
    outputs = ("start_logits", "end_logits")
    per_token = True
    has_classes = False
    answer = "answers"
    methods = ("span_kl",)
    hard_loss = "span_cross_entropy"
    auto_class = "AutoModelForQuestionAnswering"
    default_columns: ClassVar = {
        "text": ("question", "text", "query"),
        "text_pair": ("context", "text_pair", "passage", "paragraph"),
        "answers": ("answers", "answer"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        return []

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"num_labels": 2}  # start and end

    def places(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        return [np.flatnonzero([part == 1 for part in e.sequence_ids]) for e in encodings]

    def collect(
        self, outputs: Mapping[str, np.ndarray], rows: Sequence[Row], preprocessor: Preprocessor
    ) -> dict[str, np.ndarray]:
        """Both logits at the context's tokens, and ``offsets`` int32 [rows, places, 2] of these."""
        encodings = preprocessor.tokens(rows)  # type: ignore[attr-defined]
        served = outputs["start_logits"].shape[1]  # a bundle's fixed length may cut
        places = [where[where < served] for where in self.places(encodings)]
        shape = (len(rows), max(map(len, places)))
        kept = {name: np.zeros(shape, outputs[name].dtype) for name in self.outputs}
        kept["offsets"] = np.zeros((*shape, 2), np.int32)
        kept["mask"] = np.zeros(shape, np.uint8)
        for i, (where, encoding) in enumerate(zip(places, encodings, strict=True)):
            for name in self.outputs:
                kept[name][i, : len(where)] = outputs[name][i, where]
            kept["offsets"][i, : len(where)] = np.array(encoding.offsets).reshape(-1, 2)[where]
            kept["mask"][i, : len(where)] = 1
        return kept

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return _metric("f1", word_f1), _metric("exact_match", exact_match)

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """The (begin, end) characters of the likeliest span of at most ``LONGEST`` tokens."""
        parts = (outputs[name] for name in ("start_logits", "end_logits", "offsets", "mask"))
        return [_best_span(*row) for row in zip(*parts, strict=True)]

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        """(context, ((answer, begin), …)) of each row."""
        found = []
        for row in rows:
            context, answers = row["text_pair"], []
            for text, begin in row["answers"]:
                begin = context.find(text) if begin is None else int(begin)
                if not text or context[begin : begin + len(text)] != text or begin < 0:
                    raise InputError(
                        f"the answer {text[:60]!r} does not stand in its context at"
                        f" {begin}; give texts of the context, and answer_start in characters"
                    )
                answers.append((text, begin))
            found.append((context, tuple(answers)))
        return found

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        """Flags of each place: where the first answer starts, and where it ends."""
        assert encodings is not None
        found = []
        pairs = zip(references, encodings, self.places(encodings), strict=True)
        for (_, answers), encoding, where in pairs:
            flags = np.full(len(where), UNANSWERED, np.int64)
            text, begin = answers[0]
            offsets = np.array(encoding.offsets).reshape(-1, 2)[where]
            inside = np.flatnonzero((offsets[:, 0] < begin + len(text)) & (offsets[:, 1] > begin))
            if len(inside) and offsets[inside[-1], 1] >= begin + len(text):
                flags[:] = 0
                flags[inside[0]] |= STARTS
                flags[inside[-1]] |= ENDS
            found.append(flags)
        return found

    def correct(self, decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        return self.metrics(())[1].statistics(decoded, references)[:, 0] > 0


def _best_span(
    starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, mask: np.ndarray
) -> tuple[int, int]:
    count = int(mask.sum())
    if not count:
        return 0, 0
    first, last = np.triu_indices(count)
    near = last - first < LONGEST
    first, last = first[near], last[near]
    best = int((starts[first].astype(np.float64) + ends[last]).argmax())
    return int(offsets[first[best], 0]), int(offsets[last[best], 1])


def _metric(name: str, score: Callable[[str, str], float]) -> Metric:
    """The best score over a row's answers, mean over rows."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        values = [
            max(score(context[begin:end], text) for text, _ in answers)
            for (begin, end), (context, answers) in zip(decoded, references, strict=True)
        ]
        return np.stack([values, np.ones(len(values))], 1).astype(np.float64)

    return Metric(name, statistics, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def exact_match(said: str, true: str) -> float:
    return float(normalised(said) == normalised(true))


def word_f1(said: str, true: str) -> float:
    ours, theirs = normalised(said).split(), normalised(true).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def normalised(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no English articles, single spaces."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
