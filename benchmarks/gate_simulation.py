"""The gate's decisions on noise that is drawn: the ``simulate`` of gate_error_rates.py.

How often it errs at known effects, whether the effect and the floor that it prints are what its
own decisions show, and what it makes of a machine that slows down for both sides.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench import power, sequential, statistics
from edgekd.bench.sequential import Pair, Plan

REPETITIONS = 2000  # of each verdict row
FEWER = 1000  # of the rows about what is printed and about the machine
EFFECTS = (0.0, 0.05, 0.10, 0.20)
QUICK = Plan(resamples=10)  # the printed interval plays no part in a decision
Noise = Callable[[np.random.Generator, int], np.ndarray]


def synthetic() -> dict[str, Noise]:
    """Made-up noise of one pair's log-ratio, quiet to hostile."""

    def drifting(generator: np.random.Generator, n: int) -> np.ndarray:
        """Pairs that remember the pair before (correlation 0.5): not what the test assumes."""
        steps = generator.normal(0, 0.03 * math.sqrt(1 - 0.25), n)
        values = np.empty(n)
        values[0] = generator.normal(0, 0.03)
        for i in range(1, n):
            values[i] = 0.5 * values[i - 1] + steps[i]
        return values

    def spikes(generator: np.random.Generator, n: int) -> np.ndarray:
        """Three pairs in ten lose up to half their pace in one arm or the other."""
        hit = generator.random(n) < 0.3
        return generator.normal(0, 0.02, n) + hit * generator.uniform(-0.5, 0.5, n)

    return {
        "normal, sd 1 %": lambda g, n: g.normal(0, 0.01, n),
        "normal, sd 2 %": lambda g, n: g.normal(0, 0.02, n),
        "normal, sd 4.5 %": lambda g, n: g.normal(0, 0.045, n),
        "normal, sd 10 %": lambda g, n: g.normal(0, 0.10, n),
        "heavy tails (t2), scale 3 %": lambda g, n: 0.03 * g.standard_t(2, n),
        "spikes in 30 % of pairs": spikes,
        "correlated pairs, sd 3 %": drifting,
    }


def recorded(out: Path) -> dict[str, Noise]:
    """Noise drawn from A/A pairs of real bundles, measured by ``record``.

    Their median is taken off (60 pairs' is no exact nought), so that a row's effect is the true one.
    """
    found: dict[str, Noise] = {}
    for file in sorted(out.glob("recorded-*.json")):
        logs = np.array([pair["p50"] for pair in json.loads(file.read_text())["pairs"]])
        name = f"recorded: {file.stem.removeprefix('recorded-')}, {len(logs)} pairs"
        found[name] = _drawn_from(logs - np.median(logs))
    return found


def _drawn_from(logs: np.ndarray) -> Noise:
    return lambda generator, n: generator.choice(logs, n)


def simulate(out: Path) -> None:
    noises = recorded(out) | synthetic()
    document: dict[str, Any] = {
        "schema": "edgekd.gate-simulation/2",
        "repetitions": {"rows": REPETITIONS, "printed": FEWER, "machines": FEWER},
        "rows": [_verdicts(name, noises[name], effect) for name in noises for effect in EFFECTS],
        "printed": [_printed(name, noise) for name, noise in noises.items()],
        "machines": [_machine(name, pace, e) for name, pace in paces().items() for e in (0, 0.1)],
    }
    (out / "simulation.json").write_text(json.dumps(document, indent=2) + "\n")
    order = ("regressed", "inconclusive", "unchanged", "improved")
    print("| noise | true effect | regressed | inconclusive | unchanged | improved | pairs |")
    print("|---|---|---|---|---|---|---|")
    for row in document["rows"]:
        shares = " | ".join(f"{row[v]:.1%}" for v in order)
        print(f"| {row['noise']} | {row['effect']:+.0%} | {shares} | {row['pairs']:.1f} |")
    print("\n| noise | detectable | called regressed there | floor | equal is unchanged there |")
    print("|---|---|---|---|---|")
    for row in document["printed"]:
        print(
            f"| {row['noise']} | {row['detectable']:.1%} | {row['regressed']:.1%} |"
            f" {row['floor']:.1%} | {row['unchanged']:.1%} |"
        )
    print("\n| machine | true effect | contaminated | regressed | inconclusive | unchanged |")
    print("|---|---|---|---|---|---|")
    for row in document["machines"]:
        shares = " | ".join(f"{row[v]:.1%}" for v in ("contaminated", *order[:3]))
        print(f"| {row['machine']} | {row['effect']:+.0%} | {shares} |")


def _verdicts(
    name: str, noise: Noise, effect: float, plan: Plan = QUICK, repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Shares of verdicts at a true effect, and pairs used on average."""
    generator = np.random.default_rng(0)
    verdicts: Counter[str] = Counter()
    pairs = 0
    for _ in range(repetitions):
        logs = noise(generator, plan.looks[-1] + plan.confirm) + math.log1p(effect)
        outcome = sequential.run(_source(logs), plan)
        verdicts[outcome.verdict] += 1
        pairs += len(outcome.pairs) + len(outcome.confirmation)
    shares = {verdict: verdicts[verdict] / repetitions for verdict in sequential.EXIT_CODES}
    return {"noise": name, "effect": effect, "pairs": pairs / repetitions, **shares}


def _printed(name: str, noise: Noise) -> dict[str, Any]:
    """What the gate would print of this noise if it knew its spread, and what then happens."""
    sd = statistics.robust_sd(noise(np.random.default_rng(1), 100_000))
    effect, floor = power.detectable(sd, QUICK), power.floor(sd, QUICK)
    slower = _verdicts(name, noise, effect, repetitions=FEWER)
    equal = _verdicts(name, noise, 0.0, replace(QUICK, tolerance=floor), FEWER)
    return {
        "noise": name,
        "detectable": effect,
        "regressed": slower["regressed"],
        "floor": floor,
        "unchanged": equal["unchanged"],
    }


def paces() -> dict[str, Noise]:
    """Times of the control kernel, pair by pair: a steady machine, restless ones, ones gone bad."""

    def slower(factor: float) -> Noise:
        """From a pair on that is drawn anew each time, everything takes ``factor`` as long."""

        def draw(generator: np.random.Generator, n: int) -> np.ndarray:
            pace = generator.lognormal(0, 0.02, n)
            pace[int(generator.integers(2, 7)) :] *= factor
            return pace

        return draw

    return {
        "steady, sd 2 %": lambda g, n: g.lognormal(0, 0.02, n),
        "restless, sd 20 %": lambda g, n: g.lognormal(0, 0.20, n),
        "restless, sd 60 %": lambda g, n: g.lognormal(0, 0.60, n),
        "1.2 times as slow from pair 3 to 7 on": slower(1.2),
        "3 times as slow from pair 3 to 7 on": slower(3.0),
    }


def _machine(name: str, pace: Noise, effect: float) -> dict[str, Any]:
    """Verdicts where pairs have a normal noise of 2 %, three times that where all is slower."""
    generator = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(FEWER):
        kernel = pace(generator, QUICK.looks[-1] + QUICK.confirm)
        spread_of = 0.02 * np.where(kernel > 1.5 * np.median(kernel[:2]), 3.0, 1.0)
        logs = generator.normal(math.log1p(effect), spread_of)
        outcome = sequential.run(_source(logs, kernel), QUICK)
        counts[outcome.verdict] += 1
        counts["contaminated"] += outcome.contaminated
    names = (*sequential.EXIT_CODES, "contaminated")
    shares = {key: counts[key] / FEWER for key in names}
    return {"machine": name, "effect": effect, **shares}


def _source(logs: np.ndarray, kernel: np.ndarray | None = None) -> Callable[[int], Pair]:
    def draw(index: int) -> Pair:
        time = None if kernel is None else float(kernel[index])
        return Pair({"p50": float(logs[index])}, 0.0, {}, time)

    return draw
