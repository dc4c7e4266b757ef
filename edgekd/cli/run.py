"""``edgekd run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from edgekd.report.document import Document


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory.", show_default="runs/<name of the recipe>"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="An unchecked budget line is inconclusive (exit 3).")
    ] = False,
    gate_projections: Annotated[
        bool,
        typer.Option(
            "--gate-projections", help="A projected range decides its budget line as well."
        ),
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Distil, export, quantize, check and measure, as a recipe says; leave a report.

    Exit code: 0 the budget holds, 1 it is missed, 2 the input is at fault, 3 inconclusive,
    4 the environment lacks something. Run again after a kill: it goes on where it was.
    """
    from edgekd import pipeline
    from edgekd import recipe as recipes

    loaded = recipes.load(recipe)
    folder = out or Path("runs") / loaded.name
    document = pipeline.run(
        loaded, recipe, folder, strict=strict, gate_projections=gate_projections
    )
    emit(document.to_dict(), json_path, lambda console: _show(console, document, folder))
    raise typer.Exit(document.verdict.exit_code)


def _show(console: Any, document: Document, folder: Path) -> None:
    from edgekd.report.terminal import show

    show(console, document)
    console.print(f"\n[bold]{folder / 'report.html'}[/bold]")
