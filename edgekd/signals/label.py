"""Run the teacher over the rows whose signals are missing, in batches planned beforehand.

The plan depends on the rows and on what the store already holds in whole shards, not on who runs
it: killed anywhere and run again, or handed out to several workers, the store ends the same byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.signals.store import SignalStore

SHARD_ROWS = 1024  # rows lost at most when killed; a 77-class shard is about 170 kB

Teacher = Callable[[Sequence[Row]], Mapping[str, Any]]
Progress = Callable[[int, int], None]
# Runs the teacher over batches and gives its answers in their order, as the builtin ``map`` does.
Engine = Callable[[Teacher, Iterable[Sequence[Row]]], Iterable[Mapping[str, Any]]]


def label(
    rows: Sequence[Row],
    keys: np.ndarray,
    run_teacher: Teacher,
    store: SignalStore,
    batch_size: int = 32,
    progress: Progress | None = None,
    *,
    shard_rows: int = SHARD_ROWS,
    engine: Engine = map,
) -> int:
    """Store the teacher's signals of every row that has none yet; return how many that were.

    ``run_teacher(batch)`` maps rows to ``{field: array [len(batch), ...]}`` (a list of arrays for
    a ragged field) and must depend on the batch alone. ``progress(done, total)`` is called after
    each batch. ``engine`` may run batches elsewhere and several at once: it is handed the whole
    plan, and only whole shards are written, in the plan's order.
    """
    shards = plan(keys, store, shard_rows)
    planned = [cut(rows, positions, batch_size) for positions in shards]
    batches = ([rows[i] for i in batch] for shard in planned for batch in shard)
    answers = iter(engine(run_teacher, batches))
    total, done = sum(map(len, shards)), 0
    for positions, shard in zip(shards, planned, strict=True):
        parts: dict[str, list[Any]] = {}
        for batch in shard:
            for name, values in next(answers).items():
                if len(values) != len(batch):
                    raise InputError(
                        f"the teacher gave {len(values)} '{name}' signals for a batch of"
                        f" {len(batch)}"
                    )
                parts.setdefault(name, []).extend(np.asarray(value) for value in values)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        back = np.argsort(np.concatenate(shard))  # positions of a shard are in rising order
        store.append(keys[positions], {k: [v[i] for i in back] for k, v in parts.items()})
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


def cut(rows: Sequence[Row], positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the batches of one planned shard, each the positions of its rows, int64.

    Rows of like length share a batch, which spares the teacher most of its padding.
    """
    # Shorter first; the position decides between equals, so the batches are always the same.
    order = np.array(sorted(positions, key=lambda i: (_size(rows[i]), i)), np.int64)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _size(row: Row) -> int:
    """How long a row is, where rows differ in length: characters, tokens or samples."""
    total = 0
    for name in ("text", "text_pair", "tokens", "question", "context", "audio"):
        value = row.get(name)
        total += len(value) if value is not None else 0
    return total
