"""``edgekd verify``: is this bundle whole, and does it still compute what it shipped with?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", show_default=False)],
    json_path: JsonOption = None,
) -> None:
    """Check a bundle's files, lint its model, and run it on its own golden samples.

    Exit code: 0 it is right, 1 its numbers or its graph are wrong, 2 a file is missing or was
    altered.
    """
    from edgekd import exporter as exporters
    from edgekd.bundle import Bundle
    from edgekd.errors import VerificationError

    opened = Bundle.open(bundle)
    exporter = exporters.get(opened.manifest.target)
    opened.check_files()
    findings = exporter.check(opened)
    errors = [finding for finding in findings if finding.level == "error"]
    try:
        error: float | None = exporters.verify(exporter, opened)
        failure = ""
    except VerificationError as wrong:
        error, failure = None, str(wrong)
    document: dict[str, Any] = {
        "schema": "edgekd.verify/1",
        "bundle": str(bundle),
        "target": opened.manifest.target,
        "precision": opened.manifest.precision,
        "files": len(opened.manifest.files),
        "status": "failed" if errors or failure else "passed",
        "relative_error": error,
        "tolerance": opened.manifest.tolerance,
        "failure": failure or None,
        "findings": [vars(finding) for finding in findings],
    }
    emit(document, json_path, lambda console: _show(console, document))
    if document["status"] == "failed":
        raise typer.Exit(VerificationError.exit_code)


def _show(console: Any, document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        where = f" ({finding['where']})" if finding["where"] else ""
        console.print(f"{finding['level']}: {finding['message']}{where}")
    if document["failure"]:
        console.print(document["failure"])
    elif document["status"] == "passed":
        console.print(
            f"{document['bundle']}: {document['files']} files whole, golden outputs within"
            f" {document['relative_error']:.1e} (allowed {document['tolerance']:.0e})"
        )
