"""What a reader should know before trusting the figures: the warnings of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.pipeline.context import Context
from edgekd.pipeline.precision import doubts
from edgekd.pipeline.preflight import cut_off
from edgekd.pipeline.stage import Done
from edgekd.tasks import Metric


def of_models(context: Context, models: Mapping[str, Done]) -> list[str]:
    """Of what was trained, and on what."""
    found = []
    overlap = context.run.done["data"].result["overlap"]
    if overlap["dropped"]:
        found.append(
            f"{overlap['dropped']} training rows also stand in the test data; they were dropped from"
            " training"
        )
    lost = models["student"].result["cut"]
    if (warning := cut_off(lost, "student")) and lost > models["teacher"].result["cut"]:
        found.append(warning)  # the teacher's own was said when it labelled
    control = models.get("student-no-kd")
    if control and (told := outdone(context.task.metrics(context.labels)[0], control, models)):
        found.append(told)
    return found


def outdone(metric: Metric, control: Done, models: Mapping[str, Done]) -> str | None:
    """One line where the student alone is better than its teacher, who then has nothing to teach."""
    alone, teacher = (found.result["evaluation"] for found in (control, models["teacher"]))
    low, high = alone["metrics_ci"][metric.name]
    value = teacher["metrics"][metric.name]
    if not (high < value if metric.lower_is_better else low > value):
        return None
    return (
        f"the student alone is better than its teacher ({metric.name}"
        f" {alone['metrics'][metric.name]:.4f} against {value:.4f}): such a teacher holds it back; fit"
        " the teacher longer or at a higher learning rate, or distil from another"
    )


def of_search(search: Mapping[str, Any] | None) -> list[str]:
    """Of what a search chose, where one did."""
    if search is None:
        return []
    return [line for line in (search["missed"], *doubts(search)) if line]
