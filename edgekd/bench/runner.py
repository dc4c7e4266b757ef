"""Start a worker, ask it, and never leave it behind.

A transport only says how the process is started and how its files get there; here is the local
one. Whatever goes wrong with a worker (it dies, hangs or prints something that is no reply) ends
as one error, and its whole process group is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edgekd
from edgekd.errors import EdgekdError, InconclusiveError, InputError, MissingDependency

TIME_LIMIT = 180.0  # seconds one request may take beyond what it was asked to run
_LONGER = 30.0
_ERRORS: Mapping[int, type[EdgekdError]] = {
    error.exit_code: error for error in (InputError, InconclusiveError, MissingDependency)
}


def local_command() -> list[str]:
    """The command of a worker on this machine."""
    return [sys.executable, "-P", "-m", "edgekd.bench.worker"]


def local_environment() -> dict[str, str]:
    """This process's environment, with the package in use found first."""
    root = str(Path(edgekd.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


class Runner:
    """One worker process; a context manager that always ends it.

    ``name`` is what messages call it. ``ask`` raises what the worker raised, or
    :class:`InconclusiveError` where it stopped answering.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.name = name
        self.time_limit = time_limit
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._buffer = b""
        self._process = subprocess.Popen(
            list(command or local_command()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=dict(environment) if environment is not None else local_environment(),
            start_new_session=True,  # so that the group can be ended with it
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def ask(self, do: str, *, expected_seconds: float = 0.0, **arguments: Any) -> dict[str, Any]:
        """Send one request and return its reply."""
        assert self._process.stdin is not None
        limit = expected_seconds + self.time_limit
        # The worker's own limit is longer: where both sides live, this one tells what happened.
        request = json.dumps({"do": do, "within": limit + _LONGER, **arguments}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except OSError:
            raise self._failure(do, "ended") from None
        line = self._read_line(do, limit)
        try:
            reply = json.loads(line)
        except ValueError:
            raise self._failure(do, f"answered {line[:80]!r}, which is no reply,") from None
        if not isinstance(reply, dict):
            raise self._failure(do, f"answered {line[:80]!r}, which is no reply,")
        if "error" in reply:
            self.end()
            raise _ERRORS.get(reply.get("exit_code", 2), InputError)(reply["error"])
        return reply

    def end(self) -> None:
        """End the process and all that it started; safe to call twice."""
        process = self._process
        if process.poll() is None and process.stdin is not None:
            try:
                process.stdin.close()  # a worker ends by itself at the end of its input
                process.wait(timeout=2)
            except (OSError, subprocess.TimeoutExpired):
                pass  # it did not: the signal below ends it
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):  # a request it never read
                    stream.close()

    def _read_line(self, do: str, seconds: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._failure(do, f"did not answer for {seconds:.0f} s")
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise self._failure(do, "ended")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _failure(self, do: str, what: str) -> InconclusiveError:
        self.end()
        code = self._process.returncode
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:300]}" if lines else ""
        status = ""
        if what == "ended":
            status = f" by signal {-code}" if code < 0 else f" with status {code}"
        return InconclusiveError(
            f"the runner of {self.name} {what}{status} at '{do}'{said}; nothing was measured."
            " Run 'edgekd verify' on the bundle to see whether it works at all"
        )
