"""What a compressed model loses on average, where a few rows say it only by chance.

Of three hundred rows a precision may decide ten otherwise, five for the better and five for the
worse: the drop that is counted is a few coin tosses. How far it moves the scores of a class is
known from every row. Each row's float scores are therefore given the displacements of the other
rows of its class, and what is right is counted over all of them: the expectation of the drop, were
the displacements of a class dealt among its rows (a bootstrap of residuals, Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, section 9.4, within strata and without the drawing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ONE_SIDED = 1.645  # standard errors to the 95 % quantile of a normal distribution
MOST = 256  # displacements of one class; more change the mean by less than it is known


@dataclass(frozen=True)
class Expected:
    """A drop on average, and its upper bound: one-sided, 95 %, by how the rows differ."""

    value: float
    high: float


def expected_drop(reference: np.ndarray, scores: np.ndarray, answers: np.ndarray) -> Expected:
    """The expected loss of accuracy of ``scores`` against ``reference``.

    Both are logits or log-probabilities, float [rows, classes]; ``answers`` int [rows]. Classes are
    those that the reference decides for.
    """
    moved = np.asarray(scores, np.float64) - reference
    decided = reference.argmax(-1)
    right = np.zeros(len(answers))
    for kind in np.unique(decided):
        rows = np.flatnonzero(decided == kind)
        dealt = moved[rows[np.unique(np.linspace(0, len(rows) - 1, MOST).round().astype(int))]]
        for row in rows:
            right[row] = ((reference[row] + dealt).argmax(-1) == answers[row]).mean()
    drops = (decided == answers) - right
    mean, error = float(drops.mean()), float(drops.std() / len(drops) ** 0.5)
    return Expected(mean, mean + ONE_SIDED * error)
