"""The process that is measured: ``python -m edgekd.bench.worker``.

One JSON request per line on stdin, one JSON reply per line on stdout, so that the side that asks
decides what is interleaved with what, on this machine or across ssh or adb. It ends with the other
end of its stdin, and by itself where a request is not answered ``within`` its seconds.

Only the bundle's exporter is imported, and neither torch nor transformers. Inputs arrive encoded:
the tokenizer's memory and time are not the model's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench import environment
from edgekd.bundle import Bundle
from edgekd.errors import EdgekdError, InputError
from edgekd.exporter import Exporter, Runtime, Session, get

Feeds = list[dict[str, np.ndarray]]
IDLE_LIMIT = 600.0  # seconds without a request, after which nobody is there any more
GRACE = 2.0  # seconds to end by itself once nobody can ask again


class Worker:
    """One bundle, its encoded rows and the requests about them. Times are in milliseconds."""

    exporter: Exporter
    bundle: Bundle
    session: Session

    def prepare(
        self, bundle: str, feeds: str, runtime: dict[str, Any], affinity: list[int] | None = None
    ) -> dict[str, Any]:
        """Import what the bundle needs and read the rows; everything up to loading the model."""
        if affinity:
            _pin(affinity)
        self.bundle = Bundle.open(bundle)
        self.exporter = get(self.bundle.manifest.target)
        for name in self.exporter.runtime_modules:
            import_module(name)
        self.runtime = Runtime(**runtime)
        self.feeds = read_feeds(Path(feeds))
        self.cursor = 0
        return {"environment": environment.describe(), "rows": len(self.feeds)}

    def open(self) -> dict[str, Any]:
        """Load the bundle."""
        start = time.perf_counter()
        self.session = self.exporter.open(self.bundle, self.runtime)
        load = _own_clock(self.session, "load_ms", _since(start))
        return {"load_ms": load, "kind": self.session.kind, "session": self.session.describe()}

    def first(self) -> dict[str, Any]:
        """The first inference, which plans memory and packs weights."""
        return {"first_ms": self._next()}

    def warm(self, seconds: float, count: int) -> dict[str, Any]:
        """Run until both ``seconds`` and ``count`` inferences have passed."""
        start, done = time.perf_counter(), 0
        while done < count or time.perf_counter() - start < seconds:
            self._next()
            done += 1
        self.cursor = 0
        return {"warm": done, "warm_ms": _since(start)}

    def block(self, seconds: float, limit: float) -> dict[str, Any]:
        """Whole passes over the rows for at least ``seconds``; cut off after ``limit`` seconds.

        Whole passes, so that every measurement sees the same mixture of lengths.
        """
        self.cursor = 0
        samples: list[float] = []
        energy, ticks = environment.energy_joules(), environment.cpu_ticks()
        start = time.perf_counter()
        while True:
            samples.append(self._next())
            elapsed = time.perf_counter() - start
            whole = len(samples) % len(self.feeds) == 0
            if elapsed >= limit or (whole and elapsed >= seconds):
                break
        after = environment.energy_joules()
        joules = None
        if energy is not None and after is not None and after >= energy:  # the counters wrap
            joules = (after - energy) / len(samples)
        steal = environment.steal_percent(ticks, environment.cpu_ticks())
        return {"samples_ms": samples, "joules": joules, "steal_percent": steal}

    def step(self, count: int, control: int) -> dict[str, Any]:
        """One short slice of an interleaved comparison: ``count`` rows, then the control kernel.

        The control is a fixed piece of work that no change of a bundle can alter: the machine's
        own pace. It calls no BLAS, whose threads would disturb the other arm.
        """
        samples = [self._next() for _ in range(count)]
        kernel = np.random.default_rng(0).standard_normal(40_000, np.float32)
        controls = []
        for _ in range(control):
            start = time.perf_counter()
            np.sort(np.tanh(kernel))
            controls.append(_since(start))
        return {"samples_ms": samples, "control_ms": controls}

    def memory(self, passes: int) -> dict[str, Any]:
        """Peak memory of loading and running, above what the process held after its imports.

        The kernel keeps the high-water mark, so no peak between two readings is missed.
        """
        since = environment.reset_peak()
        kind = environment.SINCE_IMPORTS if since else environment.LIFETIME_MARK
        baseline = environment.memory_bytes("VmRSS")
        self.open()
        for _ in range(passes * len(self.feeds)):
            self._next()
        own = getattr(self.session, "peak_memory_bytes", None)
        if own is not None:
            return {"peak_memory_bytes": own, "kind": "as the runtime itself tells it"}
        if _has_children():
            return {"peak_memory_bytes": None, "why": "the runtime is a process of its own"}
        peak = environment.memory_bytes("VmHWM")
        return {"peak_memory_bytes": peak - baseline, "baseline_bytes": baseline, "kind": kind}

    def held(self) -> dict[str, Any]:
        """What a runtime in a process of its own says about itself after it ran."""
        peak = getattr(self.session, "peak_memory_bytes", None)
        return {"peak_memory_bytes": peak, "session": self.session.describe()}

    def load(self, clients: int, samples: int, seconds: float) -> dict[str, Any]:
        """Closed-loop load: ``clients`` threads, each asking again as soon as it is answered.

        They share one session, as a server would; at least ``samples`` requests and ``seconds``.
        """
        from edgekd.bench.concurrency import closed_loop

        latencies, wall = closed_loop(self.session, self.feeds, clients, samples, seconds)
        return {"samples_ms": latencies, "wall_s": wall}

    def close(self) -> dict[str, Any]:
        self.session.close()
        return {}

    def _next(self) -> float:
        feeds = self.feeds[self.cursor % len(self.feeds)]
        self.cursor += 1
        start = time.perf_counter()
        self.session.run(feeds)
        return _own_clock(self.session, "elapsed_ms", _since(start))


def _own_clock(session: Session, name: str, here: float) -> float:
    """A runtime in another process (a browser) times itself; the way there is not its time."""
    return float(getattr(session, name, None) or here)


def write_feeds(file: Path, feeds: Feeds) -> None:
    """Write one encoded batch per row; :func:`read_feeds` reads them back in order."""
    arrays = {f"{i}.{name}": a for i, feed in enumerate(feeds) for name, a in feed.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]


def read_feeds(file: Path) -> Feeds:
    feeds: dict[int, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(".")
            feeds.setdefault(int(index), {})[name] = arrays[key]
    return [feeds[index] for index in sorted(feeds)]


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1e3, 5)


def _pin(cpus: list[int]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("runtime.affinity is set, but this system cannot pin a process to CPUs")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise InputError(f"runtime.affinity {cpus} names CPUs that are not usable here") from error


def _has_children() -> bool:
    try:
        tasks = Path("/proc/self/task").iterdir()
        return any((task / "children").read_text().strip() for task in tasks)
    except OSError:
        return False


def _end_with(stream: int) -> None:
    """End this process, whatever it is doing, once the other end of ``stream`` is gone.

    A killed ssh leaves a busy worker alone otherwise: it learns of it at its next request, which
    never comes. The thread sleeps in the kernel until then and disturbs no measurement.
    """
    if not hasattr(select, "poll"):
        return
    poller = select.poll()
    # A hang-up is always told; of a socket's half-closed end it has to be asked for.
    poller.register(stream, getattr(select, "POLLRDHUP", 0))

    def watch() -> None:
        poller.poll()
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end_after(seconds: float) -> None:
    """Have the kernel end this process then, even inside a library that never comes back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main() -> None:
    # What a library prints must not end up between two replies: replies get a descriptor of
    # their own, and stdout joins stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    _end_with(sys.stdin.fileno())
    _end_after(IDLE_LIMIT)
    for line in sys.stdin:
        request = json.loads(line)
        _end_after(request.pop("within", IDLE_LIMIT))
        method: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
        try:
            reply = method(**request)
        except EdgekdError as error:
            reply = {"error": str(error), "exit_code": error.exit_code}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        _end_after(IDLE_LIMIT)


if __name__ == "__main__":
    main()
