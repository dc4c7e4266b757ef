"""``edgekd calibrate``: run small known models on the hardware, so that projections may follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console


def calibrate(
    profile: Annotated[str, typer.Option(help="Profile of the hardware.")] = "host",
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="WHERE", help="Where it is: ssh:user@machine or adb."),
    ] = None,
    python: Annotated[str, typer.Option(help="Python on that machine.")] = "python3",
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Only this model, repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to keep it in.", show_default="the user's data folder"),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure the calibration models on this machine or on a device, and keep the result.

    Run it once here and once per device; afterwards 'edgekd bench' projects from here to there.
    """
    import json
    import sys
    from contextlib import nullcontext

    from edgekd import profiles
    from edgekd.bench import projection, transport
    from edgekd.bench.calibrate import MODELS
    from edgekd.bench.calibrate import calibrate as measure
    from edgekd.errors import InputError, nearest

    for name in models or []:
        if name not in MODELS:
            raise InputError(f"unknown model '{name}'{nearest(name, list(MODELS))}")
    chosen = profiles.load(profile, Path())
    folder = out or projection.default_folder()
    with transport.parse(on, python) if on else nullcontext(transport.Local()) as place:
        found = measure(
            chosen,
            models,
            transport=place,
            progress=lambda name: print(f"calibrating with {name}", file=sys.stderr),
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{chosen.name}.json"
    file.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")

    def show(console: Console) -> None:
        for name, value in found.models.items():
            console.print(f"  {name}: {value:.3g} ms", markup=False)
        console.print(f"kept in {file}", markup=False)

    emit(found.to_dict(), json_path, show)
