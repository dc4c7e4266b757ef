"""The gate's decision, apart from any machine: pairs in, verdicts out.

Pairs are looked at a planned number of times. At each look a one-sided exact sign test asks
whether the median log-ratio lies beyond the tolerance (regressed, improved) or inside it on both
sides (unchanged: equivalence, not the absence of significance). The errors of the looks add up
to the error of the gate at the very edge of the tolerance (union bound): 0.39 % + 1.06 % + 0.81 %
= 2.3 % per side, for noise of any shape as long as the pairs are independent of each other. With
no true change it is far less, and a ``regressed`` has to be confirmed by pairs that had no part in
it. Whether pairs resemble their neighbours is tested and said (:func:`statistics.runs_test`), or
that there are too few of them to tell: the first look has.

Bootstrap intervals are printed for the reader. They do not decide, because with 8 pairs a
percentile bootstrap is 95 % in name only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgekd.bench import power, statistics
from edgekd.errors import InputError

Verdict = Literal["regressed", "improved", "unchanged", "inconclusive"]
EXIT_CODES: Mapping[Verdict, int] = {
    "regressed": 1,
    "improved": 0,
    "unchanged": 0,
    "inconclusive": 3,
}
_DEPENDENT = 0.01  # p of the runs test from which it is said
MOST_PAIRS = 300  # that a plan may be scaled to
_BY_CHANCE = 0.1  # p of a change of pace; two pairs before it and six after it reach 2 / 28


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
    pace_tolerance: float = 1.0  # of the machine's own pace, in the middle of the gate: twice
    slices: int = 16  # turns that each process of a pair takes
    slice_ms: float = 25.0  # about how long the slower one's turn lasts
    resamples: int = 10_000  # of the printed bootstrap interval
    seed: int = 0

    def scaled(self, pairs: int) -> Plan:
        """The same looks at as many times the pairs, ``pairs`` at the last.

        Each look spends the error that it had: a sign test is exact at any number of pairs.
        Raises :class:`InputError` for what is no multiple of the last look, or over 300.
        """
        times, rest = divmod(pairs, self.looks[-1])
        if rest or times < 1 or pairs > MOST_PAIRS:
            raise InputError(
                f"{pairs} pairs are no multiple of {self.looks[-1]} up to {MOST_PAIRS}: the looks"
                f" at {', '.join(map(str, self.looks))} pairs grow together"
            )
        return replace(self, looks=tuple(look * times for look in self.looks))

    @property
    def upper(self) -> float:
        return math.log1p(self.tolerance)

    @property
    def lower(self) -> float:
        return math.log1p(-self.tolerance)


_STEP = Plan().looks[-1]  # what --pairs counts in


@dataclass(frozen=True)
class Pair:
    """One baseline process and one candidate process, measured against each other.

    ``log_ratio`` is log(candidate / baseline) by metric; ``control`` is that of the fixed kernel
    that both ran. ``raw`` keeps what they came from. ``kernel_ms`` is that kernel's own time,
    which tells a slow-down that fell on both; None in records that did not keep it.
    """

    log_ratio: Mapping[str, float]
    control: float
    raw: Mapping[str, Any]
    kernel_ms: float | None = None


@dataclass(frozen=True)
class Finding:
    """One metric's verdict. Ratios are candidate / baseline.

    ``mde`` and ``floor`` are fractions (0.02 = 2 %) that hold for this noise and the whole plan:
    the smallest slowdown that would be called regressed with 80 % power, and the smallest
    tolerance at which equal bundles would be called unchanged with 80 % power. Both are estimates,
    because the noise is that of these pairs. ``runs_p`` is small where pairs resemble their
    neighbours, so that they are not independent; ``runs_least`` is the least that so many can give.
    """

    metric: str
    verdict: Verdict
    ratio: float
    ratio_ci: tuple[float, float]  # 95 % percentile bootstrap
    bounds: tuple[float, float]  # exact, at the error of the look that decided
    sd: float  # robust, of one pair's log-ratio
    mde: float
    floor: float
    runs_p: float
    runs_least: float
    pairs: int
    why: str | None = None

    @property
    def independence(self) -> str:
        """What the runs test says of the pairs, or that it cannot."""
        if self.runs_least > _DEPENDENT:
            return "too few pairs to tell whether they are independent"
        return f"independence of the pairs: runs test, p = {self.runs_p:.2g}"


@dataclass(frozen=True)
class Outcome:
    """The verdict over all metrics, and every pair it rests on.

    ``pace_ratio`` is the control kernel's time after over before the pair where it changed most;
    None where it was not kept. ``cautions`` say what a reader should know besides the verdict.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    control_ratio: float
    pace_ratio: float | None
    contaminated: bool
    cautions: tuple[str, ...]
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
    every = [*pairs, *confirmation]
    control = math.exp(float(np.median([p.control for p in every])))
    pace, by_chance = _pace(every, plan) or (None, 1.0)
    moved = abs(math.log(pace)) if pace and by_chance <= _BY_CHANCE else 0.0
    cautions = [text for finding in findings for text in _cautions(finding, plan)]
    why = None
    if abs(control - 1) > plan.control_tolerance:
        why = (
            "the machine favoured one side: the fixed control kernel took"
            f" {control:.3f} times as long beside the candidate"
        )
    elif moved > math.log1p(plan.pace_tolerance):
        why = (
            "the machine changed under the measurement: from some pair on the fixed control kernel"
            f" took {pace:.2f} times as long, for both sides"
        )
    elif moved > math.log1p(plan.control_tolerance):
        cautions.append(
            f"the machine's pace moved: from some pair on the fixed control kernel took {pace:.2f}"
            " times as long, for both sides"
        )
    if why:
        confirmed = [replace(f, verdict="inconclusive", why=why) for f in confirmed]
    verdicts = [finding.verdict for finding in confirmed]
    order: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved", "unchanged")
    overall = next(verdict for verdict in order if verdict in verdicts)
    return Outcome(
        verdict=overall,
        findings=tuple(confirmed),
        control_ratio=control,
        pace_ratio=pace,
        contaminated=why is not None,
        cautions=tuple(cautions),
        pairs=tuple(pairs),
        confirmation=tuple(confirmation),
    )


def _pace(pairs: Sequence[Pair], plan: Plan) -> tuple[float, float] | None:
    """The control kernel's median time after over before the pair where it changed most; p-value.

    The p-value is a permutation test's, because paces have a spread of their own. None where the
    kernel's time was not kept, or for too few pairs.
    """
    times = [pair.kernel_ms for pair in pairs if pair.kernel_ms is not None]
    if len(times) < max(4, len(pairs)):
        return None
    split, p = statistics.change_point(np.log(times), plan.seed)
    return float(np.median(times[split:]) / np.median(times[:split])), p


def _cautions(finding: Finding, plan: Plan) -> list[str]:
    texts = []
    if finding.floor > plan.tolerance:
        texts.append(
            f"{finding.metric}: the tolerance of {plan.tolerance:.1%} is under this machine's floor"
            f" of {finding.floor:.1%}; most gates of equal bundles would stay inconclusive"
        )
    if finding.runs_p <= _DEPENDENT:
        texts.append(
            f"{finding.metric}: neighbouring pairs resemble each other (runs test, p ="
            f" {finding.runs_p:.2g}); the error rates hold for independent pairs"
        )
    return texts


def _finding(
    metric: str, verdict: Verdict, pairs: Sequence[Pair], error: float, plan: Plan
) -> Finding:
    logs = np.array([pair.log_ratio[metric] for pair in pairs])
    interval = statistics.median_interval(logs, resamples=plan.resamples, seed=plan.seed)
    low, high = statistics.order_interval(logs, error)
    sd = statistics.robust_sd(logs)
    floor = power.floor(sd, plan)
    return Finding(
        metric=metric,
        verdict=verdict,
        ratio=math.exp(interval.value),
        ratio_ci=(math.exp(interval.low), math.exp(interval.high)),
        bounds=(math.exp(low), math.exp(high)),
        sd=sd,
        mde=power.detectable(sd, plan),
        floor=floor,
        runs_p=statistics.runs_test(logs),
        runs_least=statistics.runs_least(logs),
        pairs=len(logs),
        why=_why_inconclusive(interval.value, sd, floor, len(logs), plan)
        if verdict == "inconclusive"
        else None,
    )


def _why_inconclusive(value: float, sd: float, floor: float, pairs: int, plan: Plan) -> str:
    if floor > plan.tolerance:
        return (
            f"the tolerance of {plan.tolerance:.1%} is under what this machine can tell with"
            f" {plan.looks[-1]} pairs ({floor:.1%}); raise the tolerance or use a quieter machine"
        )
    room = min(abs(value - plan.upper), abs(value - plan.lower))
    needed = power.pairs_needed(room, sd, plan.errors[-1])
    if needed is None or needed > 20 * pairs:
        return "the true ratio lies so near to the tolerance that no number of pairs decides it"
    more = f"needs about {max(needed - pairs, 1)} more pairs"
    if pairs < plan.looks[-1]:
        return f"{more}; another metric ended the gate before them"
    most = _STEP * math.ceil(max(needed, pairs + 1) / _STEP)
    if most > MOST_PAIRS:
        return f"{more}, too many for a gate; change the tolerance or use a quieter machine"
    return f"{more}; gate again with --pairs {most}, another tolerance or on a quieter machine"


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
