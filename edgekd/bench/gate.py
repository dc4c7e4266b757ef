"""The regression gate: two bundles side by side on this machine, now.

A baseline is an artifact, never stored milliseconds. Exact metrics are compared exactly, once.
Noisy ones are compared in pairs of fresh processes that take turns every few milliseconds, so
that a neighbour's load or a clock change falls on both; the pair is the statistical unit and
:mod:`edgekd.bench.sequential` decides. (Paired interleaving: Laaber et al., EMSE 2019; Bulej et
al., "Duet Benchmarking", ICPE 2020.)
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd import exporter as exporters
from edgekd.bench import environment, power, sequential
from edgekd.bench.measure import HERE, check_target, opened, prepare, spread
from edgekd.bench.runner import Runner
from edgekd.bench.sequential import Outcome, Pair, Plan, Verdict
from edgekd.bench.transport import Transport
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle, TensorSpec
from edgekd.errors import InconclusiveError, InputError
from edgekd.preprocess import Row
from edgekd.profiles import Profile

SCHEMA = "edgekd.gate/1"
ExactVerdict = Literal["regressed", "improved", "unchanged", "missing"]
METRICS = ("p50", "first", "load", "memory")
WARM_SECONDS, WARM_COUNT = 0.2, 10
# What Exporter.inspect counts and of which less is better: accidents show here first.
_COUNTED = ("weight_bytes", "macs", "casts", "quantize", "dequantize")


@dataclass(frozen=True)
class Exact:
    """A figure without noise; ``missing``, which decides nothing, where one side does not tell."""

    metric: str
    baseline: float | None
    candidate: float | None
    verdict: ExactVerdict


@dataclass(frozen=True)
class GateResult:
    """Everything a reader or a replay needs."""

    verdict: Verdict
    exact: tuple[Exact, ...]
    outcome: Outcome
    plan: Plan
    environment: Mapping[str, Any]
    artifacts: Mapping[str, Mapping[str, Any]]

    @property
    def exit_code(self) -> int:
        return sequential.EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """``edgekd.gate/1``: :func:`from_dict` decides again from it."""
        outcome = self.outcome
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "exact": [asdict(exact) for exact in self.exact],
            "findings": [asdict(finding) for finding in outcome.findings],
            "control_ratio": outcome.control_ratio,
            "pace_ratio": outcome.pace_ratio,
            "cautions": list(outcome.cautions),
            "contaminated": outcome.contaminated,
            "plan": asdict(self.plan),
            "environment": dict(self.environment),
            "artifacts": {name: dict(values) for name, values in self.artifacts.items()},
            "pairs": [asdict(pair) for pair in outcome.pairs],
            "confirmation": [asdict(pair) for pair in outcome.confirmation],
        }


def from_dict(document: Mapping[str, Any]) -> GateResult:
    """Decide again from a recorded gate; raise :class:`InputError` where it is not one."""
    if document.get("schema") != SCHEMA:
        raise InputError(f"not a recorded gate: schema {document.get('schema')!r}, not {SCHEMA!r}")
    try:
        lists = ("metrics", "looks", "errors")
        settings: dict[str, Any] = dict(document["plan"])
        plan = Plan(**settings | {name: tuple(settings[name]) for name in lists})
        pairs = [Pair(**pair) for pair in document["pairs"]]
        confirmation = [Pair(**pair) for pair in document["confirmation"]]
        exact = tuple(Exact(**values) for values in document["exact"])
        outcome = sequential.replay(pairs, confirmation, plan)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"the recorded gate is incomplete ({error!r}); run it again") from error
    return _result(exact, outcome, plan, document["environment"], document["artifacts"])


def gate(
    baseline: Path,
    candidate: Path,
    profile: Profile,
    rows: Sequence[Row],
    plan: Plan | None = None,
    *,
    exact_tolerance: float = 0.0,
    transport: Transport = HERE,
    progress: Callable[[int, int], None] = lambda done, most: None,
) -> GateResult:
    """Compare two bundles; ``progress`` is told the pairs done and the most that may come.

    Raises :class:`InputError` for bundles of different tasks or inputs and for hardware that is
    elsewhere without a ``transport`` to it, :class:`InconclusiveError` where a runner dies.
    """
    plan = plan or Plan()
    check_plan(plan)
    bundles = {"baseline": Bundle.open(baseline), "candidate": Bundle.open(candidate)}
    check_comparable(bundles["baseline"], bundles["candidate"])
    if profile.where == "elsewhere" and not transport.remote:
        raise InputError(
            f"{profile.name} is not this machine, and a gate measures where it runs: gate with"
            " --profile host, or reach the hardware with --on ssh:user@machine or --on adb"
        )
    for bundle in bundles.values():
        bundle.check_files()
        check_target(bundle, profile)
    seen = {name: opened(bundle, profile) for name, bundle in bundles.items()}
    exact = compare_exact(seen["baseline"], seen["candidate"], exact_tolerance)
    picked = spread(rows, bundles["baseline"])
    before = environment.cpu_ticks()
    with tempfile.TemporaryDirectory(prefix="edgekd-gate-") as folder:
        feeds = {name: Path(folder) / f"{name}.npz" for name in bundles}
        for name, bundle in bundles.items():
            write_feeds(feeds[name], [bundle.encode([row]) for row in picked])
        arms = {name: Arm(bundles[name], feeds[name], profile, transport) for name in bundles}
        pace: list[int] = []

        def draw(index: int) -> Pair:
            pair = measure_pair(arms, index, plan, pace)
            progress(index + 1, plan.looks[-1] + plan.confirm)
            return pair

        outcome = sequential.run(draw, plan)
        machine = _machine(arms["baseline"])
    steal = None
    if not transport.remote:
        steal = environment.steal_percent(before, environment.cpu_ticks())
    machine = {**machine, "steal_percent": steal}
    artifacts = {name: identify(bundle) for name, bundle in seen.items()}
    return _result(exact, outcome, plan, machine, artifacts)


def refuse_stored(artifact: Path) -> None:
    """Say plainly why stored numbers are no baseline; a folder passes.

    Raises :class:`InconclusiveError` for a file of measurements, naming what differs between its
    machine and this one.
    """
    if not artifact.is_file():
        return
    try:
        document = json.loads(artifact.read_text(encoding="utf-8"))
        then = _machine_of(document)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        then = None
    if then is None:
        raise InputError(f"{artifact} is not a bundle: a gate compares bundle folders")
    differs = environment.comparable(then, environment.describe())
    where = f"another machine ({', '.join(differs)} differ)" if differs else "another time"
    raise InconclusiveError(
        f"{artifact} holds stored milliseconds from {where}, which are not comparable; give the"
        " baseline's bundle, so that both can be measured side by side now"
    )


def _machine_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The fingerprint in what ``bench``, ``run`` or ``gate`` wrote; None for another document."""
    schema = document.get("schema")
    if schema == "edgekd.bench/1":
        rows = [row for rows in document["bundles"].values() for row in rows]
        return rows[0]["details"]["environment"]
    return document["environment"] if schema in ("edgekd.report/1", SCHEMA) else None


def check_plan(plan: Plan) -> None:
    """Raise :class:`InputError` for a plan that no gate could follow."""
    if not 0 < plan.tolerance < 1:
        raise InputError(f"a tolerance of {plan.tolerance:g} is not between 0 and 1 (5% is 0.05)")
    unknown = sorted(set(plan.metrics) - set(METRICS))
    if unknown or not plan.metrics:
        raise InputError(f"unknown metric {unknown}; the noisy metrics are {', '.join(METRICS)}")
    if not math.isfinite(power.detectable(0.01, plan)):
        raise InputError(
            f"looks at {', '.join(map(str, plan.looks))} pairs with these errors can never call"
            f" {len(plan.metrics)} metrics regressed; gate with more --pairs or fewer metrics"
        )


def check_comparable(baseline: Bundle, candidate: Bundle) -> None:
    """Raise :class:`InputError` where a ratio of the two would compare different things."""
    left, right = baseline.manifest, candidate.manifest
    faults = {
        "task": (left.task, right.task),
        "target": (left.target, right.target),
        "labels": (left.labels, right.labels),
        "inputs": _unlike(left.inputs, right.inputs),
    }
    for name, (a, b) in faults.items():
        if a != b:
            raise InputError(
                f"baseline and candidate cannot be compared: their {name} differ"
                f" ({_short(a)} and {_short(b)}); gate bundles of one model and one target"
            )


def _unlike(left: Sequence[TensorSpec], right: Sequence[TensorSpec]) -> tuple[str, str]:
    """The inputs of either side that the other does not take; less of them is less work.

    Two fixed dimensions have to be equal; a dynamic one fits any.
    """

    def fit(a: TensorSpec, b: TensorSpec) -> bool:
        return (a.name, a.dtype, len(a.shape)) == (b.name, b.dtype, len(b.shape)) and all(
            m == n or isinstance(m, str) or isinstance(n, str)
            for m, n in zip(a.shape, b.shape, strict=True)
        )

    def rest(those: Sequence[TensorSpec], others: Sequence[TensorSpec]) -> str:
        told = [
            f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"
            for spec in sorted(those, key=lambda spec: spec.name)
            if not any(fit(spec, other) for other in others)
        ]
        return "; ".join(told) or "nothing"

    return rest(left, right), rest(right, left)


def compare_exact(baseline: Bundle, candidate: Bundle, tolerance: float) -> tuple[Exact, ...]:
    """Figures that have no noise; more of any of them is worse."""
    left, right = (_figures(bundle) for bundle in (baseline, candidate))
    sides = {metric: (left.get(metric), right.get(metric)) for metric in left | right}
    return tuple(Exact(m, a, b, _exact_verdict(a, b, tolerance)) for m, (a, b) in sides.items())


def _exact_verdict(a: float | None, b: float | None, tolerance: float) -> ExactVerdict:
    if a is None or b is None:
        return "missing"
    if b > a * (1 + tolerance):
        return "regressed"
    return "improved" if b < a * (1 - tolerance) else "unchanged"


def identify(bundle: Bundle) -> dict[str, Any]:
    """What tells an artifact from another without saying where it lies."""
    manifest = bundle.manifest
    return {
        "target": manifest.target,
        "variant": manifest.variant,
        "size_bytes": bundle.size_bytes,
        "sha256": {name: manifest.files.get(name) for name in manifest.model_files},
    }


@dataclass(frozen=True)
class Arm:
    """One side of a pair: what its fresh processes load."""

    bundle: Bundle
    feeds: Path
    profile: Profile
    transport: Transport

    def fresh(self) -> Runner:
        """A started process that has imported its runtime and not yet loaded the bundle."""
        runner = self.transport.start(str(self.bundle.path))
        try:
            prepare(runner, self.bundle, self.feeds, self.profile, self.transport)
        except BaseException:
            runner.end()
            raise
        return runner


def _machine(arm: Arm) -> dict[str, Any]:
    """The fingerprint of the machine that the processes ran on, as one of them tells it."""
    if not arm.transport.remote:
        return environment.describe()
    with arm.transport.start(str(arm.bundle.path)) as runner:
        reply = prepare(runner, arm.bundle, arm.feeds, arm.profile, arm.transport)
    machine: dict[str, Any] = reply["environment"]
    return machine


def measure_pair(arms: Mapping[str, Arm], index: int, plan: Plan, pace: list[int]) -> Pair:
    """One fresh process per arm, taking turns; who goes first is drawn by lot.

    ``pace`` holds the rows of one slice, set by the first pair and kept for the whole gate.
    """
    lot = random.Random(plan.seed * 1_000_003 + index)
    order = lot.sample(sorted(arms), len(arms))
    runners: dict[str, Runner] = {}
    found: dict[str, dict[str, Any]] = {name: {} for name in arms}
    try:
        for name in order:
            runners[name] = arms[name].fresh()
            found[name]["load"] = _native(runners[name], arms[name])["load_ms"]
            found[name]["first"] = runners[name].ask("first")["first_ms"]
            warm = runners[name].ask("warm", seconds=WARM_SECONDS, count=WARM_COUNT)
            found[name]["pace"] = warm["warm_ms"] / warm["warm"]
        if not pace:
            slower = max(values["pace"] for values in found.values())
            pace.append(max(1, min(64, round(plan.slice_ms / slower))))
        slices: dict[str, list[float]] = {name: [] for name in arms}
        controls: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(plan.slices):
            for name in order if turn % 2 == 0 else order[::-1]:
                reply = runners[name].ask("step", count=pace[0], control=2)
                slices[name].append(float(np.median(reply["samples_ms"])))
                controls[name].append(float(np.min(reply["control_ms"])))
    finally:
        for runner in runners.values():
            runner.end()
    if "memory" in plan.metrics:
        for name in order:
            with arms[name].fresh() as runner:
                reply = runner.ask("memory", passes=1)
                if reply["peak_memory_bytes"] is None:
                    raise InputError(f"memory cannot be gated here: {reply['why']}")
                found[name]["memory"] = reply["peak_memory_bytes"]
    ratios = {
        metric: math.log(found["candidate"][metric] / found["baseline"][metric])
        for metric in plan.metrics
        if metric != "p50"
    }
    if "p50" in plan.metrics:
        ratios["p50"] = _paired(slices)
    for name in arms:
        found[name] |= {"p50": float(np.median(slices[name])), "slices_ms": slices[name]}
    kernel = float(np.median([value for each in controls.values() for value in each]))
    return Pair(ratios, _paired(controls), {"first": order[0], **found}, kernel)


def _paired(slices: Mapping[str, Sequence[float]]) -> float:
    """Median over turns of log(candidate / baseline): neighbours in time share the machine."""
    ratio = np.log(np.asarray(slices["candidate"]) / np.asarray(slices["baseline"]))
    return float(np.median(ratio))


def _native(runner: Runner, arm: Arm) -> dict[str, Any]:
    reply = runner.ask("open")
    if reply["kind"] != "native":
        raise InputError(
            f"{arm.bundle.path} has no {arm.profile.target} runtime on this machine: an"
            " interpreter's speed cannot be gated; gate it on a machine that has the runtime"
        )
    return reply


def _figures(bundle: Bundle) -> dict[str, float]:
    """Exact figures of which less is better."""
    inspected = exporters.get(bundle.manifest.target).inspect(bundle)
    operators = inspected.get("ops") or {}
    figures = {
        "size_bytes": bundle.size_bytes,
        "parameters": bundle.manifest.provenance.get("parameters"),
        "ops": sum(operators.values()) if operators else None,
        **{name: inspected.get(name) for name in _COUNTED},
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _result(
    exact: tuple[Exact, ...],
    outcome: Outcome,
    plan: Plan,
    machine: Mapping[str, Any],
    artifacts: Mapping[str, Mapping[str, Any]],
) -> GateResult:
    """An exact regression decides at once; otherwise the noisy verdict stands."""
    verdict: Verdict = outcome.verdict
    if any(figure.verdict == "regressed" for figure in exact):
        verdict = "regressed"
    elif verdict == "unchanged" and any(figure.verdict == "improved" for figure in exact):
        verdict = "improved"
    return GateResult(verdict, exact, outcome, plan, machine, artifacts)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
