import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench import statistics


def test_published_sample_counts():
    """MLPerf LoadGen: 64 samples for p90 (Mobile), 662 for p99 (MultiStream)."""
    assert [statistics.samples_needed(p) for p in (0.90, 0.95, 0.99)] == [64, 130, 662]
    assert [statistics.samples_needed(p, over=0) for p in (0.90, 0.95, 0.99)] == [44, 90, 459]


def test_samples_needed_is_the_smallest():
    n = statistics.samples_needed(0.9)
    assert scipy.stats.binom.cdf(1, n, 0.1) <= 0.01 < scipy.stats.binom.cdf(1, n - 1, 0.1)


def test_early_stopping_estimate():
    samples = np.arange(1.0, 65.0)
    assert statistics.percentile_bound(samples, 0.9) == 64  # at 64 samples nothing is discarded
    many = np.arange(1.0, 663.0)
    assert statistics.percentile_bound(many, 0.99) == 662
    with pytest.raises(ValueError, match="63 samples"):
        statistics.percentile_bound(samples[:63], 0.9)


def test_early_stopping_bound_holds():
    """The bound lies above the true percentile in at least 99 % of draws."""
    generator = np.random.default_rng(0)
    truth = scipy.stats.lognorm(0.5).ppf(0.9)
    draws = generator.lognormal(0, 0.5, (2000, 200))
    covered = np.mean([statistics.percentile_bound(d, 0.9) >= truth for d in draws])
    assert covered > 0.985


def test_median_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).normal(0, 1, 25)
    ours = statistics.median_interval(values, resamples=20_000, seed=1)
    theirs = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    assert ours.value == np.median(values)
    # Both ends are order statistics of the same sample; two seeds may pick neighbours.
    gap = np.diff(np.sort(values)).max()
    assert ours.low == pytest.approx(theirs.low, abs=gap / 4)
    assert ours.high == pytest.approx(theirs.high, abs=gap / 4)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(-0.5, 0.5))
def test_sign_test_is_scipys(values, threshold):
    array = np.array(values)
    above, below = statistics.sign_test(array, threshold)
    over, under = int((array > threshold).sum()), int((array < threshold).sum())
    test = scipy.stats.binomtest
    assert above == pytest.approx(test(over, len(array), alternative="greater").pvalue)
    assert below == pytest.approx(test(under, len(array), alternative="greater").pvalue)


@pytest.mark.parametrize("n", [8, 16, 30, 51])
@pytest.mark.parametrize("error", [0.004, 0.011, 0.025])
def test_order_interval_is_scipys_quantile_interval(n, error):
    values = np.random.default_rng(n).normal(size=n)
    low, high = statistics.order_interval(values, error)
    theirs = scipy.stats.quantile_test(values, q=0, p=0.5).confidence_interval(1 - 2 * error)
    if np.isfinite(low):
        assert (low, high) == (theirs.low, theirs.high)
    else:
        assert np.isnan(theirs.low)


def test_order_interval_and_sign_test_agree():
    generator = np.random.default_rng(5)
    for _ in range(200):
        values = generator.normal(0.1, 0.1, 16)
        low, _ = statistics.order_interval(values, 0.011)
        assert (low > 0.05) == (statistics.sign_test(values, 0.05)[0] <= 0.011)


def test_holm_by_hand():
    """Holm (1979), Bonferroni's step-down: 0.01*4, max(0.04, 0.02*3), ..."""
    adjusted = statistics.holm({"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_favours_and_keeps_the_order(p_values):
    adjusted = statistics.holm(p_values)
    assert all(adjusted[name] >= p for name, p in p_values.items())
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(ordered))


def test_robust_sd():
    values = np.random.default_rng(0).normal(0, 0.045, 100_000)
    assert statistics.robust_sd(values) == pytest.approx(0.045, rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_runs_test_counts_orders(seed):
    """By brute force: the share of all orders with as few runs as the observed one."""
    values = np.random.default_rng(seed).normal(size=8)
    sides = [bool(v > np.median(values)) for v in values]

    def runs(order):
        return 1 + sum(a != b for a, b in itertools.pairwise(order))

    orders = list(itertools.permutations(sides))
    share = np.mean([runs(order) <= runs(sides) for order in orders])
    assert statistics.runs_test(values) == pytest.approx(share)


def test_runs_test_of_blocks_and_of_turns():
    blocks = np.repeat([0.0, 1.0], 15) + np.random.default_rng(0).normal(0, 0.1, 30)
    assert statistics.runs_test(blocks) < 1e-6
    assert statistics.runs_test(np.tile([0.0, 1.0], 15)) > 0.999
    assert statistics.runs_test([2.0, 2.0, 2.0]) == 1.0


@pytest.mark.parametrize("split", [2, 3, 4, 6])
def test_change_of_level_has_the_chance_of_its_orders(split):
    """Eight values of two levels, in order: as few orders as there are ways to pick them, two."""
    values = np.repeat([0.0, 1.0], [split, 8 - split])
    where, p = statistics.change_point(values)
    assert where == split
    assert p == pytest.approx(2 / math.comb(8, split), abs=0.02)


def test_one_stray_value_is_no_change_of_level():
    for place in range(8):
        values = np.random.default_rng(place).normal(0, 0.01, 8)
        values[place] = 1.0
        assert statistics.change_point(values)[1] > 0.1
    with pytest.raises(ValueError, match="3 values"):
        statistics.change_point([1.0, 2.0, 3.0])


def test_two_stage_interval_covers_the_spread_between_processes():
    """Resampling iterations alone would miss that processes differ."""
    generator = np.random.default_rng(0)
    rounds = [generator.normal(mean, 0.01, 200) for mean in (1.0, 1.1, 1.2)]
    interval = statistics.rounds_interval(rounds, chunk=20)
    assert interval.value == pytest.approx(1.1, abs=0.01)
    assert interval.low < 1.01 and interval.high > 1.19
    naive = statistics.median_interval(np.concatenate(rounds))
    assert naive.high - naive.low < interval.high - interval.low


def test_one_process_of_one_pass_still_has_a_spread():
    """One chunk resampled is itself: an interval of no width would claim to know everything."""
    samples = np.random.default_rng(0).normal(1.0, 0.1, 64)
    interval = statistics.rounds_interval([samples], chunk=64)
    assert interval.low < interval.value < interval.high
    single = statistics.rounds_interval([samples[:1]], chunk=64)
    assert single.low == single.value == single.high == samples[0]


def test_ratio_cancels_what_both_arms_share():
    """A slow round slows both; the ratio of paired rounds does not see it."""
    generator = np.random.default_rng(0)
    pace = (1.0, 2.0, 1.5, 1.2)
    below = [p * generator.normal(1, 0.001, 100) for p in pace]
    above = [3 * p * generator.normal(1, 0.001, 100) for p in pace]
    ratio = statistics.ratio_interval(above, below, (10, 10))
    assert ratio.value == pytest.approx(3, rel=0.01)
    assert ratio.high - ratio.low < 0.02
