"""Training examples: encoded rows, their labels, and what the teacher said about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from edgekd.distill.losses.hard import UNLABELLED
from edgekd.preprocess import Preprocessor, Row, TextPreprocessor
from edgekd.signals.store import pad
from edgekd.tasks import Task

# row indices -> the teacher's signals of these rows; ragged ones are lists
Signals = Callable[[Sequence[int]], Mapping[str, np.ndarray | list[np.ndarray]]]


class Examples(Dataset[int]):
    """Rows of one training run. An item is its index; :meth:`collate` makes the batch.

    Text is tokenized once, images are encoded per batch. A batch holds the model's inputs under
    their own names, ``labels`` int64 [batch], and the teacher's arrays as ``teacher.<name>``.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        task: Task,
        preprocessor: Preprocessor,
        labels: Sequence[str],
        signals: Signals | None = None,
    ) -> None:
        self.rows = rows
        self.preprocessor = preprocessor
        self.signals = signals
        self.labels = np.full(len(rows), UNLABELLED, np.int64)
        known = [i for i, row in enumerate(rows) if row.get("label") is not None]
        self.labels[known] = task.references([rows[i] for i in known], labels)
        text = isinstance(preprocessor, TextPreprocessor)
        self.tokens: list[Any] | None = preprocessor.tokens(rows) if text else None  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens per row where rows differ in length: int64 [rows]."""
        return np.array([len(t.ids) for t in self.tokens], np.int64) if self.tokens else None

    def collate(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        if self.tokens is not None:
            arrays = self.preprocessor.pad([self.tokens[i] for i in indices])  # type: ignore[attr-defined]
        else:
            arrays = self.preprocessor.encode([self.rows[i] for i in indices])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        batch["labels"] = torch.from_numpy(self.labels[list(indices)])
        if self.signals is not None:
            width = arrays["input_ids"].shape[1] if self.tokens else None
            for name, values in self.signals(indices).items():
                if isinstance(values, list):  # one array per position, padded like the tokens
                    values, _ = pad(values, width)
                batch[f"teacher.{name}"] = torch.from_numpy(np.asarray(values))
        return batch


class SeededOrder(Sampler[int]):
    """A permutation that depends on seed and epoch alone, so a resumed epoch is the same epoch.

    Where rows differ in length, rows of similar length share a batch: within groups of fifty
    batches the permutation is sorted by length, then the batches are shuffled.
    """

    def __init__(self, count: int, batch: int, seed: int, lengths: np.ndarray | None) -> None:
        self.count, self.batch, self.seed, self.lengths = count, batch, seed, lengths
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.count)
        if self.lengths is not None:
            group = 50 * self.batch
            groups = [order[i : i + group] for i in range(0, self.count, group)]
            order = np.concatenate([g[np.argsort(self.lengths[g], kind="stable")] for g in groups])
            # Whole batches trade places; a short last one stays last, or it would shift the rest.
            whole = self.count // self.batch * self.batch
            batches = order[:whole].reshape(-1, self.batch)
            order = np.concatenate([generator.permutation(batches).ravel(), order[whole:]])
        yield from order.tolist()
