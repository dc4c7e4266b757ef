"""The two-sample test against its definition, its level, and its power."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.evaluate.shift import energy_test, nearest


def normal(seed, rows, shift=0.0, width=8):
    return np.random.default_rng(seed).normal(shift, 1, (rows, width))


def test_statistic_is_the_energy_distance_of_its_definition():
    x, y = normal(0, 30), normal(1, 20, 0.5)

    def mean(a, b):
        return np.mean([np.linalg.norm(p - q) for p in a for q in b])

    energy = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    found = energy_test(x, y, permutations=9)
    assert found.statistic == pytest.approx(energy / (2 * mean(x, y)))
    assert found.rows == (30, 20)


def test_one_dimension_agrees_with_scipy():
    from scipy.stats import energy_distance

    x, y = normal(0, 40, width=1), normal(1, 50, 1.0, width=1)
    distances = np.abs(x - y.T).mean()
    found = energy_test(x, y, permutations=9).statistic * 2 * distances
    assert found == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2)  # SciPy's is a root


def test_level_holds_whatever_the_features_are_like():
    """Exact by permutation: of 300 draws alike, more than 12 at one in a hundred is p < 1e-4."""
    false = 0
    for seed in range(300):
        pooled = np.random.default_rng(seed).standard_t(2, (80, 4))
        false += energy_test(pooled[:40], pooled[40:], permutations=199, seed=seed).found
    assert false <= 12


def test_a_shift_is_found_and_named():
    train, served = normal(0, 200), normal(1, 200)
    assert not energy_test(train, served).found
    served[:80] += 3  # two rows in five come from elsewhere
    found = energy_test(train, served)
    assert found.found and found.p_value == pytest.approx(1 / 1000)
    assert set(np.argsort(-nearest(train, served))[:20]) <= set(range(80))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_origin_do_not_matter(seed, scale, origin):
    x, y = normal(seed, 15), normal(seed + 1, 12, 0.3)
    plain = energy_test(x, y, permutations=19)
    moved = energy_test(x * scale + origin, y * scale + origin, permutations=19)
    assert moved.statistic == pytest.approx(plain.statistic, rel=1e-5, abs=1e-6)
    assert energy_test(y, x, permutations=19).statistic == pytest.approx(plain.statistic)


def test_the_same_seed_gives_the_same_p():
    x, y = normal(0, 50), normal(1, 50, 0.1)
    assert energy_test(x, y, seed=3) == energy_test(x, y, seed=3)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.array([[1.0, np.nan, 0], [0, 0, 0]])])
def test_samples_that_cannot_be_compared(bad):
    with pytest.raises(ValueError, match=r"samples|finite"):
        energy_test(normal(0, 10, width=3), bad)
