"""One stage of a run: skipped when nothing it depends on has changed, atomic when it runs.

A stage's fingerprint covers its settings, the fingerprints of the stages before it, the source
of the modules it runs and the versions of the libraries under them. Its record is written last,
so a stage killed anywhere runs again, and its earlier output stays until the new one is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edgekd
from edgekd.errors import InputError
from edgekd.progress import say

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "coremltools",
    "numpy",
    "scikit-learn",
    "pillow",
)


@dataclass(frozen=True)
class Done:
    """A finished stage: what it returned, and what later stages depend on."""

    name: str
    fingerprint: str
    seconds: float
    result: Mapping[str, Any]
    reused: bool


@dataclass
class Run:
    """A run directory and the stages that were passed through in this process."""

    path: Path
    done: dict[str, Done] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        depends: Mapping[str, Any],
        code: tuple[str, ...],
        make: Callable[[Path], Mapping[str, Any]],
        output: str | None = None,
    ) -> Done:
        """Run ``make(scratch)`` unless its record has the same fingerprint.

        ``depends`` is JSON; a :class:`Done` in it counts with its fingerprint. ``scratch`` is a
        folder that outlives a kill (checkpoints go there). What ``make`` leaves in
        ``scratch/output`` replaces ``output`` (a path inside the run directory) at the end.
        """
        mark = fingerprint(depends, code)
        record = self.path / "stages" / f"{name}.json"
        target = self.path / output if output else None
        earlier = _read(record)
        if earlier and earlier["fingerprint"] == mark and _whole(target, earlier.get("files")):
            finished = Done(name, mark, earlier["seconds"], earlier["result"], reused=True)
        else:
            finished = self._make(name, mark, record, target, make)
        self.done[name] = finished
        return finished

    def _make(
        self,
        name: str,
        mark: str,
        record: Path,
        target: Path | None,
        make: Callable[[Path], Mapping[str, Any]],
    ) -> Done:
        say(f"{name} …")
        work = self.path / "partial"
        scratch = work / f"{name}.{mark[:12]}"
        for other in work.glob(f"{name}.*"):
            if other != scratch:
                shutil.rmtree(other)  # what an earlier recipe left half done
        scratch.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        before = _spent(scratch)
        try:
            result = make(scratch)
        finally:
            seconds = round(before + time.monotonic() - started, 2)
            if scratch.exists():
                (scratch / "seconds").write_text(str(seconds))
        record.parent.mkdir(exist_ok=True)
        # Without its record an output counts for nothing, whatever happens between here and there.
        record.unlink(missing_ok=True)
        if target is not None:
            _replace(scratch / "output", target)
        values = {
            "fingerprint": mark,
            "seconds": seconds,
            "result": result,
            "files": _sizes(target),
        }
        text = json.dumps(values, indent=1)
        partial = record.with_suffix(".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(record)
        shutil.rmtree(scratch)
        say(f"{name}: {seconds:.1f} s")
        return Done(name, mark, seconds, json.loads(text)["result"], reused=False)


def fingerprint(depends: Mapping[str, Any], code: tuple[str, ...]) -> str:
    """Hash of JSON values, of module sources and of library versions."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=_plain).encode())
    for module in code:
        digest.update(_source(module).encode())
    for library in LIBRARIES:
        digest.update(_version(library).encode())
    return digest.hexdigest()


def content(path: Path) -> str:
    """Hash of a file's bytes, or of a folder's names and bytes."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Done):
        return value.fingerprint
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")


@cache
def _source(module: str) -> str:
    """Hash of a module's source, or of all modules of a package, found without importing it."""
    root, *rest = module.split(".")
    base = Path(edgekd.__file__).parent
    if root != "edgekd":
        from importlib.util import find_spec

        found = find_spec(root)
        if found is None or not found.origin:
            raise InputError(f"the package {root} is not installed whole; install edgekd again")
        base = Path(found.origin).parent
    path = base.joinpath(*rest)
    path = path if path.is_dir() else path.with_suffix(".py")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _version(library: str) -> str:
    return f"{library}={version(library)}"


def _sizes(target: Path | None) -> dict[str, int]:
    """Size of each file of an output, by its path inside it."""
    if target is None or not target.exists():
        return {}
    files = [p for p in target.rglob("*") if p.is_file()] if target.is_dir() else [target]
    return {p.relative_to(target).as_posix(): p.stat().st_size for p in files}


def _whole(target: Path | None, files: Mapping[str, int] | None) -> bool:
    """Whether an earlier output is still there as it was left (later files may lie beside it)."""
    if target is None:
        return True
    here = _sizes(target)
    return target.exists() and all(here.get(name) == size for name, size in (files or {}).items())


def _read(record: Path) -> dict[str, Any] | None:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _spent(scratch: Path) -> float:
    file = scratch / "seconds"
    return float(file.read_text() or 0) if file.is_file() else 0.0


def _replace(new: Path, target: Path) -> None:
    """Put ``new`` at ``target``; a kill between the two renames is mended by running again."""
    if not new.exists():
        raise FileNotFoundError(f"the stage left nothing at {new}")
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f"{target.name}.old")
    if old.is_dir():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    new.replace(target)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
