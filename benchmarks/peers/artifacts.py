"""Artifacts of one student: the peers' and ours, each made once and kept by content."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import environments
import numpy as np
import onnx
import rows as exchange

import edgekd
from edgekd.bench import environment
from edgekd.bundle import MANIFEST, Bundle, Manifest, sha256
from edgekd.errors import EdgekdError, VerificationError

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Artifact:
    """One ONNX file as a bundle that edgekd's runner opens, and the test rows as its maker
    encodes them. ``names`` has more than one entry where several settings gave the same file."""

    maker: str
    names: tuple[str, ...]
    bundle: Bundle
    feeds: Feeds

    @property
    def id(self) -> str:
        return f"{self.maker} {self.names[0]}"

    @property
    def int8(self) -> bool:
        """Whether its weights are in 8 bits: neither float nor the peers' 4-bit blocks."""
        return not any(part in self.names[0] for part in ("fp32", "4-bit", "int4"))


@dataclass(frozen=True)
class Failure:
    """What a peer could not make, or onnxruntime not load, in the tool's own words."""

    maker: str
    name: str
    error: str


def ours(
    student: Path, task: str, select: Path, test: Sequence[Mapping[str, Any]], work: Path
) -> list[Artifact]:
    """fp32, and what ``auto`` picks within a point on the selection rows."""
    settings = {
        "fp32": ["--precision", "fp32"],
        "auto": ["--precision", "auto", "--max-drop", "0.01", "--select", str(select)],
    }
    made = []
    for name, options in settings.items():
        bundle = export(student, task, options, work / f"edgekd-{name}", select)
        feeds = [bundle.encode([row]) for row in test]
        precision = bundle.manifest.precision
        label = precision if name == precision else f"{name}: {precision}"
        made.append(Artifact("edgekd", (label,), bundle, feeds))
    return made


def export(student: Path, task: str, options: Sequence[str], stem: Path, *given: Path) -> Bundle:
    """``edgekd export`` as a user calls it, once per content of the student, of ``given`` and of
    our own code."""
    folder = stem.with_name(f"{stem.name}-{_key(student, *given, *_sources(), on=here())}")
    if not (folder / MANIFEST).is_file():
        print(f"  edgekd export {' '.join(options)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "edgekd", "export", str(student), "--target", "onnx"]
        command += ["--task", task, "--out", str(folder), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise VerificationError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return Bundle.open(folder)


def theirs(
    peer: str,
    student: Path,
    task: str,
    test: Sequence[Mapping[str, Any]],
    calibration: Sequence[Mapping[str, Any]],
    work: Path,
) -> tuple[list[Artifact], list[Failure]]:
    """What ``peer`` makes of ``student``; files that come out equal are one artifact."""
    out = make(peer, student, task, test, calibration, work)
    feeds = exchange.read(out / "feeds.npz")
    found: dict[str, Artifact] = {}
    failures = []
    for entry in json.loads((out / "made.json").read_text(encoding="utf-8")):
        if entry["name"] == "fp32-fused":
            continue  # only there to be quantized
        if entry["error"]:
            failures.append(Failure(peer, entry["name"], entry["error"]))
            continue
        content = sha256(out / entry["file"])
        if content in found:
            same = found[content]
            names = (*same.names, entry["name"])
            found[content] = Artifact(peer, names, same.bundle, same.feeds)
            continue
        bundle = as_bundle(out / entry["file"], out / "bundles" / entry["name"], task)
        try:
            _session(bundle)
        except EdgekdError as error:
            failures.append(Failure(peer, entry["name"], str(error)))
            continue
        found[content] = Artifact(peer, (entry["name"],), bundle, fitting(bundle, feeds))
    return list(found.values()), failures


def make(
    peer: str,
    student: Path,
    task: str,
    test: Sequence[Mapping[str, Any]],
    calibration: Sequence[Mapping[str, Any]],
    work: Path,
    only: Sequence[str] = (),
) -> Path:
    """Run the peer's script where its output is not kept yet; return the output's folder."""
    raw, samples = work / "test.npz", work / "calibration.npz"
    exchange.write(raw, [_raw(row) for row in test])
    exchange.write(samples, [_raw(row) for row in calibration])
    scripts = [environments.HERE / f"{name}.py" for name in (f"make_{peer}", "produce", "encode")]
    key = _key(student, raw, samples, environments.requirements(peer), *scripts)
    out = work / f"{'-'.join([peer, *only, key])}"
    if not (out / "made.json").is_file():
        print(f"  {environments.version(peer)}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
        environments.run(
            peer, work.parent, str(student.resolve()), "--task", task, "--rows", str(raw),
            "--calibration", str(samples), "--out", str(out), "--only", *only,
        )  # fmt: skip
    return out


def as_bundle(file: Path, folder: Path, task: str) -> Bundle:
    """A peer's file in a folder that edgekd's runner opens: the same session options for all."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / "model.onnx")
    manifest = Manifest(
        task=task,
        target="onnx",
        precision=folder.name,
        variant=folder.name,
        labels=(),
        inputs=(),
        outputs=(),
        preprocess={},
        model_files=("model.onnx",),
        runtime={},
        provenance={},
        tolerance=0.0,
    )
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    return Bundle.open(folder)


def fitting(bundle: Bundle, feeds: Feeds) -> Feeds:
    """Only the inputs that the graph declares; a fused one may have lost some."""
    graph = onnx.load(bundle.path / "model.onnx", load_external_data=False).graph
    stored = {value.name for value in graph.initializer}
    wanted = [value.name for value in graph.input if value.name not in stored]
    return [{name: feed[name] for name in wanted} for feed in feeds]


def logits(artifact: Artifact, work: Path) -> np.ndarray:
    """The first output for every test row, one at a time: float32 [rows, classes]; kept."""
    digest = hashlib.sha256(sha256(artifact.bundle.path / "model.onnx").encode() + here())
    for feed in artifact.feeds:
        for array in feed.values():
            digest.update(np.ascontiguousarray(array).tobytes())
    kept = work / f"logits-{digest.hexdigest()[:16]}.npy"
    if not kept.is_file():
        session = _session(artifact.bundle)
        rows = [next(iter(session.run(feed).values())) for feed in artifact.feeds]
        np.save(kept, np.concatenate(rows))
    return np.load(kept)


def _session(bundle: Bundle) -> Any:
    from edgekd import exporter

    return exporter.get("onnx").open(bundle)


def _raw(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("text", "text_pair", "image", "audio", "sampling_rate")
    return {name: row[name] for name in names if name in row}


def _sources() -> list[Path]:
    """Our own code, whose change makes our artifacts anew."""
    import edgekd_exporters.onnx as target

    return [Path(edgekd.__file__).parent, Path(target.__file__).parent]


def here() -> bytes:
    """This machine, whose own are the choice of auto, int8 answers and times."""
    found = environment.describe()
    told = [found["cpu"], found["flags"], found["libraries"]["onnxruntime"]]
    return json.dumps(told).encode()


def _key(*paths: Path, on: bytes = b"") -> str:
    """A name for the content of files and folders."""
    digest = hashlib.sha256(on)
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.suffix != ".pyc" and not file.name.startswith("test-"):
                digest.update(file.name.encode() + sha256(file).encode())
    return digest.hexdigest()[:16]
