import math

import numpy as np
import pytest

from edgekd.bench.sequential import Pair, Plan, replay, run
from edgekd.errors import InputError


def source(logs, control=0.0, kernel=None):
    """Pairs from given log-ratios of p50, in order; ``kernel`` holds the control's times."""
    times = [None] * len(logs) if kernel is None else kernel
    return lambda index: Pair({"p50": float(logs[index])}, control, {}, times[index])


def noise(seed, true=0.0, sd=0.02, n=60):
    return np.random.default_rng(seed).normal(true, sd, n)


def test_verdicts_and_exit_codes():
    for true, verdict, code in [
        (math.log(1.2), "regressed", 1),
        (math.log(0.8), "improved", 0),
        (0.0, "unchanged", 0),
    ]:
        outcome = run(source(noise(0, true)), Plan())
        assert (outcome.verdict, outcome.exit_code) == (verdict, code)


def test_clear_case_stops_at_the_first_look():
    assert len(run(source(noise(0, 0.5)), Plan()).pairs) == 8
    assert len(run(source(noise(0, 0.0, sd=0.005)), Plan()).pairs) == 8


def test_on_the_edge_of_the_tolerance_nothing_is_claimed():
    outcome = run(source(noise(0, math.log(1.05))), Plan())
    assert (outcome.verdict, outcome.exit_code, len(outcome.pairs)) == ("inconclusive", 3, 30)
    assert outcome.findings[0].why


def test_tolerance_under_the_floor_is_said():
    outcome = run(source(noise(0, sd=0.2)), Plan(tolerance=0.01))
    assert outcome.verdict == "inconclusive"
    assert "under what this machine can tell" in outcome.findings[0].why
    assert outcome.findings[0].floor > 0.01
    assert any("floor" in caution for caution in outcome.cautions)


def test_regression_that_fresh_pairs_do_not_confirm():
    logs = np.concatenate([np.full(8, 0.2), np.zeros(30)])
    outcome = run(source(logs), Plan())
    assert outcome.verdict == "inconclusive" and len(outcome.confirmation) == 8
    assert "did not confirm" in outcome.findings[0].why


def test_control_that_moved_overrules():
    outcome = run(source(noise(0, 0.5), control=0.1), Plan())
    assert outcome.contaminated and outcome.verdict == "inconclusive"
    assert "control kernel" in outcome.findings[0].why


@pytest.mark.parametrize(("factor", "said"), [(2.5, "contaminated"), (1.2, "caution"), (1.0, "")])
@pytest.mark.parametrize("true", [0.0, 0.5])
@pytest.mark.parametrize("start", [2, 4, 6])
def test_machine_that_slows_down_for_both_sides(factor, said, true, start):
    """The ratio does not see it; the control held against itself does, and says how much."""
    pace = 10.0 * np.random.default_rng(2).lognormal(0, 0.01, 60)
    pace[start:] *= factor
    outcome = run(source(noise(0, true, sd=0.005), kernel=pace), Plan())
    assert outcome.contaminated == (said == "contaminated")
    assert outcome.pace_ratio == pytest.approx(factor, rel=0.05)
    if said == "contaminated":
        assert outcome.verdict == "inconclusive" and "some pair on" in outcome.findings[0].why
    else:
        assert outcome.verdict == ("regressed" if true else "unchanged")
        assert any("pace moved" in caution for caution in outcome.cautions) == (said == "caution")


def test_spread_of_the_pace_is_no_change_of_it():
    """A machine as unsteady as +-40 % all along: called changed no more often than planned."""
    generator = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        pace = generator.lognormal(0, 0.4, 60)
        called += run(source(noise(0, sd=0.005), kernel=pace), Plan(resamples=10)).contaminated
    assert called / 300 < 0.1 + 3 * math.sqrt(0.1 / 300)


def test_pace_that_was_not_kept():
    outcome = run(source(noise(0)), Plan())
    assert outcome.pace_ratio is None and not outcome.contaminated


def test_pairs_that_remember_the_pair_before_are_said():
    logs = np.repeat(noise(4, sd=0.03, n=10), 6)
    outcome = run(source(logs), Plan(tolerance=0.01))
    assert outcome.findings[0].runs_p < 0.01
    assert any("independent" in caution for caution in outcome.cautions)


def test_too_few_pairs_are_not_called_independent():
    """8 pairs in the most dependent order reach p = 2 / 70, which no bound of 1 % is under."""
    eight = run(source(np.linspace(-0.01, 0.01, 60)), Plan()).findings[0]
    assert (eight.pairs, eight.runs_p, eight.runs_least) == (8, 2 / 70, 2 / 70)
    assert "too few pairs to tell" in eight.independence
    more = run(source(noise(0, math.log(1.05))), Plan()).findings[0]
    assert more.runs_least < 1e-6 and f"p = {more.runs_p:.2g}" in more.independence


def test_more_pairs_are_advised_as_the_option_that_gives_them():
    finding = run(source(noise(2, math.log(1.042))), Plan()).findings[0]
    assert finding.verdict == "inconclusive"
    advised = int(finding.why.partition("--pairs ")[2].partition(",")[0])
    again = run(source(noise(2, math.log(1.042), n=advised)), Plan().scaled(advised))
    assert again.verdict == "unchanged"


def test_scaled_plan_keeps_its_errors():
    plan = Plan().scaled(90)
    assert (plan.looks, plan.errors) == ((24, 48, 90), Plan().errors)
    for pairs in (0, -30, 45, 330):
        with pytest.raises(InputError, match="multiple of 30"):
            Plan().scaled(pairs)


def test_interval_and_detectable_effect_are_always_there():
    for true in (0.0, 0.05, 0.3):
        finding = run(source(noise(1, true)), Plan()).findings[0]
        assert finding.ratio_ci[0] <= finding.ratio <= finding.ratio_ci[1]
        assert finding.bounds[0] <= finding.ratio <= finding.bounds[1]
        assert finding.mde > 0


def test_holm_over_metrics():
    """Eight pairs can reach p = 1/256, which is one metric's error and not three metrics'."""
    metrics = ("p50", "first", "load")
    logs = {"p50": 0.3, "first": 0.0, "load": 0.0}
    jitter = noise(3, sd=0.004)

    def draw(index):
        return Pair({m: logs[m] + float(jitter[index]) for m in metrics}, 0.0, {})

    assert len(run(draw, Plan(metrics=("p50",))).pairs) == 8
    outcome = run(draw, Plan(metrics=metrics))
    assert len(outcome.pairs) == 16
    assert [f.verdict for f in outcome.findings] == ["regressed", "unchanged", "unchanged"]
    assert outcome.verdict == "regressed"


def test_replay_is_the_same_outcome():
    for seed in range(20):
        outcome = run(source(noise(seed, 0.07, 0.03)), Plan(seed=seed))
        assert replay(outcome.pairs, outcome.confirmation, Plan(seed=seed)) == outcome


@pytest.mark.parametrize(("shape", "most"), [("normal", 30), ("heavy", 30), ("normal", 60)])
def test_error_budget(shape, most):
    """At the edge of the tolerance, where errors are likeliest, a look errs as planned."""
    generator = np.random.default_rng(0)
    plan = Plan(resamples=10).scaled(most)
    repetitions, wrong = 500, 0
    for _ in range(repetitions):
        n = most + plan.confirm
        steps = generator.normal(size=n) if shape == "normal" else generator.standard_t(2, n)
        wrong += run(source(0.045 * steps + plan.upper), plan).verdict == "regressed"
    assert wrong / repetitions < 0.0226 + 3 * math.sqrt(0.0226 / repetitions)
