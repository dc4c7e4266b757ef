"""Batches hold what was asked, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd import models, tasks
from edgekd.blocks import learn_vocabulary
from edgekd.distill.examples import UNLABELLED, Examples, SeededOrder
from edgekd.errors import InputError
from edgekd.signals.keys import SOFT_ONLY

TEXT = tasks.get("text-classification")
LABELS = ("card", "money", "größe")
ROWS = [
    {"text": "my card please", "label": "card"},
    {"text": "where is the money", "label": "money"},
    {"text": "unlabelled"},
]


def test_a_batch_is_inputs_labels_and_signals(bert_dir: Path) -> None:
    encoder = models.load(str(bert_dir), TEXT).preprocessor

    def signals(indices: object) -> dict[str, np.ndarray]:
        return {"logits": np.eye(3, dtype=np.float16)[list(indices)]}  # type: ignore[call-overload]

    examples = Examples(ROWS, TEXT, encoder, LABELS, signals)
    batch = examples.collate([2, 0])
    for name, array in encoder.encode([ROWS[2], ROWS[0]]).items():
        np.testing.assert_array_equal(batch[name].numpy(), array)
    assert batch["labels"].tolist() == [UNLABELLED, 0]
    assert batch["teacher.logits"].argmax(1).tolist() == [2, 0]
    assert (len(examples), examples[1]) == (3, 1)
    np.testing.assert_array_equal(examples.lengths, encoder.lengths(ROWS))  # type: ignore[attr-defined]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_was_said_of_a_token_lies_where_the_token_does(bert_dir: Path, side: str) -> None:
    encoder = replace(models.load(str(bert_dir), TEXT).preprocessor, padding_side=side)  # type: ignore[type-var]

    def signals(indices: Sequence[int]) -> dict[str, list[np.ndarray]]:
        tokens = encoder.tokens([ROWS[i] for i in indices])
        return {"qkv": [np.array(t.ids, np.float32)[:, None] for t in tokens]}

    batch = Examples(ROWS, TEXT, encoder, LABELS, signals).collate([0, 1, 2])
    real = batch["attention_mask"].bool()
    assert batch["teacher.qkv"][..., 0][real].tolist() == batch["input_ids"][real].tolist()
    assert not batch["teacher.qkv"][~real].any() and not real.all()


def test_a_text_that_only_the_teacher_labels_is_no_target() -> None:
    task, text = tasks.get("text-generation"), "hear me speak, hear me"
    encoder = learn_vocabulary([text * 9], 262, 12)
    said = [np.ones((len(e.ids) - 1, 262), np.float16) for e in encoder.tokens([{"text": text}])]
    rows = [{"text": text}, {"text": text, SOFT_ONLY: True}]
    batch = Examples(rows, task, encoder, (), lambda _: {"logits": [*said, *said]}).collate([0, 1])
    ids = batch["input_ids"]
    assert batch["labels"][0].tolist() == ids[0, 1:].tolist()
    assert set(batch["labels"][1].tolist()) == {UNLABELLED} and batch["mask"][1].all()
    assert torch.equal(batch["teacher.logits"][0], batch["teacher.logits"][1])


def test_a_strange_label_is_named(bert_dir: Path) -> None:
    encoder = models.load(str(bert_dir), TEXT).preprocessor
    with pytest.raises(InputError, match=r"'crad', .* \(did you mean 'card'\?\)"):
        Examples([{"text": "a", "label": "crad"}], TEXT, encoder, LABELS)


sizes = st.integers(1, 300)


@given(sizes, st.integers(1, 16), st.integers(0, 5), st.booleans())
def test_an_epoch_is_a_permutation_that_can_be_repeated(
    count: int, batch: int, epoch: int, varied: bool
) -> None:
    lengths = np.random.default_rng(count).integers(2, 40, count) if varied else None
    order = SeededOrder(count, batch, 3, lengths)
    order.set_epoch(epoch)
    found = list(order)
    assert sorted(found) == list(range(count)) and len(order) == count
    again = SeededOrder(count, batch, 3, lengths)
    again.set_epoch(epoch)
    assert list(again) == found


def test_epochs_and_seeds_differ() -> None:
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        order = SeededOrder(200, 8, seed, None)
        order.set_epoch(epoch)
        orders.append(list(order))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_texts_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 1000)
    order = list(SeededOrder(1000, 10, 0, lengths))
    spread = [np.ptp(lengths[order[i : i + 10]]) for i in range(0, 1000, 10)]
    at_random = [np.ptp(lengths[i : i + 10]) for i in range(0, 1000, 10)]
    assert np.mean(spread) < 0.1 * np.mean(at_random)
    means = [lengths[order[i : i + 10]].mean() for i in range(0, 1000, 10)]
    assert means != sorted(means)  # the batches themselves come in no order of length
