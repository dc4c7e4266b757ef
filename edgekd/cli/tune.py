"""``edgekd tune``: search a recipe's settings on rows held out of its training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit


def tune(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory.", show_default="runs/<name of the recipe>"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all, whoever makes them.", show_default="30")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Begin no trial after this, as 30 min.", show_default="none")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes.", show_default="1")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of a trial, at most.", show_default="the recipe's")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Training rows of a trial.", show_default="all")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Find better settings: temperature, weights, learning rate, method, shape.

    The test data takes no part. Start it twice with the same --out and both work on one study;
    start it again after a kill and it goes on. Options stand over the recipe's tune section.
    """
    from edgekd import pipeline
    from edgekd import recipe as recipes

    options = {
        "trials": trials,
        "timeout": timeout,
        "jobs": jobs,
        "epochs": epochs,
        "rows": rows,
    }
    given = {name: value for name, value in options.items() if value is not None}
    loaded = recipes.with_tune(recipes.load(recipe), given)
    folder = out or Path("runs") / loaded.name
    found = pipeline.tune(loaded, recipe, folder)
    chosen = folder / "tune" / "chosen.yaml"
    emit(
        {"schema": "edgekd.tune/1", "name": loaded.name, "out": str(folder), **found},
        json_path,
        lambda console: _show(console, found, chosen),
    )


def _show(console: Any, found: dict[str, Any], chosen: Path) -> None:
    from edgekd.report.terminal import show_tuning

    show_tuning(console, found)
    console.print(chosen)
