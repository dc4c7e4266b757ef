from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekd import infer, tasks
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.evaluate import run
from edgekd.tasks.classification import accuracy

LABELS = ("low", "mid", "high")
Rows = list[dict[str, str]]
Make = Callable[..., Bundle]


def one_by_one(session: Any, rows: Rows, bundle: Bundle) -> np.ndarray:
    return np.concatenate([session.run(bundle.encode([row]))["logits"] for row in rows])


def test_batches_change_neither_the_order_nor_the_numbers(
    bundle_of: Make, session_of: Any, rows: Rows
) -> None:
    bundle = bundle_of("batch")
    session, done = session_of(bundle), []
    outputs = run.run_session(session, bundle, rows, batch_size=16, progress=done.append)
    assert [shape[0] for shape in session.batches] == [16, 16, 16, 16, 6] == done
    widths = [shape[1] for shape in session.batches]
    assert widths == sorted(widths)  # similar lengths together: little padding
    np.testing.assert_allclose(outputs["logits"], one_by_one(session, rows, bundle), rtol=1e-5)


def test_a_fixed_batch_is_filled_up_and_cut_off(
    bundle_of: Make, session_of: Any, rows: Rows
) -> None:
    bundle = bundle_of(4)
    session = session_of(bundle)
    outputs = run.run_session(session, bundle, rows)
    assert {shape[0] for shape in session.batches} == {4}
    free = bundle_of("batch")
    expected = one_by_one(session_of(free), rows, free)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5)


@pytest.mark.parametrize(("precision", "batch"), [("fp32", 32), ("int8", 1)])
def test_a_quantized_bundle_is_fed_as_a_device_feeds_it(
    bundle_of: Make, session_of: Any, rows: Rows, precision: str, batch: int
) -> None:
    bundle = bundle_of("batch", precision)
    session = session_of(bundle)
    run.run_session(session, bundle, rows)
    assert session.batches[0][0] == batch


def test_no_rows_are_refused(bundle_of: Make, session_of: Any) -> None:
    bundle = bundle_of("batch")
    with pytest.raises(InputError, match="no rows"):
        run.run_session(session_of(bundle), bundle, [])


def test_outputs_of_varying_width_are_filled_at_the_end() -> None:
    parts = [np.ones((2, 3, 4)), np.ones((1, 5, 4))]
    joined = infer.join(parts)
    assert joined.shape == (3, 5, 4)
    assert joined[:2, 3:].sum() == 0 and joined.sum() == 2 * 12 + 20


def test_evaluate_scores_model_and_teacher() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    teacher = np.eye(3)[truth] * 4 + rng.normal(size=(400, 3))
    student = teacher + rng.normal(size=(400, 3))
    task = tasks.get("text-classification")
    scores = run.evaluate(task, LABELS, {"logits": student}, truth, {"logits": teacher})
    right, taught = student.argmax(1), teacher.argmax(1)
    assert scores.n == 400
    assert list(scores.metrics) == ["accuracy", "macro_f1"]
    assert scores.metrics["accuracy"] == (right == truth).mean()
    assert scores.retained == accuracy()(right, truth) / accuracy()(taught, truth)
    assert scores.retained_ci[0] <= scores.retained <= scores.retained_ci[1]
    assert scores.agreement == (right == taught).mean()
    assert 0 <= scores.ece <= 1
    assert scores == run.evaluate(task, LABELS, {"logits": student}, truth, {"logits": teacher})


def test_without_a_teacher_nothing_is_retained() -> None:
    task = tasks.get("text-classification")
    scores = run.evaluate(task, LABELS, {"logits": np.eye(3)}, [0, 1, 2])
    assert (scores.retained, scores.retained_ci, scores.agreement) == (None, None, None)
    assert scores.to_dict()["metrics"]["accuracy"] == 1


def test_evaluating_imports_neither_torch_nor_transformers(bundle_of: Make, rows: Rows) -> None:
    bundle = bundle_of("batch")
    script = f"""
import sys
from edgekd import tasks
from edgekd.bundle import Bundle
from edgekd.evaluate import predict, evaluate
bundle = Bundle.open({str(bundle.path)!r})
rows = {rows[:8]!r}
outputs = predict(bundle, rows)
task = tasks.get(bundle.manifest.task)
truth = task.decode(outputs, bundle.manifest.labels)
assert evaluate(task, bundle.manifest.labels, outputs, truth, outputs).retained == 1
heavy = {{"torch", "transformers", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)
