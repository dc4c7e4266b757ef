"""What the stages of one run share: the recipe, its rows and its models, each loaded at need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import blocks, data, tasks
from edgekd.errors import InputError
from edgekd.pipeline.stage import Run, content
from edgekd.preprocess import Row
from edgekd.recipe import Recipe
from edgekd.sections import Control
from edgekd.signals.keys import SOFT_ONLY

if TYPE_CHECKING:
    from edgekd.models import LoadedModel

EXAMPLES = 16  # rows that prove an export and become its golden samples
HELD_OUT, LEAST_HELD_OUT = 0.1, 100  # share of the training rows that a choice is made on; rows
LENGTH_STEP = 32  # a student's longest input is rounded up to this


@dataclass
class Context:
    """A recipe being run in ``run.path``; ``beside`` is the recipe's folder."""

    recipe: Recipe
    run: Run
    beside: Path
    warnings: list[str] = field(default_factory=list)
    # Whose teacher a model is compared with, where its own is an assistant.
    judge: Context | None = None
    inner: dict[str, Context] = field(default_factory=dict)  # stages with a task of their own

    @property
    def task(self) -> tasks.Task:
        return tasks.get(self.recipe.task)

    def warn(self, message: str) -> None:
        """Keep ``message`` for the report, once: a run may pass a stage twice."""
        if message not in self.warnings:
            self.warnings.append(message)

    def locate(self, source: str) -> str:
        """A path is meant from the recipe's folder, or from here; anything else is an id."""
        near = self.beside / source
        return str(near) if not Path(source).is_absolute() and near.exists() else source

    def identity(self, source: str | None) -> str | None:
        """What a stage depends on in a source: its bytes, or an id's words."""
        if source is None:
            return None
        path = Path(self.locate(source)).expanduser()
        if path.exists():
            return content(path)
        library = f"scikit-learn {version('scikit-learn')}" if source.startswith("builtin:") else ""
        return f"{source} {library}"

    def _read(self, source: str, *, labelled: bool = True) -> list[dict[str, Any]]:
        where = self.locate(source)
        rows = data.read_rows(where, self.task, self.recipe.data.columns, labelled=labelled)
        return blocks.cut(rows, self.encoder) if self.task.over_vocabulary else rows

    @cached_property
    def encoder(self) -> Any:
        """What a teacher reads texts with, before there is a teacher: its model's tokenizer, or
        one learned from the training text."""
        from edgekd import models, processors

        spec, length = self.recipe.teacher, self.recipe.data.max_length
        source = spec.model or spec.base
        if source is not None:
            where = self.locate(source)
            config = models.load_config(where, spec.revision)
            return processors.preprocessor_of(
                where, config, revision=spec.revision, max_length=length
            )
        if spec.vocabulary is None:
            raise InputError(
                "a text teacher from a config needs a tokenizer; say how many pieces to learn from"
                " the training text (teacher.vocabulary), or give a base model"
            )
        where = self.locate(self.recipe.data.train)
        rows = data.read_rows(where, self.task, self.recipe.data.columns)
        texts = [row["text"] for row in rows]
        length = length or blocks.DEFAULT_LENGTH
        return blocks.learn_vocabulary(texts, spec.vocabulary, length)

    @cached_property
    def test(self) -> list[dict[str, Any]]:
        return self._named(self._read(self.recipe.data.test))

    @cached_property
    def _train_and_overlap(self) -> tuple[list[dict[str, Any]], data.Overlap]:
        return self._apart(self._named(self._read(self.recipe.data.train)), self.test, "training")

    def _apart(
        self, rows: list[dict[str, Any]], judged: Sequence[Row], what: str, *, allow: bool = False
    ) -> tuple[list[dict[str, Any]], data.Overlap]:
        """``rows`` without what also stands in ``judged``; refuse much of it, or ``allow`` it."""
        allow = allow or self.recipe.data.allow_overlap
        running = self.task.over_vocabulary
        return data.drop_overlap(rows, judged, allow=allow, what=what, running=running)

    @property
    def top_k(self) -> int:
        """How many tokens of a distribution over a vocabulary are stored; 0 is all."""
        settings = self.recipe.distill
        dense = settings.method is not None and settings.method != self.task.methods[0]
        default = 0 if dense else self.task.default_top_k
        return default if settings.top_k is None else settings.top_k

    @property
    def learned(self) -> str:
        """The name of the store of what the student learns from."""
        return f"train-sample{self.top_k}" if self.top_k else "train"

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by score, which needs rows that nothing is trained on.

        So do trials (``tune``), where the teacher is fitted here: it must not know those rows.
        """
        recipe, fitted = self.recipe, self.recipe.teacher.model is None
        trainings = [recipe.distill, *(s.distill for s in recipe.stages if s.task is None)]
        epochs = [*trainings, *([recipe.teacher.fit] if fitted else [])]
        return (
            any("auto" in target.precisions for target in recipe.targets.values())
            or any(training.keep == "best" for training in epochs)
            or isinstance(recipe.distill.control, Control)
            or (recipe.tune is not None and fitted)
        )

    @cached_property
    def _split(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Training and selection rows: given, held out where something is chosen, or none."""
        rows = self._train_and_overlap[0]
        if self.recipe.data.selection:
            chosen_on = self._named(self._read(self.recipe.data.selection))
            # Choosing on test rows would make the test data choose.
            chosen_on = self._apart(chosen_on, self.test, "selection")[0]
            if not chosen_on:
                raise InputError(
                    "every row of data.selection also stands in the test data; give rows that do not"
                )
            return self._apart(rows, chosen_on, "training", allow=True)[0], chosen_on
        if not self.chooses:
            return rows, []
        kept, held = hold_out(rows, self.task)
        if not (kept and held):  # of two queries, say
            raise InputError(
                f"the {len(rows)} training rows are too few to hold some out to choose on; give"
                " data.selection"
            )
        return kept, held

    @property
    def selection(self) -> list[dict[str, Any]]:
        return self._split[1]

    @property
    def train(self) -> list[dict[str, Any]]:
        return self._split[0]

    @property
    def overlap(self) -> data.Overlap:
        return self._train_and_overlap[1]

    @property
    def has_answers(self) -> bool:
        """Whether a model could be trained without the teacher."""
        answer = self.task.answer
        return self.task.needs_answers or any(row.get(answer) is not None for row in self.train)

    @cached_property
    def unlabelled(self) -> list[dict[str, Any]]:
        """Rows that only the teacher labels, without those that the test data holds.

        Where the text is the truth it is not learned from either: the control never sees it.
        """
        source, augment = self.recipe.data.unlabelled, self.recipe.data.augment
        rows = self._read(source, labelled=False) if source else []
        rows = self._apart(rows, self.test, "unlabelled")[0]
        if self.selection:
            rows = self._apart(rows, self.selection, "unlabelled", allow=True)[0]
        if augment:
            from edgekd.distill.augment import widen

            judged = [*self.test, *self.selection]
            rows += widen(
                [*self.train, *rows],
                augment.copies,
                test=judged,
                operations=augment.operations,
                seed=self.recipe.seed,
                mask_token=self.encoder.mask_token if self._reads_text else None,
            )
        return [{**row, SOFT_ONLY: True} for row in rows] if self.task.over_vocabulary else rows

    @property
    def _reads_text(self) -> bool:
        return bool(self.task.default_columns.keys() & {"text", "tokens"})

    @cached_property
    def served(self) -> list[dict[str, Any]]:
        """What production sees: compared with the training rows, learned from by nobody."""
        source = self.recipe.data.served
        return self._read(source, labelled=False) if source else []

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes in output order: the fine-tuned teacher's, or the data's own."""
        if not self.task.has_classes:
            return ()
        if self.recipe.teacher.model is not None:
            from edgekd import models

            source = self.locate(self.recipe.teacher.model)
            config = models.load_config(source, self.recipe.teacher.revision)
            names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
            given = self.recipe.data.labels
            # A model that was saved without names calls its classes LABEL_0, LABEL_1, …
            unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(names))
            return tuple(given) if given and unnamed and len(given) == len(names) else names
        if self.recipe.data.labels:
            return tuple(self.recipe.data.labels)
        return tuple(self.task.classes(self._read(self.recipe.data.train)))

    def _named(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Name integer labels and tags by position, where the classes have other names."""
        given = self.recipe.data.labels
        if given and self.recipe.teacher.model is not None:
            _same_order(given, self.labels)
        return data.name_labels(rows, self.labels)

    @cached_property
    def max_length(self) -> int | None:
        """Tokens that the student serves: the longest training row, rounded up."""
        if self.recipe.data.max_length:
            return self.recipe.data.max_length
        if self.longest_row is None:
            return None
        reads: int = self.teacher.preprocessor.max_length  # type: ignore[attr-defined]
        if self.longest_target > reads:
            raise InputError(
                f"targets: the length {self.longest_target} is more than the {reads} tokens that"
                " the teacher reads; ask for a shorter one"
            )
        return min(max(self.longest_row, self.longest_target), reads)

    @cached_property
    def longest_row(self) -> int | None:
        """Tokens of the longest row that is learned from, rounded up; None where rows have none."""
        lengths = getattr(self.teacher.preprocessor, "lengths", None)
        if lengths is None:
            return None
        longest = int(lengths([*self.train, *self.unlabelled]).max())
        return -(-longest // LENGTH_STEP) * LENGTH_STEP

    @property
    def longest_target(self) -> int:
        """The longest fixed length that a target asks for; the student must serve it."""
        targets = self.recipe.targets.values()
        return max((length for target in targets for length in target.lengths), default=0)

    @cached_property
    def teacher(self) -> LoadedModel:
        """The teacher, fine-tuned: the recipe's, or the one that this run fitted."""
        from edgekd import models

        source = self.recipe.teacher.model
        where = self.locate(source) if source else str(self.run.path / "teacher")
        revision = self.recipe.teacher.revision if source else None
        length = self.recipe.data.max_length
        loaded = models.load(where, self.task, revision=revision, max_length=length)
        return replace(loaded, labels=self.labels)

    def model(self, name: str) -> LoadedModel:
        """A model that this run trained: ``student`` or ``student-no-kd``."""
        from edgekd import models

        return models.load(str(self.run.path / name), self.task)

    def examples(self) -> list[Row]:
        """Training rows of every length, to prove exports with."""
        return spread(self.train, EXAMPLES)


def hold_out(
    rows: Sequence[dict[str, Any]], task: tasks.Task
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split off what a choice is made on: a tenth, and of few rows up to a fifth.

    On nine rows the first model that has them all right would be chosen. Rows that the task
    scores together stay together, and count as one.
    """
    count = len({data.group_key(row, task.group) for row in rows})
    least = min(LEAST_HELD_OUT / max(count, 1), 2 * HELD_OUT)
    return data.hold_out(rows, max(HELD_OUT, least), task.group)


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """``count`` rows from the shortest text to the longest (images: at even steps)."""

    def size(row: Row) -> int:
        return len(row.get("tokens") or str(row.get("text", "")))

    order = sorted(range(len(rows)), key=lambda i: (size(rows[i]), i))
    picks = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[order[i]] for i in picks]


def _same_order(given: Sequence[str], labels: Sequence[str]) -> None:
    if len(given) != len(labels):
        raise InputError(
            f"data.labels lists {len(given)} classes, the teacher has {len(labels)}; list the"
            " teacher's, in its order"
        )
    for position, (ours, theirs) in enumerate(zip(given, labels, strict=True)):
        if ours != theirs:
            raise InputError(
                f"data.labels is in another order than the teacher's: position {position} is"
                f" '{ours}' here and '{theirs}' there; put them in the teacher's order, or drop"
                " data.labels where the data carries names"
            )
