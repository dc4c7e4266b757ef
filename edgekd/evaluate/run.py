"""Run a bundle over rows, and say how good its answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgekd import exporter, tasks
from edgekd.bundle import Bundle, encode
from edgekd.errors import InputError
from edgekd.evaluate.bootstrap import estimate, retained
from edgekd.evaluate.calibration import expected_calibration_error, reliability
from edgekd.exporter import Runtime, Session
from edgekd.infer import join
from edgekd.preprocess import Preprocessor, Row, TextPreprocessor
from edgekd.tasks.base import Task

FLOAT_BATCH = 32
_FLOATS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Evaluation:
    """How good one model's answers are, and what they keep of the teacher's.

    The first of ``metrics`` is the task's main one; ``retained`` and ``agreement`` are None where
    no teacher was given, ``ece`` where the task has no classes. Intervals are at 95 %.
    """

    n: int
    metrics: dict[str, float]
    metrics_ci: dict[str, tuple[float, float]]
    retained: float | None = None
    retained_ci: tuple[float, float] | None = None
    agreement: float | None = None
    ece: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict(
    bundle: Bundle,
    rows: Sequence[Row],
    *,
    runtime: Runtime | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run ``bundle`` over ``rows``; return its outputs by name, [rows, …], in the rows' order.

    ``batch_size`` None is 32 for float models and 1 for quantized ones: dynamic quantization
    takes its activation range from the whole batch, so that one row's numbers depend on its
    neighbours', and a device runs one row at a time. A batch that the bundle fixes is kept.
    ``progress`` is called with the number of rows that each step finished.

    Raises :class:`InputError` where there are no rows.
    """
    session = exporter.get(bundle.manifest.target).open(bundle, runtime)
    try:
        return run_session(session, bundle, rows, batch_size=batch_size, progress=progress)
    finally:
        session.close()


def run_session(
    session: Session,
    bundle: Bundle,
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """:func:`predict` on a session that is already open."""
    manifest, preprocessor = bundle.manifest, bundle.preprocessor
    fixed = manifest.inputs[0].shape[0]
    if isinstance(fixed, int):
        batch_size = fixed
    elif batch_size is None:
        batch_size = FLOAT_BATCH if manifest.precision in _FLOATS else 1

    def run(batch: list[Row]) -> dict[str, np.ndarray]:
        if isinstance(fixed, int):  # the last batch is filled up; what fills it is cut off again
            batch = batch + batch[-1:] * (fixed - len(batch))
        said = session.run(encode(manifest, preprocessor, batch))
        return tasks.get(manifest.task).collect(said, batch, preprocessor)

    return _over_batches(preprocessor, rows, batch_size, run, progress)


def evaluate(
    task: Task,
    labels: Sequence[str],
    outputs: Mapping[str, np.ndarray],
    references: Sequence[Any],
    teacher_outputs: Mapping[str, np.ndarray] | None = None,
) -> Evaluation:
    """Score ``outputs`` of a model against ``references`` and, where given, its teacher.

    ``references`` is what :meth:`Task.references` returns; teacher and model answered the same
    rows in the same order and share ``labels``. Deterministic: the bootstrap is seeded.
    """
    decoded = task.decode(outputs, labels)
    references = task.truth(references, teacher_outputs)
    metrics = task.metrics(labels)
    estimates = {metric.name: estimate(metric, decoded, references) for metric in metrics}
    scores = Evaluation(
        n=len(references),
        metrics={name: e.value for name, e in estimates.items()},
        metrics_ci={name: (e.ci_low, e.ci_high) for name, e in estimates.items()},
    )
    decisions = task.decisions(outputs, references)
    if decisions is not None:
        bins = reliability(*decisions)
        scores = replace(scores, ece=expected_calibration_error(bins))
    if teacher_outputs is None:
        return scores
    teacher = task.decode(teacher_outputs, labels)
    kept = retained(metrics[0], decoded, teacher, references)
    return replace(
        scores,
        retained=kept.value,
        retained_ci=(kept.ci_low, kept.ci_high),
        agreement=float(task.agree(decoded, teacher).mean()),
    )


def _over_batches(
    preprocessor: Preprocessor,
    rows: Sequence[Row],
    batch_size: int,
    run: Callable[[list[Row]], dict[str, np.ndarray]],
    progress: Callable[[int], None] | None,
) -> dict[str, np.ndarray]:
    """Run batch after batch, texts of similar length together; outputs in the rows' order."""
    if not rows:
        raise InputError("there are no rows to evaluate")
    order = np.arange(len(rows))
    if isinstance(preprocessor, TextPreprocessor) and batch_size > 1:
        order = np.argsort(preprocessor.lengths(rows), kind="stable")
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[i] for i in order[start : start + batch_size]]
        parts.append({name: array[: len(batch)] for name, array in run(batch).items()})
        if progress:
            progress(len(batch))
    back = np.argsort(order)
    return {name: join([part[name] for part in parts])[back] for name in parts[0]}
