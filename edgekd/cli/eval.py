"""``edgekd eval``: how good a bundle is, and what it keeps of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit, ran
from edgekd.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from edgekd.bundle import Bundle
    from edgekd.preprocess import Row
    from edgekd.tasks import Task

SCHEMA = "edgekd.evaluation/1"


def eval_(
    bundle: Annotated[
        str,
        typer.Argument(
            help="A bundle, or a model directory or id, which is exported to ONNX first.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, folder or data set.")],
    teacher: Annotated[
        str | None, typer.Option(help="What to compare with: a model directory or id, or a bundle.")
    ] = None,
    signals: Annotated[
        Path | None, typer.Option(help="A signal store that holds the teacher's answers.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ROLE=NAME where a column has another name; repeats.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Score a bundle on labelled rows and, with a teacher, say what it retains.

    Intervals are at 95 %, by a paired bootstrap over the rows.
    """
    from edgekd.cli.common import bundle_of

    if teacher and signals:
        raise InputError("give --teacher or --signals, not both: they say the same thing")
    with bundle_of(bundle) as opened:
        document = _score(opened, str(bundle), data, teacher, signals, column, threads)
    emit(document, json_path, lambda console: _show(console, document))


def _score(
    opened: Bundle,
    name: str,
    data: str,
    teacher: str | None,
    signals: Path | None,
    column: list[str] | None,
    threads: int,
) -> dict[str, Any]:
    from edgekd import exporter, tasks
    from edgekd.blocks import cut
    from edgekd.data import name_labels, read_rows
    from edgekd.evaluate.run import evaluate, run_session
    from edgekd.exporter import Runtime
    from edgekd.progress import track

    manifest = opened.manifest
    task = tasks.get(manifest.task)
    rows = read_rows(data, task, _columns(column or []))
    if task.over_vocabulary:
        rows = cut(rows, opened.preprocessor)  # type: ignore[arg-type]
    rows = name_labels(rows, manifest.labels)
    references = task.references(rows, manifest.labels)
    session = exporter.get(manifest.target).open(opened, Runtime(threads=threads))
    try:
        with track("evaluate", len(rows)) as advance:
            outputs = run_session(session, opened, rows, progress=advance)
    finally:
        session.close()
    said = _teacher_outputs(opened, task, rows, teacher, signals, threads)
    scores = evaluate(task, manifest.labels, outputs, references, said)
    return {
        "schema": SCHEMA,
        "bundle": name,
        "task": task.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "dtype": exporter.get(manifest.target).slot(manifest.precision),
        "variant": manifest.variant,
        "size_bytes": opened.size_bytes,
        "bundle_bytes": opened.bundle_bytes,
        "data": data,
        "teacher": teacher or (str(signals) if signals else None),
        "evidence": "measured" if session.kind == "native" else "reference",
        **scores.to_dict(),
    }


def _columns(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise InputError(f"--column {text}: write ROLE=NAME, for example label=intent")
    return dict(text.split("=", 1) for text in given)


def _teacher_outputs(
    bundle: Bundle,
    task: Task,
    rows: Sequence[Row],
    teacher: str | None,
    signals: Path | None,
    threads: int,
) -> Mapping[str, np.ndarray] | None:
    """The teacher's outputs on the rows, its classes in the bundle's order."""
    from edgekd.bundle import MANIFEST, Bundle
    from edgekd.evaluate.run import predict
    from edgekd.exporter import Runtime
    from edgekd.progress import track

    labels = bundle.manifest.labels
    if signals:
        return _stored(signals, task, rows, labels)
    if teacher is None:
        return None
    if (Path(teacher) / MANIFEST).is_file():
        other = Bundle.open(teacher)
        with track("teacher", len(rows)) as advance:
            outputs = predict(other, rows, runtime=Runtime(threads), progress=advance)
        return _align(outputs, other.manifest.labels, labels, teacher)
    from edgekd import infer, models

    loaded = models.load(teacher, task)
    outputs = infer.predict(loaded, rows, task, "teacher")
    return _align(outputs, loaded.labels, labels, teacher)


def _stored(
    folder: Path, task: Task, rows: Sequence[Row], labels: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """A store holds no class names: its classes stand in the order the student was given."""
    import numpy as np

    from edgekd.pipeline.signals import filled
    from edgekd.signals import SignalStore, keys

    store = SignalStore.open(folder)
    absent = [name for name in task.outputs if name not in store.spec.fields]
    if absent:
        kept = ", ".join(store.spec.fields)
        raise InputError(f"{folder} has no dense '{absent[0]}' (it keeps {kept}); use --teacher")
    outputs = {name: filled(value) for name, value in store.get(keys(rows)).items()}
    for name in task.outputs:
        value = outputs[name] = outputs[name].astype(np.float32)
        if labels and value.shape[-1] != len(labels):
            raise InputError(
                f"{folder} holds '{name}' of {value.shape[-1]} classes, the bundle has"
                f" {len(labels)}; they belong to different teachers"
            )
    return outputs


def _align(
    outputs: Mapping[str, np.ndarray], given: Sequence[str], wanted: Sequence[str], where: str
) -> Mapping[str, np.ndarray]:
    """Put the teacher's classes into the bundle's order, by name."""
    if tuple(given) == tuple(wanted):
        return outputs
    if set(given) != set(wanted):
        odd = sorted(set(given) ^ set(wanted))
        raise InputError(
            f"{where} and the bundle do not have the same classes ({', '.join(odd[:4])}"
            f"{', …' if len(odd) > 4 else ''} only in one); give the teacher it was distilled from"
        )
    order = [list(given).index(label) for label in wanted]
    return {k: v if k == "mask" else v[..., order] for k, v in outputs.items()}


def _show(console: Console, scores: Mapping[str, Any]) -> None:
    from rich.table import Table

    from edgekd.report import story, units

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in scores["metrics"].items():
        low, high = scores["metrics_ci"][name]
        span = f"{story.metric(low, name)} to {story.metric(high, name)}"
        table.add_row(story.title(name), story.metric(value, name), span)
    if scores["retained"] is not None:
        low, high = (units.percent(value, 2) for value in scores["retained_ci"])
        table.add_row("retained", units.percent(scores["retained"], 2), f"{low} to {high}")
        table.add_row("agreement", units.percent(scores["agreement"], 2), "")
    if scores["ece"] is not None:
        table.add_row("calibration error", units.percent(scores["ece"], 2), "")
    table.add_row("size", units.size(scores["size_bytes"]), "")
    console.print(table)
    console.print(
        f"{scores['n']:,} rows of {ran(scores)}, 95 % intervals, evidence: {scores['evidence']}"
    )
