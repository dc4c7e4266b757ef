"""Checks before any training: does the teacher know this task, under these labels?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError
from edgekd.preprocess import Preprocessor, Row, TextPreprocessor
from edgekd.tasks import Task

NEAR_CHANCE = 0.1  # of the way from guessing to perfect
SWAPPED = 0.5  # share of a class's rows that the teacher gives to one other class
CUT_OFF = 0.01  # share of rows longer than the model reads, from which on it is worth a warning


def teacher_knows(
    task: Task,
    outputs: Mapping[str, Any],
    references: Sequence[Any],
    labels: Sequence[str],
    source: str | None,
) -> None:
    """Raise :class:`InputError` for a teacher near chance or with labels in another order."""
    decisions = task.decisions(outputs, references)
    if decisions is None or not len(decisions[1]):
        return
    decoded, truth = decisions[0].argmax(-1), decisions[1]
    right = float(np.mean(decoded == truth))
    chance = max(Counter(truth.tolist()).values()) / len(truth)
    swapped = _swapped(decoded, truth, len(labels))
    if swapped:
        first, second = swapped
        raise InputError(
            f"the labels are in another order than the teacher's: what the data calls"
            f" '{labels[first]}', {source or 'it'} mostly calls '{labels[second]}' and the other way round"
            " or onwards; name the labels in the data, or list them under data.labels"
        )
    if right - chance < NEAR_CHANCE * (1 - chance):
        mend = (
            f"{source} is not fine-tuned for this task or these labels; give it as teacher.base to"
            " have it fitted"
            if source
            else "it did not learn; give teacher.fit more epochs or another learning_rate"
        )
        raise InputError(
            f"the teacher is right on {right:.1%} of the test {'words' if task.per_token else 'rows'},"
            f" and always saying the commonest class on {chance:.1%}: {mend}"
        )


def _swapped(decoded: np.ndarray, references: np.ndarray, classes: int) -> tuple[int, int] | None:
    """Two classes of a cycle in which the teacher calls each mostly by the next one's name."""
    table = np.zeros((classes, classes))
    np.add.at(table, (references, decoded), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    called = share.argmax(1)
    mostly = (share.max(1) > SWAPPED) & (called != np.arange(classes)) & (table.sum(1) >= 5)
    for start in np.flatnonzero(mostly):
        seen, here = {int(start)}, int(called[start])
        while mostly[here] and here not in seen:
            seen.add(here)
            here = int(called[here])
        if here == start:
            return int(start), int(called[start])
    return None


def share_cut_off(preprocessor: Preprocessor, rows: Sequence[Row]) -> float:
    """Share of rows with tokens, or with sound, beyond what the model reads."""
    if isinstance(preprocessor, AudioPreprocessor) and rows:
        longest = preprocessor.samples / preprocessor.sampling_rate
        seconds = np.array([len(row["audio"]) / row["sampling_rate"] for row in rows])
        return float((seconds > longest).mean())
    if not isinstance(preprocessor, TextPreprocessor) or not rows:
        return 0.0
    return float(np.mean([bool(tokens.overflowing) for tokens in preprocessor.tokens(rows)]))


def same_vocabulary(teacher: Preprocessor, student: Preprocessor) -> bool:
    """Whether both number the same pieces in the same way."""
    assert isinstance(teacher, TextPreprocessor) and isinstance(student, TextPreprocessor)
    return teacher.tokenizer.get_vocab() == student.tokenizer.get_vocab()


def same_tokens(teacher: Preprocessor, student: Preprocessor, rows: Sequence[Row]) -> bool:
    """Whether both cut every row into the same pieces (the ids may differ)."""
    if not isinstance(teacher, TextPreprocessor) or not isinstance(student, TextPreprocessor):
        return True
    pairs = zip(teacher.tokens(rows), student.tokens(rows), strict=True)
    return all(ours.tokens == theirs.tokens for ours, theirs in pairs)
