"""``edgekd verify``: is this bundle whole, and does it still compute what it shipped with?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit, ran

if TYPE_CHECKING:
    from edgekd.bundle import Bundle
    from edgekd.exporter import Exporter, Finding


def verify(
    bundle: Annotated[
        str,
        typer.Argument(
            help="A bundle, a bare model file (.mlpackage), or a model directory or id, which is"
            " exported to ONNX first.",
            show_default=False,
        ),
    ],
    json_path: JsonOption = None,
) -> None:
    """Check a bundle's files, lint its model, and run it on its own golden samples.

    Exit code: 0 it is right, 1 its numbers or its graph are wrong, 2 a file is missing or was
    altered.
    """
    from edgekd import exporter as exporters
    from edgekd.cli.common import bundle_of
    from edgekd.errors import VerificationError

    path = Path(bundle)
    bare = exporters.for_model_file(path)
    if bare is not None:
        document = _bare(path, bare)
    else:
        with bundle_of(bundle) as opened:
            document = _whole(bundle, opened)
    emit(document, json_path, lambda console: _show(console, document))
    if document["status"] == "failed":
        raise typer.Exit(VerificationError.exit_code)


def _whole(name: str, opened: Bundle) -> dict[str, Any]:
    """Files, graph and golden samples of a bundle."""
    from edgekd import exporter as exporters
    from edgekd.errors import VerificationError

    exporter = exporters.get(opened.manifest.target)
    findings = exporter.check(opened)
    try:
        error: float | None = exporters.verify(exporter, opened)
        failure = ""
    except VerificationError as wrong:
        error, failure = None, str(wrong)
    return {
        "schema": "edgekd.verify/1",
        "bundle": name,
        "target": opened.manifest.target,
        "precision": opened.manifest.precision,
        "dtype": exporter.slot(opened.manifest.precision),
        "files": len(opened.manifest.files),
        "relative_error": error,
        "tolerance": opened.manifest.tolerance,
        **_outcome(findings, failure),
    }


def _bare(path: Path, exporter: Exporter) -> dict[str, Any]:
    """The graph of a model file that came without a bundle."""
    return {
        "schema": "edgekd.verify/1",
        "bundle": str(path),
        "target": exporter.name,
        "precision": None,
        "dtype": None,
        "files": 0,
        "relative_error": None,
        "tolerance": None,
        **_outcome(exporter.check_model(path), ""),
    }


def _outcome(findings: list[Finding], failure: str) -> dict[str, Any]:
    errors = [finding for finding in findings if finding.level == "error"]
    return {
        "status": "failed" if errors or failure else "passed",
        "failure": failure or None,
        "findings": [vars(finding) for finding in findings],
    }


def _show(console: Any, document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        where = f" ({finding['where']})" if finding["where"] else ""
        console.print(f"{finding['level']}: {finding['message']}{where}")
    if document["failure"]:
        console.print(document["failure"])
    elif document["status"] == "passed" and not document["files"]:
        console.print(f"{document['bundle']}: the graph is sound; it came without golden samples")
    elif document["status"] == "passed":
        console.print(
            f"{document['bundle']}: {document['files']} files whole, golden outputs of"
            f" {ran(document)} within {document['relative_error']:.1e} (allowed {document['tolerance']:.0e})"
        )
