"""Where a worker runs: on this machine, on any machine over ssh, on an Android phone over adb.

A remote machine needs Python 3.11 or newer with numpy and the bundle's runtime. It is sent the
few modules that the worker consists of, the bundle's model files and the encoded rows; they lie
in a temporary folder there that is removed at the end. The worker and its replies are the same
everywhere.
"""

from __future__ import annotations

import ast
import io
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import edgekd
from edgekd.bench.runner import TIME_LIMIT, Runner
from edgekd.errors import InconclusiveError, InputError, MissingDependency

_ROOTS = ("edgekd.bench.worker", "edgekd.bench.concurrency")
_WORKER_PATH = "{worker}"  # PYTHONPATH there
_ANDROID_FOLDER = "/data/local/tmp"  # the one that adb's shell may write to
_CHECK = "import sys; assert sys.version_info >= (3, 11), sys.version; import numpy"


class Transport(Protocol):
    """How a worker is started, and how its files get to where it runs."""

    remote: bool

    def start(self, name: str) -> Runner: ...

    def place(self, path: Path) -> str:
        """Make a local file or folder available to the worker; return its path there."""
        ...


class Local:
    """Workers are processes of this machine."""

    remote = False

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit

    def start(self, name: str) -> Runner:
        return Runner(name, time_limit=self.time_limit)

    def place(self, path: Path) -> str:
        return str(path.resolve())


class Remote:
    """Workers behind a command that runs a shell line elsewhere; a context manager.

    ``shell`` is that command (``["ssh", "pi@10.0.0.7"]``); ``python`` the interpreter there.
    """

    remote = True

    def __init__(
        self, shell: Sequence[str], title: str, folder: str = "/tmp", python: str = "python3"
    ) -> None:
        self.shell = list(shell)
        self.title = title
        self.python = python
        self._parent = folder
        self._folder = ""
        self._placed: dict[Path, str] = {}

    def __enter__(self) -> Self:
        """Check that the machine answers and can run a worker, and send it the worker."""
        if shutil.which(self.shell[0]) is None:
            raise MissingDependency(
                f"'{self.shell[0]}' is not installed, and {self.title} needs it"
            )
        made = self._do(f"mktemp -d {shlex.quote(self._parent)}/edgekd.XXXXXX", "does not answer")
        self._folder = made.strip().splitlines()[-1]
        try:
            self._do(
                f"{self.python} -c {shlex.quote(_CHECK)}",
                f"cannot run a worker with '{self.python}' (Python 3.11 or newer and numpy)",
            )
            self._send(_pack(), "worker")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was sent."""
        if self._folder:
            self._do(f"rm -rf {shlex.quote(self._folder)}", "could not be cleaned up")
            self._folder = ""

    def start(self, name: str) -> Runner:
        path = _WORKER_PATH.format(worker=f"{self._folder}/worker")
        line = f"PYTHONPATH={path} exec {self.python} -m edgekd.bench.worker"
        return Runner(f"{name} on {self.title}", [*self.shell, line])

    def place(self, path: Path) -> str:
        path = path.resolve()
        if path not in self._placed:
            name = f"{len(self._placed)}-{path.name}"
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w:gz") as archive:
                archive.add(path, name)
            self._send(stream.getvalue(), "files")
            self._placed[path] = f"{self._folder}/files/{name}"
        return self._placed[path]

    def _send(self, archive: bytes, into: str) -> None:
        folder = shlex.quote(f"{self._folder}/{into}")
        self._do(f"mkdir -p {folder} && tar -xzf - -C {folder}", "did not take the files", archive)

    def _do(self, line: str, failure: str, data: bytes = b"") -> str:
        """Run one shell line there; raise :class:`InconclusiveError` where it fails."""
        try:
            done = subprocess.run(
                [*self.shell, line], input=data, capture_output=True, timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            raise InconclusiveError(
                f"{self.title} {failure}: nothing within {TIME_LIMIT:.0f} s"
            ) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise InconclusiveError(
                f"{self.title} {failure}{': ' + said[-1][:200] if said else ''}; nothing was"
                " measured there"
            )
        return done.stdout.decode(errors="replace")


def ssh(address: str, options: Sequence[str] = (), python: str = "python3") -> Remote:
    """A machine that ``ssh ADDRESS`` logs into without asking for a password."""
    settings = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15")
    flags = [word for setting in settings for word in ("-o", setting)]
    shell = ["ssh", *flags, *options, address]
    return Remote(shell, "the ssh host", python=python)


def adb(serial: str | None = None, python: str = "python3") -> Remote:
    """An Android phone with a Python of its own (Termux's, say), found by ``adb``."""
    if shutil.which("adb") is None:
        raise MissingDependency("'adb' is not installed; install Android's platform-tools")
    devices = subprocess.run(["adb", "devices"], capture_output=True, text=True).stdout
    answering = [row.split()[0] for row in devices.splitlines()[1:] if row.endswith("\tdevice")]
    if not answering or (serial and serial not in answering):
        raise InconclusiveError(
            f"no Android device answers{f' as {serial}' if serial else ''}; plug one in, allow USB"
            " debugging, and look at 'adb devices'"
        )
    if serial is None and len(answering) > 1:
        raise InputError(f"{len(answering)} Android devices answer; name one: adb:SERIAL")
    shell = ["adb", "-s", serial or answering[0], "shell", "-T"]
    return Remote(shell, "the Android device", folder=_ANDROID_FOLDER, python=python)


def parse(text: str, python: str = "python3") -> Remote:
    """``ssh:user@machine[:port]`` or ``adb[:serial]``, as ``--on`` takes it."""
    kind, _, rest = text.partition(":")
    if kind == "adb":
        return adb(rest or None, python)
    if kind == "ssh" and rest:
        address, _, port = rest.partition(":")
        return ssh(address, ["-p", port] if port else [], python)
    raise InputError(f"'{text}' names no machine; write ssh:user@machine[:port] or adb[:serial]")


def _pack() -> bytes:
    """The worker's modules and the exporters that ship, as a gzipped tar."""
    root = Path(edgekd.__file__).parents[1]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file in _needed(root):
            archive.add(file, file.relative_to(root).as_posix())
        exporters = _exporters()
        if exporters is not None:
            for file in sorted(exporters.rglob("*.py")):
                archive.add(file, f"edgekd_exporters/{file.relative_to(exporters)}")
    return stream.getvalue()


def _needed(root: Path) -> list[Path]:
    """Files of this package that a worker imports as it starts, directly or through another."""
    found: set[Path] = set()
    names = list(_ROOTS)
    while names:
        name = names.pop()
        path = root.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file() or file in found:
            continue  # an attribute, not a module; or seen before
        found.add(file)
        names.append(name.rpartition(".")[0] or name)  # the package it lies in
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import):
                names += [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                names += [statement.module]
                names += [f"{statement.module}.{alias.name}" for alias in statement.names]
        names = [each for each in names if each.partition(".")[0] == "edgekd"]
    return sorted(found)


def _exporters() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("edgekd_exporters")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None
