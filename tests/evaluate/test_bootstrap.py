from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgekd.errors import InputError
from edgekd.evaluate import bootstrap
from edgekd.evaluate.bootstrap import difference, estimate, mcnemar, retained
from edgekd.tasks.base import Metric
from edgekd.tasks.classification import accuracy, macro_f1

CLASSES = 4
answers = st.lists(st.integers(0, CLASSES - 1), min_size=30, max_size=60)


def noisy(truth: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    wrong = rng.random(len(truth)) < error
    return np.where(wrong, rng.integers(0, CLASSES, len(truth)), truth)


@given(answers, st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_model_retains_all_of_itself(truth: list[int], seed: int) -> None:
    decoded = noisy(np.array(truth), 0.3, np.random.default_rng(seed)).tolist()
    decoded[0] = truth[0]  # at least one right answer
    for metric in (accuracy(), macro_f1(CLASSES)):
        kept = retained(metric, decoded, decoded, truth, resamples=50)
        assert (kept.value, kept.ci_low, kept.ci_high) == (1, 1, 1)
        gain = difference(metric, decoded, decoded, truth, resamples=50)
        assert (gain.value, gain.ci_low, gain.ci_high) == (0, 0, 0)


def test_resampling_equals_drawing_the_examples_themselves() -> None:
    """The matrix product of weights and statistics against a loop over drawn examples."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLASSES, 200)
    student, teacher = noisy(truth, 0.3, rng), noisy(truth, 0.1, rng)
    metric = macro_f1(CLASSES)
    draws = np.random.default_rng(7).integers(0, 200, (500, 200))
    ratios = [metric(student[d], truth[d]) / metric(teacher[d], truth[d]) for d in draws]
    kept = retained(metric, student, teacher, truth, resamples=500, seed=7)
    assert kept.value == pytest.approx(metric(student, truth) / metric(teacher, truth))
    assert (kept.ci_low, kept.ci_high) == pytest.approx(np.percentile(ratios, [2.5, 97.5]))


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLASSES, 50)
    decoded = noisy(truth, 0.4, rng)
    whole = estimate(accuracy(), decoded, truth)
    monkeypatch.setattr(bootstrap, "_CHUNK", 50 * 7)
    assert estimate(accuracy(), decoded, truth) == whole


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of an accuracy of 0.8 over 400 samples of 300 examples."""
    rng = np.random.default_rng(11)
    truth = np.zeros(300, int)
    covered = 0
    for _ in range(400):
        decoded = (rng.random(300) > 0.8).astype(int)
        interval = estimate(accuracy(), decoded, truth, resamples=400)
        covered += interval.ci_low <= 0.8 <= interval.ci_high
    # Binomial(400, 0.95) lies in here with probability 0.9995; percentile intervals cover a
    # little less than they say.
    assert 364 <= covered <= 396


def test_pairing_narrows_the_interval() -> None:
    """Two models that err on the same examples differ by little, and the interval knows."""
    rng = np.random.default_rng(5)
    truth = rng.integers(0, CLASSES, 1000)
    teacher = noisy(truth, 0.4, rng)
    student = np.where(rng.random(1000) < 0.02, (truth + 1) % CLASSES, teacher)
    alone = estimate(accuracy(), student, truth)
    gain = difference(accuracy(), student, teacher, truth)
    assert gain.ci_high - gain.ci_low < 0.5 * (alone.ci_high - alone.ci_low)


def test_where_lower_is_better_the_ratio_is_turned_over() -> None:
    def statistics(decoded: object, references: object) -> np.ndarray:
        loss = np.asarray(decoded, float)
        return np.stack([loss, np.ones_like(loss)], 1)

    loss = Metric("loss", statistics, lambda s: s[..., 0] / s[..., 1], lower_is_better=True)
    kept = retained(loss, [2.0] * 30, [1.0] * 30, [0] * 30)
    assert (kept.value, kept.ci_low, kept.ci_high) == (0.5, 0.5, 0.5)


def test_a_teacher_that_is_never_right_is_refused() -> None:
    with pytest.raises(InputError, match="teacher's accuracy on these 3 examples is 0"):
        retained(accuracy(), [0, 1, 2], [1, 2, 0], [0, 1, 2])


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="no examples"):
        estimate(accuracy(), [], [])


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_mcnemar_is_a_fair_coin_over_the_discordant_examples(b: int, c: int, both: int) -> None:
    left = np.array([True] * b + [False] * c + [True] * both, bool)
    right = np.array([False] * b + [True] * c + [True] * both, bool)
    test = mcnemar(left, right)
    assert (test.only_left, test.only_right) == (b, c)
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert test.p_value == pytest.approx(expected)
    assert mcnemar(right, left).p_value == test.p_value
