"""k classes stand for all: kept with the right probability, of the content alone, fit for fp16."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import InputError
from edgekd.signals import SignalSpec, SignalStore, keys, label
from edgekd.signals.sampled import draws, sample, sampled_fields

SEEDS = st.integers(0, 2**31)


def distribution(seed: int, classes: int, places: int = 1) -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(seed).normal(size=(places, classes)) * 3
    return logits, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def golden_threshold(p: np.ndarray, k: int) -> float:
    """The τ with Σ min(1, p / τ) = k, by halving an interval."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(p / middle, 1).sum() > k else (low, middle)
    return high


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 40), st.data())
def test_each_class_is_kept_as_often_as_it_should_be(seed, classes, data):
    k = data.draw(st.integers(1, classes - 1))
    logits, p = distribution(seed, classes)
    count = 4000
    draw = (np.arange(count) + 0.5) / count
    signal = sample(np.repeat(logits, count, 0), k, draw)
    tau = golden_threshold(p[0], k)
    np.testing.assert_allclose(np.exp(signal["threshold"]), tau, rtol=1e-9)
    shares = np.bincount(signal["indices"].ravel(), minlength=classes) / count
    # of even draws, a stretch of the unit interval holds its share, to one draw at either end
    np.testing.assert_allclose(shares, np.minimum(p[0] / tau, 1), atol=2.1 / count)
    assert (np.diff(np.sort(signal["indices"], -1), axis=-1) > 0).all()  # k different ones
    assert (np.diff(signal["values"], axis=-1) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 300), st.floats(0.001, 0.999), st.data())
def test_the_weights_of_a_place_sum_to_one_and_none_is_above_the_threshold(seed, classes, u, data):
    k = data.draw(st.integers(1, classes))
    logits, p = distribution(seed, classes, 3)
    signal = sample(logits, k, np.full(3, u))
    weights = np.exp(np.maximum(signal["values"], signal["threshold"]))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-9)
    chosen = np.take_along_axis(p, signal["indices"], -1)
    np.testing.assert_allclose(np.exp(signal["values"]), chosen, rtol=1e-9)
    missing = p.copy()
    np.put_along_axis(missing, signal["indices"], 0, -1)
    assert (missing <= np.exp(signal["threshold"]) * (1 + 1e-9)).all()


def test_all_classes_leave_nothing_to_chance():
    logits, p = distribution(0, 6, 2)
    low, high = (sample(logits, 6, np.full(2, u)) for u in (0.01, 0.99))
    for name, values in low.items():
        np.testing.assert_array_equal(values, high[name])
    assert (np.exp(low["threshold"]) <= p.min(-1, keepdims=True) * (1 + 1e-12)).all()
    even = sample(np.zeros((1, 5)), 5, np.array([0.999]))
    np.testing.assert_array_equal(even["indices"], [[0, 1, 2, 3, 4]])


def test_the_partition_is_that_of_all_classes():
    logits, p = distribution(1, 50, 4)
    partition = sample(logits, 3, np.full(4, 0.5))["partition"]
    for number, temperature in enumerate((2.0, 4.0)):
        expected = np.log((p ** (1 / temperature)).sum(-1))
        np.testing.assert_allclose(partition[:, number], expected, rtol=1e-9)


def test_a_draw_is_of_the_content_alone():
    row = {"text": "To be, or not to be"}
    np.testing.assert_array_equal(draws(row, 5), draws({**row, "label": 3}, 9)[:5])
    assert (draws(row, 5) != draws({"text": "that is the question"}, 5)).all()
    many = draws(row, 20_000)
    assert (many > 0).all()
    assert (many < 1).all()
    assert abs(many.mean() - 0.5) < 0.01


def test_a_row_that_is_labelled_again_is_stored_as_the_same_bytes(tmp_path):
    rows = [{"text": str(n)} for n in range(6)]
    logits = {row["text"]: distribution(int(row["text"]), 40, 4)[0] for row in rows}

    def teacher(batch):
        said = [sample(logits[r["text"]], 5, draws(r, 4)) for r in batch]
        return {name: [one[name] for one in said] for name in said[0]}

    spec = SignalSpec("t", "p", sampled_fields(5, 40, ragged=True))
    for number, batch in enumerate((6, 2)):  # whatever stands beside it in a batch
        store = SignalStore.open(tmp_path / str(number), spec)
        label(rows, keys(rows), teacher, store, batch)
    first, second = (
        [hashlib.sha256(p.read_bytes()).digest() for p in sorted(folder.glob("*.safetensors"))]
        for folder in (tmp_path / "0", tmp_path / "1")
    )
    assert first == second
    assert len(first) == 1


def test_extreme_logits_fit_the_store(tmp_path):
    fields = sampled_fields(2, 5, ragged=True)
    rows = [{"text": str(n)} for n in range(3)]

    def teacher(batch):
        logits = np.zeros((4, 5), np.float32)
        logits[:, 1] = 1e5  # the mass of all others is exp(-100,000): none
        signal = sample(logits, 2, np.full(4, 0.5))
        return {name: [array] * len(batch) for name, array in signal.items()}

    store = SignalStore.open(tmp_path, SignalSpec("t", "p", fields))
    label(rows, keys(rows), lambda b: teacher(b), store)
    got = store.get(keys(rows))
    assert got["indices"][0].dtype == np.uint16
    assert got["indices"][0][0, 0] == 1
    for name in ("values", "threshold", "partition"):
        assert got[name][0].dtype == np.float16
        assert np.isfinite(np.asarray(got[name])).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_half_precision_costs_a_weight_half_a_percent_at_most(seed):
    """A log-probability above −16 is stored to 2**-8, and what is drawn there weighs nothing."""
    signal = sample(distribution(seed, 4096, 8)[0], 64, np.full(8, 0.37))
    exact = np.exp(np.maximum(signal["values"], signal["threshold"]))
    stored = {name: signal[name].astype(np.float16).astype(np.float64) for name in signal}
    weights = np.exp(np.maximum(stored["values"], stored["threshold"]))
    np.testing.assert_allclose(weights, exact, rtol=0.005)
    assert (weights > 0).all()


def test_a_large_vocabulary_takes_wider_indices():
    assert sampled_fields(8, 65_536, ragged=False)["indices"].dtype == "uint16"
    assert sampled_fields(8, 65_537, ragged=False)["indices"].dtype == "int32"
    assert sampled_fields(8, 100, ragged=True)["values"].shape == (None, 8)


@pytest.mark.parametrize("k", [0, 6])
def test_more_than_there_is_cannot_be_kept(k):
    with pytest.raises(InputError, match="keep dense logits"):
        sample(np.zeros((2, 5)), k, np.full(2, 0.5))
