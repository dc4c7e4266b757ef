"""Training examples: encoded rows, their labels, and what the teacher said about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from edgekd.distill.losses.hard import UNLABELLED
from edgekd.preprocess import Preprocessor, Row, TextPreprocessor
from edgekd.signals.keys import SOFT_ONLY
from edgekd.signals.store import pad
from edgekd.tasks import Task

PER_TOKEN = frozenset({"hidden_states", "qkv"})  # signals that a teacher gives for every token
# row indices -> the teacher's signals of these rows; ragged ones are lists
Signals = Callable[[Sequence[int]], Mapping[str, np.ndarray | list[np.ndarray]]]


class Examples(Dataset[int]):
    """Rows of one training run. An item is its index; :meth:`collate` makes the batch.

    Text is tokenized once, images are encoded per batch. A batch holds the model's inputs under
    their own names, ``labels`` (int64 [batch] for classes), and the teacher's arrays as
    ``teacher.<name>``. Where a row has several places (words), ``places`` int64 [batch, places]
    says at which token each is, ``mask`` bool which are real, and labels and teacher follow them.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        task: Task,
        preprocessor: Preprocessor,
        labels: Sequence[str],
        signals: Signals | None = None,
        cutters: Sequence[TextPreprocessor] = (),
    ) -> None:
        self.rows = rows
        self.task = task
        self.preprocessor = preprocessor
        self.signals = signals
        self.cutters = cutters  # one of them cuts a row of a batch, where there are any
        text = isinstance(preprocessor, TextPreprocessor)
        self.tokens: list[Any] | None = preprocessor.tokens(rows) if text else None  # type: ignore[attr-defined]
        self.places = task.places(self.tokens or ()) if task.per_token else None
        self.labels = self._labels(task, labels)

    def _labels(self, task: Task, labels: Sequence[str]) -> list[Any]:
        """What the loss on labels reads of each row; unlabelled rows say so themselves."""
        known = [
            i
            for i, row in enumerate(self.rows)
            if row.get(task.answer) is not None and not row.get(SOFT_ONLY)
        ]
        references = task.references([self.rows[i] for i in known], labels)
        read = [self.tokens[i] for i in known] if self.tokens else None
        targets = dict(zip(known, task.targets(references, read), strict=True))
        if self.places is not None:
            blank = [np.full(len(p), UNLABELLED, np.int64) for p in self.places]
        else:
            sample = np.asarray(next(iter(targets.values()), 0))
            missing = np.nan if sample.dtype.kind == "f" else UNLABELLED
            blank = [np.full(sample.shape, missing, sample.dtype)] * len(self.rows)
        return [targets.get(i, blank[i]) for i in range(len(self.rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens per row where rows differ in length: int64 [rows]."""
        return np.array([len(t.ids) for t in self.tokens], np.int64) if self.tokens else None

    @property
    def _side(self) -> int:
        """−1 where the tokenizer pads on the left, else 1."""
        return -1 if getattr(self.preprocessor, "padding_side", "right") == "left" else 1

    def _cut(
        self, indices: Sequence[int], whole: Sequence[int]
    ) -> tuple[list[Any], list[np.ndarray]]:
        """Tokens of rows of the batch ``whole``, and the places of their words.

        The batch itself is the seed: another epoch's has other rows, and a resumed one the same.
        A row that would lose its end to a longer cut stays whole.
        """
        assert self.tokens is not None
        tokens = [self.tokens[i] for i in indices]
        places = [self.places[i] for i in indices] if self.places is not None else []
        if not self.cutters:
            return tokens, places
        drawn = np.random.default_rng([*whole]).integers(len(self.cutters), size=len(whole))
        cutter = {i: self.cutters[n] for n, i in zip(drawn, whole, strict=True)}
        for n, i in enumerate(indices):
            (cut,) = cutter[i].tokens([self.rows[i]])
            if self.places is None:
                if not cut.overflowing or tokens[n].overflowing:
                    tokens[n] = cut
            else:
                (where,) = self.task.places([cut])
                if len(where) == len(places[n]):
                    tokens[n], places[n] = cut, where
        return tokens, places

    def collate(
        self, indices: Sequence[int], whole: Sequence[int] | None = None
    ) -> dict[str, torch.Tensor]:
        """The rows ``indices`` as one batch, or as a share of the batch ``whole``."""
        tokens, where = (
            self._cut(indices, whole or indices) if self.tokens is not None else ([], [])
        )
        if self.tokens is not None:
            arrays = self.preprocessor.pad(tokens)  # type: ignore[attr-defined]
        else:
            arrays = self.preprocessor.encode([self.rows[i] for i in indices])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        chosen = [self.labels[i] for i in indices]
        width = arrays["input_ids"].shape[1] if self.tokens else None
        if self.places is None:
            batch["labels"] = torch.from_numpy(np.stack([np.asarray(label) for label in chosen]))
        else:
            places, _ = pad(where, value=-1)
            batch["places"] = torch.from_numpy(places).clamp(min=0)
            batch["mask"] = torch.from_numpy(places >= 0)
            batch["labels"] = torch.from_numpy(pad(chosen, places.shape[1], UNLABELLED)[0])
        if self.signals is not None:
            for name, values in self.signals(indices).items():
                if isinstance(values, list):  # padded like the tokens, or like the places
                    per_place = self.places is not None and name not in PER_TOKEN
                    side = 1 if per_place else self._side
                    filled, _ = pad(
                        [v[::side] for v in values], places.shape[1] if per_place else width
                    )
                    values = np.ascontiguousarray(filled[:, ::side])
                batch[f"teacher.{name}"] = torch.from_numpy(np.asarray(values))
            if "teacher.mask" in batch:  # a word that either did not read has nothing to match
                batch["mask"] &= batch.pop("teacher.mask").bool()
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
