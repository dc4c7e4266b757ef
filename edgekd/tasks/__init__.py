"""One file per task family; a task is looked up by its Hugging Face name."""

from __future__ import annotations

from edgekd.errors import InputError, nearest
from edgekd.tasks.base import Metric, Task
from edgekd.tasks.classification import AudioClassification, ImageClassification, TextClassification
from edgekd.tasks.feature_extraction import FeatureExtraction
from edgekd.tasks.fill_mask import FillMask
from edgekd.tasks.multi_label import MultiLabelClassification
from edgekd.tasks.question_answering import QuestionAnswering
from edgekd.tasks.regression import TextRegression
from edgekd.tasks.text_generation import TextGeneration
from edgekd.tasks.text_ranking import TextRanking
from edgekd.tasks.token_classification import TokenClassification

__all__ = ["TASKS", "Metric", "Task", "get"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TextClassification(),
        MultiLabelClassification(),
        TextRegression(),
        TokenClassification(),
        FeatureExtraction(),
        TextRanking(),
        QuestionAnswering(),
        ImageClassification(),
        AudioClassification(),
        TextGeneration(),
        FillMask(),
    )
}


def get(name: str) -> Task:
    """Return the task called ``name``; raise :class:`InputError` naming the nearest."""
    if name not in TASKS:
        raise InputError(
            f"unknown task '{name}'{nearest(name, list(TASKS))}; the tasks are {', '.join(TASKS)}"
        )
    return TASKS[name]
