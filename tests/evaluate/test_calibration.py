from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.evaluate.calibration import expected_calibration_error, reliability


def binary(confidence: np.ndarray) -> np.ndarray:
    return np.stack([confidence, 1 - confidence], 1)


def test_a_coin_that_knows_its_odds_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    references = (rng.random(20_000) > confidence).astype(int)
    assert expected_calibration_error(reliability(binary(confidence), references)) < 0.02


def test_an_overconfident_model_is_off_by_what_it_claims_too_much() -> None:
    confidence = np.full(1000, 0.9)
    references = np.array([0] * 600 + [1] * 400)
    bins = reliability(binary(confidence), references)
    assert len(bins) == 1  # equal confidences share a bin
    assert expected_calibration_error(bins) == pytest.approx(0.3)


@given(st.integers(1, 400), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_bins_hold_every_example_whatever_the_order(examples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), examples).round(1)  # many ties
    references = rng.integers(0, 3, examples)
    bins = reliability(probabilities, references)
    assert sum(b.count for b in bins) == examples
    order = rng.permutation(examples)
    shuffled = reliability(probabilities[order], references[order])
    assert expected_calibration_error(shuffled) == pytest.approx(expected_calibration_error(bins))


def test_bins_are_of_equal_mass() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 300)
    assert {b.count for b in reliability(binary(confidence), np.zeros(300, int))} == {20}
