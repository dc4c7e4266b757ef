"""``edgekd distill``: teacher in, student and its control out; no export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit


def distill(
    teacher: Annotated[str, typer.Argument(help="A fine-tuned model: a directory or an id.")],
    train: Annotated[str, typer.Option(help="Labelled training rows.")],
    test: Annotated[str, typer.Option(help="Labelled test rows; they only report.")],
    out: Annotated[Path, typer.Option(help="The run directory; the student is in student/.")],
    layers: Annotated[
        str | None, typer.Option(help="The teacher's layers to keep, as 0,5; all by default.")
    ] = None,
    trim: Annotated[bool, typer.Option("--trim", help="Trim the vocabulary to the task.")] = False,
    params: Annotated[
        str | None, typer.Option(help="Have the shape chosen: 12% of the teacher's, or 2M.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A model to start from instead of the teacher's layers.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task; read from the architecture by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option()] = 3e-4,
    temperature: Annotated[
        float | None, typer.Option(help="2 by default; 1 where tokens are sampled.")
    ] = None,
    soft_weight: Annotated[float, typer.Option(help="Weight of the teacher's answer.")] = 1.0,
    hard_weight: Annotated[float, typer.Option(help="Weight of the label.")] = 0.0,
    control: Annotated[
        bool, typer.Option(help="Also train the same student without the teacher.")
    ] = True,
    text: Annotated[str | None, typer.Option(help="The data's text column.")] = None,
    label: Annotated[str | None, typer.Option(help="The data's label column.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    json_path: JsonOption = None,
) -> None:
    """Label the rows once, train the student, and say what distillation bought."""
    from edgekd import models, pipeline
    from edgekd import recipe as recipes
    from edgekd.errors import InputError

    try:
        numbers = [int(n) for n in layers.split(",")] if layers else None
    except ValueError:
        raise InputError(f"--layers {layers}: write numbers with commas between, as 0,5") from None
    columns = {k: v for k, v in {"text": text, "label": label}.items() if v}
    values = {
        "name": out.name or "distill",
        "task": task or models.detect_task(teacher),
        "teacher": teacher,
        "data": {"train": train, "test": test, **columns},
        "student": {
            "layers": numbers,
            "model": student,
            "vocabulary": "trim" if trim else None,
            "params": params,
        },
        "distill": {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "temperature": temperature,
            "soft_weight": soft_weight,
            "hard_weight": hard_weight,
            "control": control,
        },
        "seed": seed,
    }
    recipe = recipes.validate(values, "the arguments")
    found = pipeline.distill(recipe, Path.cwd(), out)
    document: dict[str, Any] = {"schema": "edgekd.distill/1", "student": str(out / "student")}
    document |= found
    emit(document, json_path, lambda console: _show(console, document))


def _show(console: Any, document: dict[str, Any]) -> None:
    from rich.markup import escape

    for row in document["models"]:
        name, value = next(iter(row["metrics"].items()))
        kept = "" if row["retained"] is None else f", {row['retained']:.2%} of the teacher's"
        console.print(f"{row['id']:<14}{row['params']:>12,} parameters  {name} {value:.4f}{kept}")
    if document["gain"]:
        gain = document["gain"]
        console.print(
            f"distillation bought {gain['value']:+.4f} {gain['metric']}"
            f" (95 %: {gain['ci'][0]:+.4f} to {gain['ci'][1]:+.4f})"
        )
    for warning in document["warnings"]:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}")
    console.print(document["student"])
