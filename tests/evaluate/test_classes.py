from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd import tasks
from edgekd.evaluate.calibration import expected_calibration_error, reliability
from edgekd.evaluate.classes import ClassErrors, blind_spots, errors_by_class

LABELS = ("cat", "dog", "emu")


def test_only_the_same_wrong_answer_is_inherited() -> None:
    rows = blind_spots(
        references=[0, 0, 0, 0, 1, 1],
        decoded=[0, 1, 1, 2, 1, 0],
        teacher_decoded=[0, 1, 2, 0, 1, 1],
        labels=LABELS,
    )
    assert rows == [
        ClassErrors("cat", 4, 2, 3, 1, "dog"),
        ClassErrors("dog", 2, 0, 1, 0, "cat"),
    ]


triples = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=50)


@given(triples)
def test_errors_add_up(answers: list[tuple[int, int, int]]) -> None:
    truth, student, teacher = map(list, zip(*answers, strict=True))
    rows = blind_spots(truth, student, teacher, LABELS)
    assert sum(row.examples for row in rows) == len(answers)
    assert sum(row.student_errors for row in rows) == sum(s != t for t, s, _ in answers)
    assert sum(row.teacher_errors for row in rows) == sum(r != t for t, _, r in answers)
    assert all(row.inherited <= min(row.student_errors, row.teacher_errors) for row in rows)


def test_classes_that_do_not_exclude_each_other() -> None:
    task = tasks.get("text-classification/multi-label")
    true = [(1, 0, 0), (1, 1, 0), (0, 0, 0), (0, 1, 0)]
    student = np.array([(0, 0, 0), (0, 1, 0), (1, 1, 0), (0, 1, 0)])
    teacher = np.array([(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 1, 0)])
    ours, theirs = ({"logits": said * 2.0 - 1} for said in (student, teacher))
    assert errors_by_class(task, ours, theirs, true, LABELS) == [
        ClassErrors("cat", 3, 2, 3, 2, None),
        ClassErrors("dog", 3, 0, 1, 0, None),
    ]
    # Each class of each row is a decision: 8 of 12 are right, all said with the same confidence.
    bins = reliability(*task.decisions(ours, true))  # type: ignore[misc]
    sure = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(expected_calibration_error(bins), abs(sure - 8 / 12))
