"""Token classification: one tag per word (names, slots, parts of speech).

The answer of a word is read at its first token (Devlin et al., 2019, section 5.3), so a student
may cut words differently from its teacher: what both say is compared word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError, nearest
from edgekd.preprocess import Preprocessor, Row
from edgekd.tasks.base import Metric, Task
from edgekd.tasks.classification import softmax

OUTSIDE = "O"
# Begin, inside, end and single; the last two may lack, or be called last and unit (BILOU).
ENTITY = ("B-", "I-", "E-", "S-", "L-", "U-")
UNTAGGED = -100  # a place without a true tag


class TokenClassification(Task):
    name = "token-classification"
    outputs = ("logits",)
    per_token = True
    answer = "tags"
    methods = ("softened_kl", "standardised_kl", "logit_mse", "decoupled_kl")
    auto_class = "AutoModelForTokenClassification"
    default_columns: ClassVar = {
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags", "slots", "labels", "pos_tags"),
    }

    def classes(self, rows: Sequence[Row]) -> list[str]:
        """An entity's tags (B-, I-, and E-, S- or L-, U- where there are any) come together.

        The rows may show only one of them.
        """
        found = {tag for row in rows for tag in row.get("tags") or ()}
        kinds = {tag[2:] for tag in found if tag.startswith(ENTITY)}
        used = {tag[0] for tag in found if tag.startswith(ENTITY)}
        prefixes = "BI" + "".join(pair for pair in ("ES", "LU") if used & set(pair))
        found |= {f"{prefix}-{kind}" for kind in kinds for prefix in prefixes}
        return sorted(found, key=lambda tag: (tag != OUTSIDE, tag))

    def places(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """The first token of each word; −1 for words cut off or made of nothing the model reads."""
        found = []
        for encoding in encodings:
            words = [-1 if word is None else word for word in encoding.word_ids]
            places = np.full(max(words, default=-1) + 1, -1, np.int64)
            for token in range(len(words) - 1, -1, -1):
                if words[token] >= 0:
                    places[words[token]] = token
            found.append(places)
        return found

    def collect(
        self, outputs: Mapping[str, np.ndarray], rows: Sequence[Row], preprocessor: Preprocessor
    ) -> dict[str, np.ndarray]:
        logits = outputs["logits"]
        places = self.places(preprocessor.tokens(rows))  # type: ignore[attr-defined]
        kept = np.zeros((len(rows), max(map(len, places)), logits.shape[-1]), logits.dtype)
        mask = np.zeros(kept.shape[:2], np.uint8)
        for row, where in enumerate(places):
            read = np.flatnonzero((where >= 0) & (where < logits.shape[1]))
            kept[row, read] = logits[row, where[read]]
            mask[row, read] = 1
        return {"logits": kept, "mask": mask}

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        tagged = any(label.startswith(ENTITY) for label in labels)
        return (*((entity_f1(labels),) if tagged else ()), token_accuracy(labels))

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """A tuple of tag numbers per row; words that the model did not read are outside."""
        outside = _outside(labels)
        tags = np.where(outputs["mask"] > 0, outputs["logits"].argmax(-1), outside)
        lengths = [int(np.max(np.flatnonzero(m), initial=-1)) + 1 for m in outputs["mask"]]
        return [tuple(row[:n].tolist()) for row, n in zip(tags, lengths, strict=True)]

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        index = {label: i for i, label in enumerate(labels)}
        found = []
        for row in rows:
            if len(row["tags"]) != len(row["tokens"]):
                raise InputError(
                    f"a row has {len(row['tokens'])} tokens and {len(row['tags'])} tags"
                    f" ({' '.join(row['tokens'])[:60]}); give one tag per token"
                )
            try:
                found.append(tuple(index[tag] for tag in row["tags"]))
            except KeyError as error:
                tag = str(error.args[0])
                raise InputError(
                    f"the data has the tag {tag!r}, which the model does not know"
                    f"{nearest(tag, list(labels))}; its tags are {', '.join(labels[:8])}"
                    f"{', …' if len(labels) > 8 else ''}"
                ) from error
        return found

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        assert encodings is not None  # a per-token task has tokens
        places = self.places(encodings)
        return [
            np.array([*tags[: len(where)], *[UNTAGGED] * (len(where) - len(tags))], np.int64)
            for tags, where in zip(references, places, strict=True)
        ]

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """All tags of a row are the same; trailing words that only one has read are not."""
        return np.array([a == b for a, b in zip(left, right, strict=True)], bool)

    def decisions(
        self, outputs: Mapping[str, np.ndarray], references: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The words that the model read and that have a tag."""
        chances = softmax(outputs["logits"])
        read, width = outputs["mask"] > 0, outputs["mask"].shape[1]
        truth = np.full(read.shape, UNTAGGED, np.int64)
        for row, tags in enumerate(references):
            truth[row, : len(tags)] = tags[:width]
        counted = read & (truth != UNTAGGED)
        return chances[counted], truth[counted]


def token_accuracy(labels: Sequence[str]) -> Metric:
    """Share of words with the right tag; a word without an answer counts as outside."""
    outside = _outside(labels)

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        rows = []
        for said, true in zip(decoded, references, strict=True):
            filled = (*said[: len(true)], *[outside] * (len(true) - len(said)))
            rows.append((sum(a == b for a, b in zip(filled, true, strict=True)), len(true)))
        return np.array(rows, np.float64).reshape(-1, 2)

    value = lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1)  # noqa: E731
    return Metric("token_accuracy", statistics, value)


def entity_f1(labels: Sequence[str]) -> Metric:
    """F1 over whole entities, as conlleval and seqeval count: type and both ends must be right."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        rows = []
        for said, true in zip(decoded, references, strict=True):
            found = entities([labels[t] for t in said[: len(true)]])
            wanted = entities([labels[t] for t in true])
            rows.append((len(found & wanted), len(found), len(wanted)))
        return np.array(rows, np.float64).reshape(-1, 3)

    def value(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)

    return Metric("entity_f1", statistics, value)


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The (type, first, last) of each entity, of IOB2, IOBES and BILOU tags alike.

    As seqeval counts where it is not strict: what continues nothing starts an entity of its own.
    """
    found, start, kind, ended = set(), 0, "", False
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, this = tag.partition("-")
        continues = prefix in ("I", "E", "L") and this == kind and not ended
        if kind and not continues:
            found.add((kind, start, position - 1))
            kind = ""
        if tag.startswith(ENTITY) and not continues:
            start, kind = position, this
        ended = prefix in ("E", "S", "L", "U")
    return found


def _outside(labels: Sequence[str]) -> int:
    return labels.index(OUTSIDE) if OUTSIDE in labels else 0
