"""The hierarchical bootstrap against an independent loop, closed forms, and its own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm, t

from edgekd.errors import InputError
from edgekd.evaluate.bootstrap import difference
from edgekd.evaluate.seeds import gain
from edgekd.tasks.classification import accuracy, macro_f1

CLASSES = 4


def models(rng: np.random.Generator, truth: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
    return [np.where(rng.random(len(truth)) < e, (truth + 1) % CLASSES, truth) for e in errors]


def test_one_seed_is_the_interval_over_examples() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CLASSES, 200)
    left, right = models(rng, truth, np.array([0.1, 0.2]))
    for metric in (accuracy(), macro_f1(CLASSES)):
        assert gain(metric, [left], [right], truth) == difference(metric, left, right, truth)


def test_golden_values_against_a_loop_over_drawn_seeds_and_examples() -> None:
    """The formula, spelled out: replicates drawn one by one, metrics computed from scratch."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLASSES, 120)
    students = models(rng, truth, np.array([0.1, 0.14, 0.2]))
    controls = models(rng, truth, np.array([0.2, 0.15, 0.25]))
    metric = macro_f1(CLASSES)
    count, resamples = 3, 400
    examples = np.random.default_rng(5).integers(0, 120, (resamples, 120))
    seeds = np.random.default_rng((5, count)).integers(0, count, (count, resamples))
    replicates, centres = [], []
    for r in range(resamples):
        w = examples[r]
        each = [
            metric(s[w], truth[w]) - metric(c[w], truth[w])
            for s, c in zip(students, controls, strict=True)
        ]
        drawn = np.mean([each[i] for i in seeds[:, r]])
        replicates.append(np.mean(each) + np.sqrt(3 / 2) * (drawn - np.mean(each)))
        centres.append(np.mean(each))
    found = gain(metric, students, controls, truth, resamples=resamples, seed=5)
    whole = [metric(s, truth) - metric(c, truth) for s, c in zip(students, controls, strict=True)]
    assert found.value == pytest.approx(np.mean(whole))
    of_examples, of_seeds = np.var(centres), np.var(whole, ddof=1) / 3
    freedom = (of_examples + of_seeds) ** 2 / (of_seeds**2 / 2)
    ends = np.percentile(replicates, [2.5, 97.5]) - np.mean(whole)
    expected = np.mean(whole) + ends * t.ppf(0.975, freedom) / norm.ppf(0.975)
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)


def test_seeds_that_agree_add_nothing_and_seeds_that_differ_widen() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, CLASSES, 300)
    left, right, other = models(rng, truth, np.array([0.1, 0.2, 0.35]))
    metric = accuracy()
    one = gain(metric, [left], [right], truth)
    same = gain(metric, [left] * 3, [right] * 3, truth)
    assert (same.value, same.ci_low, same.ci_high) == pytest.approx(
        (one.value, one.ci_low, one.ci_high)
    )
    apart = gain(metric, [left, left, left], [right, right, other], truth)
    assert apart.ci_high - apart.ci_low > 1.2 * (one.ci_high - one.ci_low)


def test_the_spread_over_seeds_alone_is_binomial() -> None:
    """Where no example matters, drawing seeds is tossing a coin: gains of 1 in 4 of 6 seeds."""
    truth = [0] * 10
    students = [[0] * 10] * 4 + [[1] * 10] * 2
    found = gain(accuracy(), students, [[1] * 10] * 6, truth, resamples=20_000)
    few = t.ppf(0.975, 5) / norm.ppf(0.975)  # six values of an unknown spread
    low, high = (
        4 / 6 + few * np.sqrt(6 / 5) * (binom.ppf(q, 6, 4 / 6) / 6 - 4 / 6) for q in (0.025, 0.975)
    )
    assert found.value == pytest.approx(4 / 6)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))


def test_the_interval_covers_the_truth_more_often_than_one_seed_does() -> None:
    """Training luck of two points on top of 300 examples; the true gain is five points."""
    rng = np.random.default_rng(7)
    hits = {"three": 0, "one": 0}
    draws = 60
    for _ in range(draws):
        truth = rng.integers(0, CLASSES, 300)
        luck = rng.normal(0, 0.02, (2, 3))
        students = models(rng, truth, 0.15 + luck[0])
        controls = models(rng, truth, 0.20 + luck[1])
        for name, n in (("three", 3), ("one", 1)):
            found = gain(accuracy(), students[:n], controls[:n], truth, resamples=150)
            hits[name] += found.ci_low <= 0.05 <= found.ci_high
    assert hits["three"] / draws >= 0.9
    assert hits["one"] < hits["three"]


def test_three_seeds_cover_the_truth_where_training_luck_outweighs_the_examples() -> None:
    """Two points of luck and 3,000 examples: unstretched, three seeds cover it in 88 % of draws."""
    rng = np.random.default_rng(11)
    draws, hits = 60, 0
    for _ in range(draws):
        truth = rng.integers(0, CLASSES, 3000)
        luck = rng.normal(0, 0.02, (2, 3))
        students = models(rng, truth, 0.15 + luck[0])
        controls = models(rng, truth, 0.20 + luck[1])
        found = gain(accuracy(), students, controls, truth, resamples=100)
        hits += found.ci_low <= 0.05 <= found.ci_high
    assert hits / draws >= 0.9


def test_students_and_controls_are_paired() -> None:
    with pytest.raises(InputError, match="2 students and 1 controls"):
        gain(accuracy(), [[0], [0]], [[0]], [0])
    with pytest.raises(InputError, match="0 students"):
        gain(accuracy(), [], [], [0])
