"""What a task knows: its columns, the teacher's signal, the metrics, the decoding.

Importing a task imports neither torch nor transformers: the evaluation workers use it too.

A metric is a function of *sums of per-example statistics* wherever it can be: accuracy is
``sum(correct) / sum(1)``, an F1 is a function of summed counts. Then a bootstrap over examples
is one matrix product of resampling weights with the statistics, whatever the metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edgekd.preprocess import Preprocessor, Row


@dataclass(frozen=True)
class Metric:
    """One number about predictions; higher is better unless ``lower_is_better``.

    ``statistics(decoded, references)`` returns float64 [examples, k]; ``value(sums)`` maps sums
    over examples, float64 [..., k], to the metric, float64 [...].
    """

    name: str
    statistics: Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]
    lower_is_better: bool = False

    def __call__(self, decoded: Sequence[Any], references: Sequence[Any]) -> float:
        return float(self.value(self.statistics(decoded, references).sum(0)))


class Task(ABC):
    """One task. ``name`` is the Hugging Face task name; the first metric is the main one.

    An answer belongs to a row, or (``per_token``) to *places* in it: the first token of each
    word, every token of a text. A model's raw outputs have one entry per token; what is stored,
    compared and scored has one per place, so that teacher and student may cut words differently.
    """

    name: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]  # of the deployed program, and what the teacher is asked
    has_classes: ClassVar[bool] = True  # without, a model of this task has no labels
    exclusive: ClassVar[bool] = True  # of the classes exactly one is true
    has_head: ClassVar[bool] = True  # without, the model's own last layer is what is read
    needs_answers: ClassVar[bool] = True  # without, rows may say nothing beside their content
    per_token: ClassVar[bool] = False
    over_vocabulary: ClassVar[bool] = False  # the classes are the vocabulary, the truth the text
    default_top_k: ClassVar[int] = 0  # classes of a distribution that are stored; 0 is all
    signal_dtype: ClassVar[str] = "float16"  # what the student learns from is stored as
    methods: ClassVar[tuple[str, ...]]  # losses that soft_weight may weigh, the default first
    answer: ClassVar[str] = "label"  # the column that holds the truth
    group: ClassVar[tuple[str, ...]] = ()  # columns that rows which are scored together share
    hard_loss: ClassVar[str] = "cross_entropy"  # the loss on labels
    auto_class: ClassVar[str]  # the transformers class that loads a model for this task
    default_columns: ClassVar[Mapping[str, tuple[str, ...]]]  # role -> column names tried

    def classes(self, rows: Sequence[Row]) -> list[str]:
        """The class names that labelled rows use; empty where the task has none."""
        found = {row["label"] for row in rows if row.get("label") is not None}
        return sorted(found, key=int) if all(x.isdigit() for x in found) else sorted(found)

    def prepare(self, preprocessor: Preprocessor) -> Preprocessor:
        """What encodes rows for this task, from what a model comes with.

        Where answers belong to places in a row, a place is its number there: padding stands to the
        right, whatever the tokenizer says.
        """
        if not self.per_token or getattr(preprocessor, "padding_side", "right") == "right":
            return preprocessor
        return replace(preprocessor, padding_side="right")  # type: ignore[type-var]

    def method(self, given: str | None, top_k: int | None) -> str:
        """The loss that soft_weight weighs: the one that is asked for, or the task's own."""
        return given or self.methods[0]

    def temperature(self, given: float | None, method: str) -> float:
        """What softens the answers that ``method`` compares: what is asked for, or its own."""
        return 2.0 if given is None else given

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        """Config values that size the fresh head of a base model."""
        if not self.has_classes:
            return {}
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }

    def read(self, said: Any, config: Any, mask: Any = None) -> dict[str, Any]:
        """The task's ``outputs`` from what a model said; tensors in, tensors out.

        It is traced into the deployed program. ``mask`` [batch, sequence] is 1 at real tokens;
        ``config`` is the model's.
        """
        return {name: getattr(said, name) for name in self.outputs}

    def places(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """Where in each tokenized row (``tokenizers.Encoding``) the answers live: int64 arrays.

        −1 stands for a place that the model did not read. Only for ``per_token`` tasks.
        """
        raise NotImplementedError(f"{self.name} answers per row")

    def collect(
        self, outputs: Mapping[str, np.ndarray], rows: Sequence[Row], preprocessor: Preprocessor
    ) -> dict[str, np.ndarray]:
        """What is kept of one batch's raw outputs, an entry per row.

        Tasks with places keep [rows, places, …], filled up with zeros, and ``mask`` uint8
        [rows, places], which is 1 where there is an answer.
        """
        return dict(outputs)

    def signals(
        self,
        outputs: Mapping[str, np.ndarray],
        rows: Sequence[Row],
        preprocessor: Preprocessor,
        fields: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        """What a store with these ``fields`` keeps of one batch, in the form of :meth:`collect`."""
        return self.collect(outputs, rows, preprocessor)

    @abstractmethod
    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        """The metrics over ``labels``, the main one first."""

    @abstractmethod
    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """Turn collected outputs into one prediction per example."""

    @abstractmethod
    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        """The true answers of labelled rows, in the form :meth:`decode` gives."""

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """Whether two models decide the same: bool [examples]."""
        return np.array([a == b for a, b in zip(left, right, strict=True)], bool)

    def correct(self, decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """Whether each decision is right: bool [decisions]."""
        return self.agree(decoded, references)

    def truth(
        self, references: Sequence[Any], teacher_outputs: Mapping[str, np.ndarray] | None
    ) -> Sequence[Any]:
        """``references``, or what stands for them where the rows have no answers."""
        return references

    def targets(self, references: Sequence[Any], encodings: Sequence[Any] | None) -> list[Any]:
        """What the loss on labels reads, one entry per row (an array per row with places)."""
        return list(references)

    def decisions(
        self, outputs: Mapping[str, np.ndarray], references: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Class probabilities [decisions, classes] and true classes [decisions].

        For calibration and for what goes wrong class by class; None where there are no classes.
        Where those do not exclude each other, every class of a row is a decision of no or yes.
        """
        return None
