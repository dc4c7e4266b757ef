"""What every verb shares: where human words go, where JSON goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekd.bundle import Bundle

LOG_WIDTH = 160

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="PATH", help="Write one JSON document; '-' is stdout."),
]


@contextmanager
def bundle_of(source: str | Path) -> Iterator[Bundle]:
    """A bundle; or a model's fp32 ONNX export, made for this command and removed after it.

    Raises :class:`InputError` for what is neither, and where a file of a bundle was altered.
    """
    from edgekd.bundle import MANIFEST, Bundle

    folder = Path(source)
    is_bundle = (folder / MANIFEST).is_file()
    if is_bundle or (folder.exists() and not (folder / "config.json").is_file()):
        opened = Bundle.open(folder)
        opened.check_files()
        yield opened
        return
    if not folder.exists() and str(source).strip("./~").count("/") != 1:
        raise InputError(
            f"{source} does not exist: it is not a bundle and not a model directory, and a Hugging"
            " Face id is written organisation/name"
        )
    from edgekd import exporter, models, tasks
    from edgekd.exporter import Spec
    from edgekd.program import Shapes
    from edgekd.wrap import wrap

    task = tasks.get(models.detect_task(str(source)))
    loaded = models.load(str(source), task)
    rows = models.example_rows(task, loaded.preprocessor)
    program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, rows)
    with TemporaryDirectory(prefix="edgekd-") as work:
        yield exporter.get("onnx").lower(program, Spec(Shapes()), Path(work) / "onnx-fp32")


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


def ran(document: Mapping[str, Any]) -> str:
    """Which model of a bundle answered: of a folder with several, the one that it opens with."""
    dtype = f" (dtype {document['dtype']})" if document["dtype"] else ""
    return f"{document['precision']}{dtype}"
