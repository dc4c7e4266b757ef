"""``edgekd doctor``: what this machine can and cannot do, and how to mend it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

# package -> what it is for, and how it is installed where it is missing
PACKAGES = {
    "torch": ("training and capture", "pip install edgekd"),
    "transformers": ("models", "pip install edgekd"),
    "onnxruntime": ("ONNX bundles", "pip install edgekd"),
    "coremltools": ("Core ML bundles", "pip install edgekd"),
}
OPTIONAL = {
    "playwright": ("browser bundles in a real browser", "pip install 'edgekd[browser]'"),
    "onnxruntime-extensions": ("tokenizers in ONNX graphs", "pip install 'edgekd[tokenizer]'"),
    "ray": ("labelling across machines", "pip install 'edgekd[ray]'"),
}
PROGRAMS = {
    "chromium": ("browser bundles in a real browser", "apt-get install chromium"),
    "npm": ("onnxruntime-web for browser bundles", "apt-get install npm"),
}


def doctor(
    need: Annotated[
        list[str] | None,
        typer.Option(help="Fail (exit 4) where this optional part is missing; may be repeated."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """List the libraries, programs and CPU features that edgekd found.

    Exit code 4 where a required library, or an optional part named by --need, is missing.
    """
    import shutil

    from edgekd.bench.environment import describe
    from edgekd.errors import InputError, MissingDependency, nearest

    optional = [*OPTIONAL, *PROGRAMS]
    for name in need or ():
        if name not in optional:
            raise InputError(f"--need {name}{nearest(name, optional)}: it is one of {optional}")
    rows: list[dict[str, Any]] = []
    for name, (purpose, mend) in {**PACKAGES, **OPTIONAL}.items():
        rows.append(_row(name, _version(name), purpose, mend, name in PACKAGES))
    for name, (purpose, mend) in PROGRAMS.items():
        rows.append(_row(name, shutil.which(name), purpose, mend, False))
    document = {"schema": "edgekd.doctor/1", "parts": rows, "environment": describe()}
    emit(document, json_path, lambda console: _show(console, document))
    needed = {*PACKAGES, *(need or ())}
    for row in rows:
        if not row["found"] and row["name"] in needed:
            raise MissingDependency(f"{row['name']} is missing; install it: {row['mend']}")


def _row(name: str, found: str | None, purpose: str, mend: str, required: bool) -> dict[str, Any]:
    return {"name": name, "found": found, "for": purpose, "mend": mend, "required": required}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _show(console: Any, document: dict[str, Any]) -> None:
    for row in document["parts"]:
        mark = "ok" if row["found"] else ("MISSING" if row["required"] else "-")
        rest = row["found"] or f"not found; {row['mend']}"
        console.print(f"{mark:>8}  {row['name']:<23}{row['for']:<36}{rest}", markup=False)
    found = document["environment"]
    console.print(
        f"          {found.get('cpu')}, {found.get('cores')} cores:"
        f" {' '.join(found.get('flags', []))}"
    )
