"""Make a student: from the teacher's own layers, from a model, or from a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.distill.student.layers import check_layers, copy_layers
from edgekd.distill.student.vocabulary import trim_vocabulary
from edgekd.errors import InputError
from edgekd.preprocess import Row, TextPreprocessor
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.models import LoadedModel
    from edgekd.recipe import Student

__all__ = ["build", "check_layers", "copy_layers", "trim_vocabulary"]


def build(
    spec: Student, teacher: LoadedModel, task: Task, rows: Sequence[Row], max_length: int, seed: int
) -> LoadedModel:
    """Return the untrained student that ``spec`` describes.

    ``rows`` (training and unlabelled, never test) say which pieces a trimmed vocabulary keeps;
    ``max_length`` is how many positions the student needs to serve.
    """
    from edgekd import models

    if spec.config is not None:
        student = models.from_config(spec.config, task, teacher.preprocessor, teacher.labels, seed)
    elif spec.model is not None:
        student = models.load(spec.model, task, labels=teacher.labels, max_length=max_length)
    else:
        student = copy_layers(teacher, spec.layers, max_length)
    if spec.vocabulary == "trim":
        if not isinstance(student.preprocessor, TextPreprocessor):
            raise InputError("student.vocabulary: trim needs a text task; drop the key")
        student = trim_vocabulary(student, [t for row in rows for t in _texts(row)])
    return student


def _texts(row: Row) -> list[str]:
    words = row.get("tokens") or ()
    return [*words, *(row[role] for role in ("text", "text_pair") if row.get(role) is not None)]
