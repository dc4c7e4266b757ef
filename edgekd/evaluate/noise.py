"""What a compressed model loses on average, where a few rows say it only by chance.

Of three hundred rows a precision may decide ten otherwise, five for the better and five for the
worse: the drop that is counted is a few coin tosses. How far it moves the scores of a class is
known from every row. Each row's float scores are therefore given the displacements of all rows of
its class, and what is right is counted over all of them: the expectation of the drop, were the
displacements of a class dealt among its rows (a bootstrap of residuals, Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, section 9.4, within strata and without the drawing). What all
scores are scaled by changes no decision and is no displacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekd.errors import VerificationError

ONE_SIDED = 1.645  # standard errors to the 95 % quantile of a normal distribution
MOST = 256  # displacements of one class that are dealt; the error counts what that leaves open


@dataclass(frozen=True)
class Expected:
    """A drop on average, and its upper bound.

    The bound is one-sided, 95 %, by a normal approximation: on some hundred rows, of which hardly
    one decides otherwise, the truth is above it more often than that.
    """

    value: float
    bound: float


def expected_drop(reference: np.ndarray, scores: np.ndarray, answers: np.ndarray) -> Expected:
    """The expected loss of accuracy of ``scores`` against ``reference``.

    Both are logits or log-probabilities, float [rows, classes]; ``answers`` int [rows]. Classes are
    those that the reference decides for. Raises :class:`VerificationError` for scores that are not
    numbers.
    """
    if not np.isfinite(scores).all():
        raise VerificationError("the scores of some selection rows are not numbers")
    reference, scores = _centred(reference), _centred(scores)
    square = np.square(reference).sum()
    scale = max(float((reference * scores).sum() / square), 0.0) if square else 1.0
    kept, moved = scale * reference, scores - scale * reference
    decided, random = reference.argmax(-1), np.random.default_rng(0)
    drops, pulls = np.zeros(len(answers)), np.zeros(len(answers))
    for kind in np.unique(decided):
        rows = np.flatnonzero(decided == kind)
        dealt = rows if len(rows) <= MOST else random.choice(rows, MOST, replace=False)
        hits = np.stack([(kept[row] + moved[dealt]).argmax(-1) == answers[row] for row in rows])
        drops[rows] = (answers[rows] == kind) - hits.mean(1)
        # A row counts twice: by its own scores, and by what its displacement does to the others.
        pulls[dealt] = (hits.mean() - hits.mean(0)) * len(rows) / len(dealt)
    mean, error = float(drops.mean()), float((drops + pulls).std() / len(drops) ** 0.5)
    return Expected(mean, mean + ONE_SIDED * error)


def _centred(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    return scores - scores.mean(-1, keepdims=True)
