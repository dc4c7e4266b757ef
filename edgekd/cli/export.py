"""``edgekd export``: any Hugging Face model to a bundle for one target."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from edgekd.bundle import Bundle
    from edgekd.exporter import Exporter, Spec


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face model directory or id.")],
    out: Annotated[Path, typer.Option(help="Where the bundle goes.", show_default=False)],
    target: Annotated[str, typer.Option(help="onnx, coreml or browser.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, int8, …; the target's float by default.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled rows: the bundle is scored on them, beside the model itself."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task; read from the architecture by default.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Fix the batch size.")] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Fix the number of tokens; several give the allowed lengths."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="The longest input served; the model's own by default."),
    ] = None,
    deployment: Annotated[
        str | None, typer.Option(help="Opset or OS version, such as iOS18.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The data's text column.")] = None,
    label: Annotated[str | None, typer.Option(help="The data's label column.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Export a model, compare it with torch on real rows, and write a complete bundle.

    Nothing is written where the numbers differ (exit 1).
    """
    from edgekd import data as reading
    from edgekd import exporter as exporters
    from edgekd import models, tasks
    from edgekd.errors import InputError, nearest
    from edgekd.exporter import Spec
    from edgekd.program import Shapes
    from edgekd.wrap import wrap

    exporter = exporters.get(target)
    spec = Spec(
        shapes=Shapes(batch, tuple(sorted(length or ()))),
        compute=exporter.default_compute,
        deployment=deployment,
    )
    known = exporter.precisions(spec)
    wanted = precision or known[0]
    if wanted not in known:
        raise InputError(
            f"unknown precision '{wanted}'{nearest(wanted, known)}; {target} offers"
            f" {', '.join(known)}"
        )
    chosen = tasks.get(task or models.detect_task(model))
    columns = {k: v for k, v in {"text": text, "label": label}.items() if v}
    rows = reading.read_rows(data, chosen, columns) if data else []
    loaded = models.load(model, chosen, max_length=max(length) if length else max_length)
    if rows:
        chosen.references(rows, loaded.labels)  # a stranger among the labels is told at once
    examples = _spread(rows) or models.example_rows(chosen, loaded.preprocessor)
    program = wrap(
        loaded.model,
        chosen,
        loaded.preprocessor,
        loaded.labels,
        examples,
        {"source": Path(model).name or model, "revision": loaded.revision},
    )
    bundle = _build(exporter, program, spec, wanted, rows or examples, out)
    document: dict[str, Any] = {
        "schema": "edgekd.export/1",
        "bundle": str(out),
        "target": target,
        "precision": wanted,
        "variant": bundle.manifest.variant,
        "size_bytes": bundle.size_bytes,
        "bundle_bytes": bundle.bundle_bytes,
        "relative_error": bundle.manifest.provenance["relative_error"],
        "exact": exporter.inspect(bundle),
        "findings": [vars(finding) for finding in exporter.check(bundle)],
    }
    if rows:
        document["evaluation"] = _score(loaded, chosen, bundle, rows)
    emit(document, json_path, lambda console: _show(console, document))


def _spread(rows: list[dict[str, Any]]) -> list[Any]:
    from edgekd.pipeline.context import EXAMPLES, spread

    return spread(rows, EXAMPLES) if rows else []


def _build(
    exporter: Exporter, program: Any, spec: Spec, precision: str, rows: list[Any], out: Path
) -> Bundle:
    from edgekd.exporter import Plan

    if precision == exporter.precisions(spec)[0]:
        return exporter.lower(program, spec, out)
    with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder:
        base = exporter.lower(program, spec, Path(folder) / "float")
        return exporter.compress(base, Plan(precision), rows[:128], out)


def _score(loaded: Any, task: Any, bundle: Bundle, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from edgekd.evaluate.run import evaluate, predict
    from edgekd.infer import predict as predict_torch
    from edgekd.progress import track

    references = task.references(rows, loaded.labels)
    said = predict_torch(loaded, rows, task.outputs, "score the model")
    with track("score the bundle", len(rows)) as advance:
        outputs = predict(bundle, rows, progress=advance)
    return evaluate(task, loaded.labels, outputs, references, said).to_dict()


def _show(console: Any, document: dict[str, Any]) -> None:
    from edgekd.report import units

    console.print(
        f"{document['bundle']}: {document['target']} {document['variant']},"
        f" {units.size(document['size_bytes'])}; outputs within"
        f" {document['relative_error']:.1e} of the model it was made from"
    )
    scored = document.get("evaluation")
    if scored:
        name, value = next(iter(scored["metrics"].items()))
        low, high = scored["retained_ci"]
        console.print(
            f"{name} {value:.4f} on {scored['n']:,} rows: {scored['retained']:.2%} of the model's"
            f" ({low:.1%} to {high:.1%}), the same decision on {scored['agreement']:.2%}"
        )
    for finding in document["findings"]:
        where = f" ({finding['where']})" if finding["where"] else ""
        console.print(f"{finding['level']}: {finding['message']}{where}")
