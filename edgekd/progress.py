"""Say how far a long step is: a bar with time left in a terminal, a few lines in a log.

Nothing is shown for work that ends within two seconds. Everything goes to stderr, so that
stdout stays free for JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 2.0
LOG_SECONDS = 15.0

Advance = Callable[[int], None]


@contextmanager
def track(what: str, total: int, *, unit: str = "rows") -> Iterator[Advance]:
    """Yield ``advance(n)``; a line or a bar appears once the work takes longer than 2 s."""
    with _bar(what, total) if sys.stderr.isatty() else _log(what, total, unit) as advance:
        yield advance


def say(message: str) -> None:
    """One line for a human, on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(what, total=total)
    start = time.monotonic()

    def advance(count: int) -> None:
        if not progress.live.is_started and time.monotonic() - start > QUIET_SECONDS:
            progress.start()
        progress.advance(task, count)

    try:
        yield advance
    finally:
        progress.stop()


@contextmanager
def _log(what: str, total: int, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        due = QUIET_SECONDS if last == start else LOG_SECONDS
        if now - last >= due and done < total:
            last = now
            left = (now - start) / max(done, 1) * (total - done)
            say(f"  {what}: {done:,} of {total:,} {unit}, {left:.0f} s left")

    yield advance
