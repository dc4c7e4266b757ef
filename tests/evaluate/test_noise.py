from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import VerificationError
from edgekd.evaluate.noise import MOST, ONE_SIDED, Expected, expected_drop


def _drawn(
    seed: int, rows: int = 40, classes: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float scores, noisy ones, and the right answers, of which some are missed."""
    random = np.random.default_rng(seed)
    answers = random.integers(classes, size=rows)
    scores = random.normal(size=(rows, classes)) + 2 * np.eye(classes)[answers]
    return scores, scores + random.normal(size=scores.shape), answers


def _by_hand(scores: np.ndarray, noisy: np.ndarray, answers: np.ndarray) -> float:
    scores, noisy = (x - x.mean(1, keepdims=True) for x in (scores, noisy))
    scale = float(np.polyfit(scores.ravel(), noisy.ravel(), 1)[0])
    hits = counted = 0.0
    for i, answer in enumerate(answers):
        alike = [j for j in range(len(answers)) if scores[j].argmax() == scores[i].argmax()]
        dealt = [scale * scores[i] + noisy[j] - scale * scores[j] for j in alike]
        hits += sum(int(np.argmax(s)) == answer for s in dealt) / len(dealt)
        counted += int(scores[i].argmax()) == answer
    return (counted - hits) / len(answers)


@given(st.integers(0, 1000))
def test_it_is_the_mean_over_what_a_class_may_be_dealt(seed: int) -> None:
    scores, noisy, answers = _drawn(seed)
    found = expected_drop(scores, noisy, answers).value
    assert found == pytest.approx(_by_hand(scores, noisy, answers), abs=1e-12)


@given(st.integers(0, 1000))
def test_what_does_not_move_drops_nothing(seed: int) -> None:
    scores, _, answers = _drawn(seed)
    assert expected_drop(scores, scores + 3, answers) == Expected(0, 0)
    # Nor what is scaled by: it decides nothing otherwise.
    assert expected_drop(scores, 0.7 * scores, answers) == Expected(0, 0)
    # Nor does it matter what is added to a whole row: logits and log-probabilities are the same.
    shift = np.random.default_rng(seed).normal(size=(len(answers), 1))
    assert expected_drop(scores, scores + shift, answers) == Expected(0, 0)


def test_of_one_displacement_it_is_what_is_counted() -> None:
    scores, _, answers = _drawn(1)
    moved = scores + 3 * np.array([1.0, 0, 0, -1])
    counted = (scores.argmax(1) == answers).mean() - (moved.argmax(1) == answers).mean()
    assert expected_drop(scores, moved, answers).value == pytest.approx(counted) and counted > 0


def test_of_few_rows_it_varies_less_than_what_is_counted() -> None:
    counted, expected, errors = [], [], []
    for seed in range(60):
        scores, _, answers = _drawn(seed, rows=100)
        noise = np.random.default_rng(1000 + seed).normal(scale=0.5, size=scores.shape)
        noisy = scores + noise
        counted.append((scores.argmax(1) == answers).mean() - (noisy.argmax(1) == answers).mean())
        found = expected_drop(scores, noisy, answers)
        expected.append(found.value)
        errors.append((found.bound - found.value) / ONE_SIDED)
    assert np.std(expected) < 0.7 * np.std(counted)
    assert 0.7 < np.mean(errors) / np.std(expected) < 1.4  # it says by how much it varies
    error = np.std(np.subtract(expected, counted)) / len(counted) ** 0.5
    assert abs(np.mean(expected) - np.mean(counted)) < 3 * error


def test_a_large_class_is_dealt_a_part_of_its_displacements() -> None:
    scores, noisy, answers = _drawn(2, rows=3 * MOST, classes=2)
    found = expected_drop(scores, noisy, answers).value
    assert found == pytest.approx(_by_hand(scores, noisy, answers), abs=0.01)


def test_what_few_rows_do_to_the_others_is_in_the_bound() -> None:
    """Of displacements that are rare and large, hardly any varies from row to row."""
    missed, true = 0, 0.0
    for seed in range(200):
        random = np.random.default_rng(seed)
        answers = random.integers(4, size=400)
        scores = 4.0 * np.eye(4)[answers] + random.normal(size=(400, 4))
        thrown = random.random(400) < 0.015
        noisy = scores - 20 * thrown[:, None] * np.eye(4)[scores.argmax(1)]
        true = 0.015 * float((scores.argmax(1) == answers).mean())
        missed += expected_drop(scores, noisy, answers).bound < true
    assert missed < 0.2 * 200  # of rare events the normal approximation is short


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores, noisy, answers = _drawn(1)
    noisy[3, 2] = np.nan
    with pytest.raises(VerificationError, match="not numbers"):
        expected_drop(scores, noisy, answers)
