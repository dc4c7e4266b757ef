"""Make a student: from the teacher's own layers and widths, from a model, or from a config.

Reading order: ``layers.py`` (which layers stay), ``vocabulary.py`` (which pieces), ``anatomy.py``
(what each axis of each weight is), ``narrow.py`` (which channels, heads and neurons),
``dropout.py`` (what is dropped while it learns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.distill.student.anatomy import (
    dissect,
    family_of,
    sizes_of,
    wanted_sizes,
    weights_of,
)
from edgekd.distill.student.dropout import set_dropout
from edgekd.distill.student.layers import check_layers, copy_layers, even_layers, layer_list
from edgekd.distill.student.narrow import narrow
from edgekd.distill.student.vocabulary import trim_vocabulary
from edgekd.errors import InputError
from edgekd.preprocess import Row, TextPreprocessor
from edgekd.tasks import Task

if TYPE_CHECKING:
    from torch import nn

    from edgekd.models import LoadedModel
    from edgekd.sections import Student

__all__ = [
    "build",
    "check_layers",
    "check_shape",
    "copy_layers",
    "dissect",
    "even_layers",
    "layer_list",
    "narrow",
    "set_dropout",
    "trim_vocabulary",
    "weights_of",
]


def build(
    spec: Student, teacher: LoadedModel, task: Task, rows: Sequence[Row], max_length: int, seed: int
) -> LoadedModel:
    """Return the untrained student that ``spec`` describes, its shape spelt out.

    ``rows`` (training and unlabelled, never test) say which pieces a trimmed vocabulary keeps and
    what a reduced width is fitted on; ``max_length`` is how many positions the student needs to
    serve. The same arguments give the same weights.
    """
    from edgekd import models

    if spec.config is not None:
        student = models.from_config(spec.config, task, teacher.preprocessor, teacher.labels, seed)
    elif spec.model is not None:
        student = models.load(spec.model, task, labels=teacher.labels, max_length=max_length)
        if spec.layers is not None:  # of a stage that begins with another's weights
            student = copy_layers(student, spec.layers, max_length)
    else:
        student = copy_layers(teacher, spec.layers, max_length)
    if spec.vocabulary == "trim":
        if not isinstance(student.preprocessor, TextPreprocessor):
            raise InputError("student.vocabulary: trim needs a text task; drop the key")
        student = trim_vocabulary(student, [t for row in rows for t in _texts(row)])
    if spec.widths:
        sizes = sizes_of(student.model.config, family_of(student.model))
        student = narrow(student, wanted_sizes(sizes, **spec.widths), rows)
    if spec.dropout is not None:
        set_dropout(student.model, spec.dropout)
    return student


def check_shape(spec: Student, teacher: nn.Module) -> None:
    """Raise :class:`InputError` for layers or widths that ``teacher`` cannot give."""
    if spec.model is not None:
        return
    check_layers(spec.layers or (), teacher)
    if spec.widths:
        wanted_sizes(dissect(teacher).sizes, **spec.widths)


def _texts(row: Row) -> list[str]:
    words = row.get("tokens") or ()
    return [*words, *(row[role] for role in ("text", "text_pair") if row.get(role) is not None)]
