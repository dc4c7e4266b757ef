"""The npm packages that a browser bundle runs on: pinned, installed on first use, kept.

``npm/package-lock.json`` fixes every version and its hash, and names no registry: npm asks the
one that it is configured for. The packages lie in the user's cache, in a folder named by the
lock's own hash, so that another edgekd with other pins installs its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgekd.errors import MissingDependency

ORT = "onnxruntime-web"
TRANSFORMERS = "@huggingface/transformers"
_PINS = Path(__file__).parent / "npm"
_FILES = ("package.json", "package-lock.json")
# Only Node loads these: three quarters of the bytes.
_UNUSED = ("onnxruntime-node", "sharp", "@img")
TIME_LIMIT = 170.0  # seconds; less than what the bench grants one request


def installed() -> Path:
    """The ``node_modules`` folder with the pinned packages; installs them where it is absent.

    Raises :class:`MissingDependency` without npm, or where the installation fails.
    """
    home = _cache() / f"browser-{_digest()}"
    if not (home / "node_modules" / ORT).is_dir():
        _install(home)
    return home / "node_modules"


def versions() -> dict[str, str]:
    """The pinned version of each package, from the manifest alone."""
    manifest = json.loads((_PINS / "package.json").read_text(encoding="utf-8"))
    return dict(manifest["dependencies"])


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgekd"


def _digest() -> str:
    pins = b"".join((_PINS / name).read_bytes() for name in _FILES)
    return hashlib.sha256(pins).hexdigest()[:12]


def _install(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependency(
            f"npm is not installed, and {ORT} comes from it; run: apt-get install npm"
        )
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{home.name}.", dir=home.parent))
    except OSError as error:
        raise MissingDependency(
            f"{home.parent} cannot be written ({error.strerror}) and {ORT} is kept there; set"
            " XDG_CACHE_HOME to a folder that can"
        ) from error
    try:
        for name in _FILES:
            shutil.copyfile(_PINS / name, work / name)
        _npm_ci(npm, work)
        for name in _UNUSED:
            shutil.rmtree(work / "node_modules" / name, ignore_errors=True)
        for debug in (work / "node_modules").rglob("*.map"):
            debug.unlink()
        try:
            work.replace(home)
        except OSError:
            # Another process installed the same pins first.
            if not (home / "node_modules" / ORT).is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _npm_ci(npm: str, folder: Path) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        reason = f"not done after {TIME_LIMIT:.0f} s"
    else:
        if done.returncode == 0:
            return
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = [line for line in said if "complete log" not in line and " code " not in line]
        reason = (told or said or [f"status {done.returncode}"])[0][:200]
    raise MissingDependency(
        f"npm could not install {ORT} {versions()[ORT]} ({reason}); see that 'npm ping' answers,"
        " then try again"
    )
