"""What is told beside the figures."""

from __future__ import annotations

import pytest

from edgekd import tasks
from edgekd.pipeline.caveats import outdone
from edgekd.pipeline.stage import Done


def _model(name: str, value: float, low: float, high: float) -> Done:
    said = {"metrics": {name: value}, "metrics_ci": {name: (low, high)}}
    return Done("a stage", "mark", 1.0, {"evaluation": said}, reused=False)


@pytest.mark.parametrize(
    ("task", "teacher", "alone", "told"),
    [
        ("text-classification", 0.62, (0.76, 0.74, 0.78), True),
        ("text-classification", 0.75, (0.76, 0.74, 0.78), False),  # not told apart
        ("text-classification", 0.92, (0.76, 0.74, 0.78), False),
        ("text-generation", 90.0, (60.0, 55.0, 65.0), True),  # perplexity: lower is better
        ("text-generation", 50.0, (60.0, 55.0, 65.0), False),
    ],
)
def test_a_teacher_that_the_student_outdoes_alone_is_told(
    task: str, teacher: float, alone: tuple[float, float, float], told: bool
) -> None:
    metric = tasks.get(task).metrics(["a", "b"])[0]
    found = outdone(
        metric, _model(metric.name, *alone), {"teacher": _model(metric.name, teacher, 0, 1)}
    )
    assert bool(found) is told
    if found:
        assert "fit the teacher longer" in found and f"{teacher:.4f}" in found
