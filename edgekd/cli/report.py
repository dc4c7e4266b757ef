"""``edgekd report``: render a finished run's page again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console


def report(
    run: Annotated[
        Path, typer.Argument(help="A run directory, or its report.json.", show_default=False)
    ],
    json_path: JsonOption = None,
) -> None:
    """Write report.html from report.json."""
    from edgekd.report import html
    from edgekd.report.document import Document
    from edgekd.report.terminal import show

    source = run / "report.json" if run.is_dir() or not run.suffix else run
    document = Document.read(source)
    page = source.with_name("report.html")
    html.write(document, page)

    def human(console: Console) -> None:
        show(console, document)
        console.print(f"\n[bold]{page}[/bold]")

    emit(document.to_dict(), json_path, human)
