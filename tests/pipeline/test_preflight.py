"""A teacher that does not know the task, or knows its labels in another order, is found out."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd import tasks
from edgekd.errors import InputError
from edgekd.pipeline.preflight import teacher_knows

TASK = tasks.get("text-classification")
LABELS = ("a", "b", "c", "d")


def asked(decided: np.ndarray, truth: np.ndarray) -> None:
    logits = np.eye(len(LABELS))[decided]
    teacher_knows(TASK, {"logits": logits}, truth.tolist(), LABELS, "my-teacher")


def test_a_good_teacher_passes() -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = truth.copy()
    decided[::7] = 0
    asked(decided, truth)
    asked(np.zeros(20, int), np.zeros(20, int))  # one class only, and always right


@pytest.mark.parametrize("turned", [[1, 0, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]])
def test_labels_in_another_order(turned: list[int]) -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = np.array(turned)[truth]
    decided[::9] = 2
    with pytest.raises(InputError, match="in another order than the teacher's: what the data"):
        asked(decided, truth)


def test_near_chance() -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = np.random.default_rng(0).integers(0, 4, 100)
    with pytest.raises(InputError, match=r"right on 2\d\.0% .* my-teacher is not fine-tuned"):
        asked(decided, truth)
    skewed = np.array([0] * 95 + [1] * 5)
    with pytest.raises(InputError, match=r"commonest class on 95\.0%"):
        asked(np.zeros(100, int), skewed)
