"""What is told beside the figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgekd import tasks
from edgekd.pipeline.caveats import of_models, outdone
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


def test_what_was_trained_and_on_what() -> None:
    name = "accuracy"
    overlap = {"dropped": 3}
    data = Done("data", "mark", 1.0, {"overlap": overlap}, reused=False)
    context: Any = SimpleNamespace(
        run=SimpleNamespace(done={"data": data}),
        task=tasks.get("text-classification"),
        labels=("a", "b"),
    )
    models = {
        "teacher": _model(name, 0.62, 0.6, 0.64),
        "student-no-kd": _model(name, 0.76, 0.74, 0.78),
        "student": _model(name, 0.7, 0.6, 0.8),
    }
    models["teacher"].result["cut"], models["student"].result["cut"] = 0.1, 0.3  # type: ignore[index]
    dropped, cut, better = of_models(context, models)
    assert dropped.startswith("3 training rows also stand in the test data")
    assert "30.0% of the training rows are longer than the student reads" in cut
    assert "the student alone is better than its teacher" in better
    models["teacher"].result["cut"], overlap["dropped"] = 0.3, 0  # type: ignore[index]
    del models["student-no-kd"]
    assert of_models(context, models) == []
