"""The top-k form keeps all of the mass, and the stored form is near enough to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import InputError
from edgekd.signals import SignalSpec, SignalStore, keys, label
from edgekd.signals.topk import REST_TEMPERATURES, topk, topk_fields


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.data())
def test_no_mass_is_lost_at_any_stored_temperature(seed, classes, data):
    k = data.draw(st.integers(1, classes - 1))
    logits = np.random.default_rng(seed).normal(size=(3, classes)) * 4
    signal = topk(logits, k)
    for number, temperature in enumerate(REST_TEMPERATURES):
        p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True))) ** (1 / temperature)
        stored = np.exp(signal["values"] / temperature).sum(-1) + np.exp(signal["rest"][:, number])
        np.testing.assert_allclose(stored, p.sum(-1), rtol=1e-5)
    likeliest = np.sort(np.argsort(-logits, -1)[:, :k], -1)
    np.testing.assert_array_equal(np.sort(signal["indices"], -1), likeliest)
    assert (np.diff(signal["values"], axis=-1) <= 0).all()


def test_extreme_logits_fit_the_store(tmp_path):
    fields = topk_fields(2, 5, ragged=True)
    rows = [{"text": str(n)} for n in range(3)]

    def teacher(batch):
        logits = np.zeros((4, 5), np.float32)
        logits[:, 1] = 1e5  # the rest's mass is exp(-100,000): none
        signal = topk(logits, 2)
        return {name: [array] * len(batch) for name, array in signal.items()}

    store = SignalStore.open(tmp_path, SignalSpec("t", "p", fields))
    label(rows, keys(rows), lambda b: teacher(b), store)
    got = store.get(keys(rows))
    assert got["indices"][0].dtype == np.uint16
    assert got["indices"][0][0, 0] == 1
    assert np.isfinite(np.asarray(got["values"])).all()


def test_a_large_vocabulary_takes_wider_indices():
    assert topk_fields(8, 65_536, ragged=False)["indices"].dtype == "uint16"
    assert topk_fields(8, 65_537, ragged=False)["indices"].dtype == "int32"
    assert topk_fields(8, 100, ragged=True)["values"].shape == (None, 8)


@pytest.mark.parametrize("k", [0, 5, 6])
def test_k_must_leave_a_rest(k):
    with pytest.raises(InputError, match="keep dense logits"):
        topk(np.zeros((2, 5)), k)
