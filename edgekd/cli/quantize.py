"""``edgekd quantize``: a float bundle to a compressed one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

CALIBRATION = 128


def quantize(
    bundle: Annotated[Path, typer.Argument(help="A float bundle.", show_default=False)],
    precision: Annotated[str, typer.Option(help="int8, …: what the bundle's target offers.")],
    out: Annotated[Path, typer.Option(help="Where the new bundle goes.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="Rows that set activation ranges; never the test data."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A group that stays in float; may be repeated.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Compress a bundle, compare it with the float one, and write a complete bundle."""
    from edgekd import data as reading
    from edgekd import exporter as exporters
    from edgekd import tasks
    from edgekd.bundle import Bundle
    from edgekd.errors import InputError, nearest
    from edgekd.exporter import Plan
    from edgekd.pipeline.context import spread

    base = Bundle.open(bundle)
    base.check_files()
    exporter = exporters.get(base.manifest.target)
    groups = [group.name for group in exporter.groups(base)]
    for name in keep or ():
        if name not in groups:
            raise InputError(f"{bundle} has no group '{name}'{nearest(name, groups)}")
    task = tasks.get(base.manifest.task)
    if precision in exporter.calibrated and not data:
        raise InputError(
            f"--precision {precision} takes activation ranges from rows: give --data, rows that are"
            " served like these and are not the test data"
        )
    rows: list[Any] = base.golden()[0]
    if data:  # spread: files are often sorted by class
        rows = spread(reading.read_rows(data, task, labelled=False), CALIBRATION)
    plan = Plan(precision, {name: base.manifest.precision for name in keep or ()})
    made = exporter.compress(base, plan, rows, out)
    document: dict[str, Any] = {
        "schema": "edgekd.quantize/1",
        "bundle": str(out),
        "precision": precision,
        "size_bytes": made.size_bytes,
        "was_bytes": base.size_bytes,
        "relative_error": made.manifest.provenance["relative_error"],
        "exact": exporter.inspect(made),
        "findings": [vars(finding) for finding in exporter.check(made)],
    }
    emit(document, json_path, lambda console: _show(console, document))


def _show(console: Any, document: dict[str, Any]) -> None:
    from edgekd.report import units

    console.print(
        f"{document['bundle']}: {document['precision']}, {units.size(document['size_bytes'])}"
        f" (was {units.size(document['was_bytes'])}); outputs within"
        f" {document['relative_error']:.1e} of the float bundle's.\n"
        "Score it with: edgekd eval "
        f"{document['bundle']} --data TEST"
    )
    for finding in document["findings"]:
        where = f" ({finding['where']})" if finding["where"] else ""
        console.print(f"{finding['level']}: {finding['message']}{where}")
