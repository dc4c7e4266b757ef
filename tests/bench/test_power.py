"""The effects that are printed, held against the rule itself on drawn pairs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from edgekd.bench import power
from edgekd.bench.sequential import Pair, Plan, run

PLAN = Plan(resamples=10)
REPETITIONS = 300
ERROR = 3 * math.sqrt(0.8 * 0.2 / REPETITIONS)  # three standard errors of the simulated share
SD = 0.03


def share(verdict, plan, shape, effect, metrics=1):
    """How often the rule says ``verdict`` of noise whose quartiles are those of sd 3 %."""
    generator = np.random.default_rng(1)
    scale = SD / (2 * shape.ppf(0.75) / 1.3489795)
    names = plan.metrics
    hits = 0
    for _ in range(REPETITIONS):
        logs = scale * shape.rvs((plan.looks[-1] + plan.confirm, metrics), random_state=generator)
        logs[:, 0] += effect
        pairs = [Pair(dict(zip(names, map(float, row), strict=True)), 0.0, {}) for row in logs]
        outcome = run(pairs.__getitem__, plan)
        hits += outcome.findings[0].verdict == verdict
    return hits / REPETITIONS


@pytest.mark.parametrize(
    ("shape", "plan"),
    [
        (scipy.stats.norm(), PLAN),
        (scipy.stats.t(3), PLAN),
        (scipy.stats.norm(), replace(PLAN, looks=(30,), errors=(0.010,))),
    ],
    ids=["normal", "t3", "one look"],
)
def test_detectable_effect_is_called_regressed_in_eight_of_ten(shape, plan):
    effect = math.log1p(power.detectable(SD, plan))
    assert share("regressed", plan, shape, effect) == pytest.approx(power.POWER, abs=ERROR)


@pytest.mark.parametrize(
    "shape", [scipy.stats.norm(), scipy.stats.laplace()], ids=["normal", "laplace"]
)
def test_at_the_floor_equal_bundles_are_unchanged_in_eight_of_ten(shape):
    plan = replace(PLAN, tolerance=power.floor(SD, PLAN))
    assert share("unchanged", plan, shape, 0.0) == pytest.approx(power.POWER, abs=ERROR + 0.01)


def test_more_metrics_never_see_more():
    """Holm's strictest step is assumed, so the rule sees at least what is printed."""
    plan = replace(PLAN, metrics=("p50", "load", "first"))
    found = power.detectable(SD, plan)
    assert found > power.detectable(SD, PLAN)
    assert share("regressed", plan, scipy.stats.norm(), math.log1p(found), 3) > 0.8 - ERROR


def test_one_look_by_hand():
    """Of 30 pairs 22 have to lie beyond: 80 % of the time they do where 77.9 % of pairs lie there."""
    plan = replace(PLAN, looks=(30,), errors=(0.010,), confirm=1)
    regressed, unchanged = power.chances(0.9, 0.0, plan)
    assert regressed == pytest.approx(scipy.stats.binom.sf(21, 30, 0.9) * 0.9)
    assert unchanged == pytest.approx(scipy.stats.binom.cdf(8, 30, 0.9))
    beyond = math.log1p(power.detectable(1.0, plan)) - plan.upper
    assert beyond > scipy.stats.norm.ppf(0.779)  # and the confirmation asks for more


def test_looks_that_cannot_decide_detect_nothing():
    plan = replace(PLAN, looks=(4,), errors=(0.01,))
    assert power.detectable(SD, plan) == math.inf and power.detectable(0.0, plan) == math.inf


@pytest.mark.parametrize(("room", "sd"), [(0.02, 0.02), (0.02, 0.05), (0.005, 0.03)])
def test_pairs_needed_have_the_power(room, sd):
    pairs = power.pairs_needed(room, sd, 0.01)
    draws = np.random.default_rng(0).normal(room, sd, (4000, pairs))
    above = (draws > 0).sum(1)
    seen = np.mean(scipy.stats.binom.sf(above - 1, pairs, 0.5) <= 0.01)
    assert 0.78 < seen < 0.95  # the count of pairs is coarse where there are few
    assert power.pairs_needed(0.0, sd, 0.01) is None
