"""What a task knows: its columns, the teacher's signal, the metrics, the decoding.

Importing a task imports neither torch nor transformers: the evaluation workers use it too.

A metric is a function of *sums of per-example statistics* wherever it can be: accuracy is
``sum(correct) / sum(1)``, an F1 is a function of summed counts. Then a bootstrap over examples
is one matrix product of resampling weights with the statistics, whatever the metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgekd.preprocess import Row


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
    """One task. ``name`` is the Hugging Face task name; the first metric is the main one."""

    name: ClassVar[str]
    signal: ClassVar[str]  # what the teacher is asked for: "logits", "embeddings", …
    outputs: ClassVar[tuple[str, ...]]  # names of the deployed program's outputs
    auto_class: ClassVar[str]  # the transformers class that loads a model for this task
    default_columns: ClassVar[Mapping[str, tuple[str, ...]]]  # role -> column names tried

    @abstractmethod
    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        """The metrics over ``labels``, the main one first."""

    @abstractmethod
    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        """Turn model outputs of a batch into one prediction per example."""

    @abstractmethod
    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        """The true answers of labelled rows, in the form :meth:`decode` gives."""

    def agree(self, left: Sequence[Any], right: Sequence[Any]) -> np.ndarray:
        """Whether two models decide the same: bool [examples]."""
        return np.array([a == b for a, b in zip(left, right, strict=True)], bool)

    def probabilities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Class probabilities [examples, classes] where the task has classes, for calibration."""
        return None
