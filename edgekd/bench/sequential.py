"""The gate's decision, apart from any machine: pairs in, verdicts out.

Pairs are looked at a planned number of times. At each look a one-sided exact sign test asks
whether the median log-ratio lies beyond the tolerance (regressed, improved) or inside it on both
sides (unchanged: equivalence, not the absence of significance). The errors of the looks add up
to the error of the gate at the very edge of the tolerance, whatever the noise is like (union
bound): 0.39 % + 1.06 % + 0.81 % = 2.3 % per side. With no true change it is far less, and a
``regressed`` has to be confirmed by pairs that had no part in it.

Bootstrap intervals are printed for the reader. They do not decide, because with 8 pairs a
percentile bootstrap is 95 % in name only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgekd.bench import statistics

Verdict = Literal["regressed", "improved", "unchanged", "inconclusive"]
EXIT_CODES: Mapping[Verdict, int] = {
    "regressed": 1,
    "improved": 0,
    "unchanged": 0,
    "inconclusive": 3,
}


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first pair is measured.

    ``errors`` are the one-sided errors that each look may spend; ``confirm`` is the number of
    fresh pairs that must agree before anything is called regressed.
    """

    tolerance: float = 0.05
    metrics: tuple[str, ...] = ("p50",)
    looks: tuple[int, ...] = (8, 16, 30)
    errors: tuple[float, ...] = (0.004, 0.011, 0.010)
    confirm: int = 8
    control_tolerance: float = 0.05
    slices: int = 16  # turns that each process of a pair takes
    slice_ms: float = 25.0  # about how long the slower one's turn lasts
    resamples: int = 10_000  # of the printed bootstrap interval
    seed: int = 0

    @property
    def upper(self) -> float:
        return math.log1p(self.tolerance)

    @property
    def lower(self) -> float:
        return math.log1p(-self.tolerance)


@dataclass(frozen=True)
class Pair:
    """One baseline process and one candidate process, measured against each other.

    ``log_ratio`` is log(candidate / baseline) by metric; ``control`` is that of the fixed kernel
    that both ran. ``raw`` keeps what they came from.
    """

    log_ratio: Mapping[str, float]
    control: float
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One metric's verdict. Ratios are candidate / baseline; ``mde`` is a fraction (0.02 = 2 %)."""

    metric: str
    verdict: Verdict
    ratio: float
    ratio_ci: tuple[float, float]  # 95 % percentile bootstrap
    bounds: tuple[float, float]  # exact, at the error of the look that decided
    sd: float  # robust, of one pair's log-ratio
    mde: float
    pairs: int
    why: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The verdict over all metrics, and every pair it rests on."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    control_ratio: float
    contaminated: bool
    pairs: tuple[Pair, ...]
    confirmation: tuple[Pair, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def run(draw: Callable[[int], Pair], plan: Plan) -> Outcome:
    """Draw pairs until a look decides, or the last look is over; confirm a regression."""
    pairs: list[Pair] = []
    verdicts: dict[str, Verdict] = {}
    error = 1.0
    for look, error in zip(plan.looks, plan.errors, strict=True):
        while len(pairs) < look:
            pairs.append(draw(len(pairs)))
        verdicts = judge(pairs, error, plan)
        if "regressed" in verdicts.values() or "inconclusive" not in verdicts.values():
            break
    confirmation: list[Pair] = []
    if "regressed" in verdicts.values():
        confirmation = [draw(len(pairs) + i) for i in range(plan.confirm)]
    findings = [_finding(metric, verdicts[metric], pairs, error, plan) for metric in verdicts]
    return conclude(pairs, confirmation, findings, plan)


def replay(pairs: Sequence[Pair], confirmation: Sequence[Pair], plan: Plan) -> Outcome:
    """Decide again from recorded pairs; the same pairs and plan give the same outcome."""
    recorded = [*pairs, *confirmation]
    return run(lambda index: recorded[index], plan)


def judge(pairs: Sequence[Pair], error: float, plan: Plan) -> dict[str, Verdict]:
    """One look at every metric; p-values of a change are Holm-adjusted over the metrics."""
    values = {m: np.array([pair.log_ratio[m] for pair in pairs]) for m in plan.metrics}
    above = {m: statistics.sign_test(v, plan.upper) for m, v in values.items()}
    below = {m: statistics.sign_test(v, plan.lower) for m, v in values.items()}
    worse = statistics.holm({m: above[m][0] for m in values})
    better = statistics.holm({m: below[m][1] for m in values})
    verdicts: dict[str, Verdict] = {}
    for metric in plan.metrics:
        verdicts[metric] = "inconclusive"
        if worse[metric] <= error:
            verdicts[metric] = "regressed"
        elif better[metric] <= error:
            verdicts[metric] = "improved"
        elif above[metric][1] <= error and below[metric][0] <= error:
            verdicts[metric] = "unchanged"
    return verdicts


def conclude(
    pairs: Sequence[Pair],
    confirmation: Sequence[Pair],
    findings: Sequence[Finding],
    plan: Plan,
) -> Outcome:
    """Hold the findings against the confirmation and the control."""
    confirmed = [_confirm(finding, confirmation, plan) for finding in findings]
    control = math.exp(float(np.median([p.control for p in [*pairs, *confirmation]])))
    contaminated = abs(control - 1) > plan.control_tolerance
    if contaminated:
        why = (
            f"the machine changed under the measurement: the fixed control kernel ran at"
            f" {control:.3f} of its pace"
        )
        confirmed = [replace(f, verdict="inconclusive", why=why) for f in confirmed]
    verdicts = [finding.verdict for finding in confirmed]
    order: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved", "unchanged")
    overall = next(verdict for verdict in order if verdict in verdicts)
    return Outcome(
        overall, tuple(confirmed), control, contaminated, tuple(pairs), tuple(confirmation)
    )


def _finding(
    metric: str, verdict: Verdict, pairs: Sequence[Pair], error: float, plan: Plan
) -> Finding:
    logs = np.array([pair.log_ratio[metric] for pair in pairs])
    interval = statistics.median_interval(logs, resamples=plan.resamples, seed=plan.seed)
    low, high = statistics.order_interval(logs, error)
    sd = statistics.robust_sd(logs)
    mde = math.expm1(statistics.minimal_detectable_effect(sd, len(logs)))
    return Finding(
        metric=metric,
        verdict=verdict,
        ratio=math.exp(interval.value),
        ratio_ci=(math.exp(interval.low), math.exp(interval.high)),
        bounds=(math.exp(low), math.exp(high)),
        sd=sd,
        mde=mde,
        pairs=len(logs),
        why=_why_inconclusive(interval.value, sd, mde, len(logs), plan)
        if verdict == "inconclusive"
        else None,
    )


def _why_inconclusive(value: float, sd: float, mde: float, pairs: int, plan: Plan) -> str:
    if mde > plan.tolerance:
        return (
            f"the tolerance of {plan.tolerance:.1%} is under what this machine can tell with"
            f" {pairs} pairs ({mde:.1%}); raise the tolerance or use a quieter machine"
        )
    room = min(abs(value - plan.upper), abs(value - plan.lower))
    # Pairs at which 2.3 standard errors of the median, the last look's bound, fit the room.
    needed = math.ceil((2.3 * 1.2533 * sd / room) ** 2) if room > 0 else pairs * 100
    if needed > 20 * pairs:
        return "the true ratio lies so near to the tolerance that no number of pairs decides it"
    return f"needs about {max(needed - pairs, 1)} more pairs"


def _confirm(finding: Finding, confirmation: Sequence[Pair], plan: Plan) -> Finding:
    """Keep ``regressed`` only where the median of the fresh pairs says so too."""
    if finding.verdict != "regressed":
        return finding
    again = float(np.median([pair.log_ratio[finding.metric] for pair in confirmation]))
    if again > plan.upper:
        return finding
    return replace(
        finding,
        verdict="inconclusive",
        why=f"{len(confirmation)} fresh pairs did not confirm it (ratio {math.exp(again):.3f})",
    )
