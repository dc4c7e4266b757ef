"""Banking77's teacher, rows and two-layer student, as `examples/banking77.yaml` has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgekd import data, infer, models, tasks
from edgekd.distill import student as students
from edgekd.distill import transfer
from edgekd.distill.examples import Examples
from edgekd.models import LoadedModel
from edgekd.pipeline.signals import Stored, keys_of, signal_spec
from edgekd.sections import Distill, Student
from edgekd.signals import SignalStore

ASSETS = Path(os.environ.get("EDGEKD_ASSETS", Path(__file__).parents[2] / "shared"))
TASK = tasks.get("text-classification")
SHAPE = Student(layers=[0, 5], vocabulary="trim")


class Banking77:
    """``rows`` training rows drawn with a fixed seed, and the teacher, loaded once."""

    def __init__(self, rows: int | None = None) -> None:
        self.teacher = models.load(str(ASSETS / "models" / "banking77-minilm-l6"), TASK)
        source = str(ASSETS / "data" / "banking77" / "train.csv")
        found = data.read_rows(source, TASK, {"label": "category"})
        order = np.random.default_rng(0).permutation(len(found))[:rows]
        self.rows = [found[i] for i in order]

    def student(self, *, dropout: bool = True) -> LoadedModel:
        student = students.build(SHAPE, self.teacher, TASK, self.rows, 64, 0)
        if not dropout:
            config: Any = student.model.config
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
            for module in student.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        return student

    def stored(self, folder: Path) -> Stored:
        """The teacher's signals of all rows, read from a store as a run reads them."""
        store = SignalStore.open(folder, signal_spec(self.teacher, TASK, "float16"))
        infer.label_into(store, self.teacher, self.rows, TASK, "label")
        return Stored(keys_of(self.rows), [store])

    def examples(self, student: LoadedModel, signals: Any = None) -> Examples:
        return Examples(self.rows, TASK, student.preprocessor, student.labels, signals)

    def objective(self, student: LoadedModel, settings: Distill) -> transfer.Transfer:
        classes = len(self.teacher.labels)
        return transfer.plan(
            settings,
            TASK,
            self.teacher.model,
            student.model,
            classes=classes,
            parts=settings.parts,
        )
