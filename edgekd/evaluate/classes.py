"""What the teacher gets wrong, class by class, and what of it the student inherits.

Distillation copies mistakes too: a class the teacher never learnt is a blind spot of every
student made from it, and no retained figure shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekd.tasks.base import Task


@dataclass(frozen=True)
class ClassErrors:
    """Errors on the examples of one class.

    Where classes do not exclude each other, the examples are the rows that have the class and those
    that teacher or student wrongly gave it to.
    """

    label: str
    examples: int
    teacher_errors: int
    student_errors: int
    inherited: int  # both wrong, with the same wrong answer
    mistaken_for: str | None  # the student's most frequent wrong answer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def errors_by_class(
    task: Task,
    student: Mapping[str, np.ndarray],
    teacher: Mapping[str, np.ndarray],
    references: Sequence[Any],
    labels: Sequence[str],
) -> list[ClassErrors]:
    """Count two models' errors per class, worst first by what the student inherits.

    Takes collected outputs of the same rows. Empty where the task has no classes, or where the two
    decided at different words.
    """
    ours, theirs = (task.decisions(said, references) for said in (student, teacher))
    if ours is None or theirs is None or not np.array_equal(ours[1], theirs[1]):
        return []
    truth, said, taught = ours[1], ours[0].argmax(-1), theirs[0].argmax(-1)
    if task.exclusive:
        return blind_spots(truth.tolist(), said.tolist(), taught.tolist(), labels)
    each = [values.reshape(-1, len(labels)).T > 0 for values in (truth, said, taught)]
    rows = []
    for label, true, by_student, by_teacher in zip(labels, *each, strict=True):
        wrong, taught_wrong = by_student != true, by_teacher != true
        examples = int((true | by_student | by_teacher).sum())
        both = int((wrong & taught_wrong).sum())
        if examples:
            errors = int(taught_wrong.sum()), int(wrong.sum())
            rows.append(ClassErrors(label, examples, *errors, both, None))
    return sorted(rows, key=_worst_first)


def _worst_first(row: ClassErrors) -> tuple[int, int, str]:
    return -row.inherited, -row.student_errors, row.label


def blind_spots(
    references: Sequence[int],
    decoded: Sequence[int],
    teacher_decoded: Sequence[int],
    labels: Sequence[str],
) -> list[ClassErrors]:
    """Count errors per class, worst first by what the student inherits.

    Takes class indices; classes without examples are left out.
    """
    rows = []
    triples = list(zip(references, decoded, teacher_decoded, strict=True))
    for index, label in enumerate(labels):
        members = [(student, teacher) for truth, student, teacher in triples if truth == index]
        if not members:
            continue
        wrong = Counter(student for student, _ in members if student != index)
        rows.append(
            ClassErrors(
                label=label,
                examples=len(members),
                teacher_errors=sum(teacher != index for _, teacher in members),
                student_errors=wrong.total(),
                inherited=sum(s == t != index for s, t in members),
                mistaken_for=labels[wrong.most_common(1)[0][0]] if wrong else None,
            )
        )
    return sorted(rows, key=_worst_first)
