"""What every verb shares: where human words go, where JSON goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 160

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="PATH", help="Write one JSON document; '-' is stdout."),
]


def emit(
    document: Mapping[str, Any], json_path: str | None, human: Callable[[Console], None]
) -> None:
    """Write ``document`` where ``--json`` says, and show ``human`` on a terminal's stream.

    Human words go to stdout, or to stderr while stdout carries the JSON.
    """
    from rich.console import Console

    stream = sys.stderr if json_path == "-" else sys.stdout
    # A log has no width: tables there are never cut, and lines never wrapped.
    width = None if stream.isatty() else LOG_WIDTH
    human(Console(file=stream, highlight=False, width=width, soft_wrap=not stream.isatty()))
    if json_path is None:
        return
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(json_path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the JSON to {json_path}: {error.strerror}") from error
