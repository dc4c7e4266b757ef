"""Run the teacher over the rows whose signals are missing, in shards planned beforehand.

The plan depends on the rows and on what the store already holds in whole shards, not on who runs
it: killed anywhere and run again, or handed out to several workers, the store ends the same byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.signals.store import SignalStore

SHARD_ROWS = 1024  # rows lost at most when killed; a 77-class shard is about 170 kB

Teacher = Callable[[Sequence[Row]], Mapping[str, Any]]
Progress = Callable[[int, int], None]


def label(
    rows: Sequence[Row],
    keys: np.ndarray,
    run_teacher: Teacher,
    store: SignalStore,
    batch_size: int = 32,
    progress: Progress | None = None,
    *,
    shard_rows: int = SHARD_ROWS,
) -> int:
    """Store the teacher's signals of every row that has none yet; return how many that were.

    ``run_teacher(batch)`` maps rows to ``{field: array [len(batch), ...]}`` (a list of arrays for
    a ragged field) and must depend on the batch alone. ``progress(done, total)`` is called after
    each batch.
    """
    shards = plan(keys, store, shard_rows)
    total, done = sum(map(len, shards)), 0
    for positions in shards:

        def advance(count: int, before: int = done) -> None:
            if progress is not None:
                progress(before + count, total)

        signals = label_shard(rows, positions, run_teacher, batch_size, advance)
        store.append(keys[positions], signals)
        done += len(positions)
    len(store)  # leaves the index of the finished store on disk
    return total


def plan(keys: np.ndarray, store: SignalStore, shard_rows: int = SHARD_ROWS) -> list[np.ndarray]:
    """Return, for each shard still to be written, the positions of its rows, int64.

    Every row is planned once, at its first position. Shards already written drop out whole, so
    the rest of an interrupted plan is cut as it was the first time.
    """
    if shard_rows < 1:
        raise InputError(f"a shard must hold at least one row, not {shard_rows}")
    absent = np.flatnonzero(~store.contains(keys))
    _, first = np.unique(keys[absent], return_index=True)
    positions = absent[np.sort(first)]
    return [positions[i : i + shard_rows] for i in range(0, len(positions), shard_rows)]


def label_shard(
    rows: Sequence[Row],
    positions: np.ndarray,
    run_teacher: Teacher,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run the teacher over one planned shard; return its signals in the order of ``positions``.

    Rows of like length share a batch, which spares the teacher most of its padding.
    """
    # Shorter first; the position decides between equals, so the batches are always the same.
    chosen = [rows[int(position)] for position in positions]
    order = sorted(range(len(chosen)), key=lambda i: (_size(chosen[i]), i))
    parts: dict[str, list[Any]] = {}
    for start in range(0, len(order), batch_size):
        batch = [chosen[i] for i in order[start : start + batch_size]]
        for name, values in run_teacher(batch).items():
            if len(values) != len(batch):
                raise InputError(
                    f"the teacher gave {len(values)} '{name}' signals for a batch of {len(batch)}"
                )
            parts.setdefault(name, []).extend(np.asarray(value) for value in values)
        if progress is not None:
            progress(start + len(batch))
    rank = np.argsort(order)
    return {name: [values[i] for i in rank] for name, values in parts.items()}


def _size(row: Row) -> int:
    """How long a row is, where rows differ in length: characters, tokens or samples."""
    total = 0
    for name in ("text", "text_pair", "tokens", "question", "context", "audio"):
        value = row.get(name)
        total += len(value) if value is not None else 0
    return total
