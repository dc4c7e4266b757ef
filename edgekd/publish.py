"""Put a bundle in its place whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.bundle import MANIFEST, Bundle
from edgekd.errors import InputError


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out`` to build in; :func:`publish` moves it into place.

    Only a bundle is ever replaced: a file, or a folder that holds something else, is refused.
    """
    out = out.resolve()
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is not a bundle; name another folder, or remove it")
    stage = out.with_name(f"{out.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, out: Path) -> Bundle:
    """Replace ``out`` by the finished ``stage``."""
    out = out.resolve()
    old = out.with_name(f"{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    stage.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return Bundle.open(out)


def copy(bundle: Bundle, out: Path) -> Bundle:
    """Publish a copy of ``bundle`` at ``out``, whole or not at all."""
    with staged(out) as stage:
        shutil.copytree(bundle.path, stage, dirs_exist_ok=True)
        return publish(stage, out)
