"""What lets several processes share a study: locks that die with their holder.

Optuna's own journal lock is a link that outlives a killed process, so that the others wait for
half a minute and then guess. Here every lock is ``flock``, which the kernel frees.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import JournalStorage


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock and hold it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alive(folder: Path) -> Iterator[str]:
    """Hold a file that says that this process lives; yield its name, for :func:`lives`."""
    name = f"process-{uuid.uuid4().hex[:12]}.lock"
    with locked(folder / name):
        try:
            yield name
        finally:
            (folder / name).unlink(missing_ok=True)


def lives(folder: Path, name: str) -> bool:
    """Whether the process that :func:`alive` named so is still there."""
    try:
        with (folder / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def open_journal(path: Path) -> JournalStorage:
    """Optuna's journal in the file ``path``, made where there is none."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import BaseJournalFileLock

    guard = path.with_suffix(".lock")

    class Lock(BaseJournalFileLock):
        def __init__(self) -> None:
            self.held: AbstractContextManager[None] | None = None

        def acquire(self) -> bool:
            self.held = locked(guard)
            self.held.__enter__()
            return True

        def release(self) -> None:
            assert self.held is not None, "release without acquire"
            self.held.__exit__(None, None, None)

    with locked(guard):
        _drop_torn_line(path)
    return JournalStorage(JournalFileBackend(str(path), Lock()))


def _drop_torn_line(path: Path) -> None:
    """Cut off what a full disk or a kill left of a last line: nothing could follow it."""
    text = path.read_bytes() if path.is_file() else b""
    if text and not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)
