"""What the teacher gets wrong, class by class, and what of it the student inherits.

Distillation copies mistakes too: a class the teacher never learnt is a blind spot of every
student made from it, and no retained figure shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassErrors:
    """Errors on the examples of one class."""

    label: str
    examples: int
    teacher_errors: int
    student_errors: int
    inherited: int  # both wrong, with the same wrong answer
    mistaken_for: str | None  # the student's most frequent wrong answer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    rows.sort(key=lambda row: (-row.inherited, -row.student_errors, row.label))
    return rows
