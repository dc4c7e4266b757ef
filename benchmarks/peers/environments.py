"""One virtual environment per peer, made from the pinned requirements beside this file."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from edgekd.errors import MissingDependency

HERE = Path(__file__).parent
PEERS = ("optimum", "olive")


def requirements(peer: str) -> Path:
    return HERE / f"requirements-{peer}.txt"


def version(peer: str) -> str:
    """The peer's own pin: ``optimum-onnx 0.1.0``."""
    name = {"optimum": "optimum-onnx", "olive": "olive-ai"}[peer]
    lines = requirements(peer).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}==")).replace("==", " ")


def python(peer: str, work: Path) -> Path:
    """The interpreter of ``peer``'s environment under ``work``, made where it is missing.

    A change of the requirements makes a new one. Raises :class:`MissingDependency` where pip
    cannot install them.
    """
    text = requirements(peer).read_bytes()
    folder = work / "environments" / f"{peer}-{hashlib.sha256(text).hexdigest()[:12]}"
    found = folder / "bin" / "python"
    if (folder / "complete").is_file():
        return found
    print(f"making the environment of {version(peer)} in {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(found), "-m", "pip", "install", "-q", "-r", str(requirements(peer))]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise MissingDependency(
            f"pip could not install {requirements(peer).name}: {' '.join(errors)[:300]}"
        )
    (folder / "complete").touch()
    return found


def run(peer: str, work: Path, *arguments: str) -> None:
    """Run the peer's script; raise :class:`MissingDependency` with its last line where it dies."""
    script = HERE / f"make_{peer}.py"
    log = work / f"{peer}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [str(python(peer, work)), "-B", str(script), *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise MissingDependency(f"{script.name} failed ({' '.join(last)[:300]}); see {log}")
