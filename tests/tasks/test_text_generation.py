"""Next tokens: what is kept of a model's answers, and what a store keeps for the student."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd import tasks
from edgekd.blocks import learn_vocabulary
from edgekd.signals.sampled import draws, sample, sampled_fields
from edgekd.signals.store import Field

TASK = tasks.get("text-generation")
TEXTS = ["hear me speak, hear me", "speak", "hear"]
ENCODER = learn_vocabulary([" ".join(TEXTS * 9)], 262, 12)
ROWS = [{"text": text} for text in TEXTS]
IDS = [encoding.ids for encoding in ENCODER.tokens(ROWS)]
WIDTH = max(map(len, IDS))
LOGITS = np.random.default_rng(0).normal(size=(len(ROWS), WIDTH, 262)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))


def test_collected_is_the_likelihood_of_each_next_token_and_the_likeliest() -> None:
    kept = TASK.collect({"logits": LOGITS}, ROWS, ENCODER)
    assert set(kept) == {"nll", "choice", "truth", "mask"}  # no axis of the vocabulary's size
    for row, ids in enumerate(IDS):
        n = len(ids) - 1
        assert kept["mask"][row].tolist() == [1] * n + [0] * (WIDTH - 1 - n)
        expected = -log_softmax(LOGITS[row, :n])[np.arange(n), ids[1:]]
        np.testing.assert_allclose(kept["nll"][row, :n], expected, rtol=1e-5)
        assert kept["choice"][row, :n].tolist() == LOGITS[row, :n].argmax(-1).tolist()
        assert kept["truth"][row, :n].tolist() == ids[1:]


def test_metrics_are_over_tokens_not_over_rows() -> None:
    decoded = TASK.decode(TASK.collect({"logits": LOGITS}, ROWS, ENCODER), ())
    perplexity, accuracy = TASK.metrics(())
    nll = np.concatenate([reading.nll for reading in decoded])
    right = np.concatenate([reading.choice == reading.truth for reading in decoded])
    assert perplexity(decoded, TASK.references(ROWS, ())) == pytest.approx(np.exp(nll.mean()))
    assert accuracy(decoded, TASK.references(ROWS, ())) == pytest.approx(right.mean())
    assert perplexity.lower_is_better
    assert not accuracy.lower_is_better


def test_agreement_is_the_share_of_places_with_the_same_likeliest_token() -> None:
    other = LOGITS.copy()
    other[0, 0, 7] = 99  # one place of all decides otherwise
    both = [TASK.decode(TASK.collect({"logits": x}, ROWS, ENCODER), ()) for x in (LOGITS, other)]
    same = TASK.agree(*both)
    assert same.shape == (sum(len(ids) - 1 for ids in IDS),)
    assert (~same).sum() == 1


def test_a_store_keeps_some_tokens_of_each_place_or_all() -> None:
    sparse = TASK.signals({"logits": LOGITS}, ROWS, ENCODER, sampled_fields(5, 262, ragged=True))
    whole = TASK.signals({"logits": LOGITS}, ROWS, ENCODER, {"logits": Field("float16", (None,))})
    n = len(IDS[0]) - 1
    for name, values in sample(LOGITS[0, :n], 5, draws(ROWS[0], n)).items():
        np.testing.assert_array_equal(sparse[name][0, :n], values)
    assert whole["logits"].dtype == np.float16
    np.testing.assert_array_equal(whole["logits"][0, :n], LOGITS[0, :n].astype(np.float16))
    assert sparse["mask"].sum() == whole["mask"].sum() == sum(len(ids) - 1 for ids in IDS)


def test_a_shorter_program_answers_for_what_it_read() -> None:
    kept = TASK.collect({"logits": LOGITS[:, :2]}, ROWS, ENCODER)
    assert kept["mask"].sum(1).tolist() == [min(len(ids) - 1, 2) for ids in IDS]


def test_targets_are_the_next_tokens() -> None:
    places = TASK.places(ENCODER.tokens(ROWS))
    targets = TASK.targets(TASK.references(ROWS, ()), ENCODER.tokens(ROWS))
    for ids, where, target in zip(IDS, places, targets, strict=True):
        assert [ids[p + 1] for p in where] == target.tolist()
