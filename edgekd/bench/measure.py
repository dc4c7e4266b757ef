"""Measure bundles: fresh processes, real rows, raw samples kept.

One round is one process per bundle, in random order: load, first inference, warm-up by time and
count, then whole passes over the rows. Peak memory is taken in a process of its own.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd import exporter as exporters
from edgekd.bench import environment, statistics
from edgekd.bench.runner import Runner
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.profiles import Profile

ROWS = 64  # rows of one pass; a spread over the lengths that are served
WARM_SECONDS, WARM_COUNT = 0.5, 20
_IN_ROW = ("p90", "p95", "p99", "samples")  # of the summary; the rest are details
Evidence = Literal["measured", "reference", "published", "projected"]
Start = Callable[[str], Runner]  # a name for messages -> a worker that runs where it should


@dataclass(frozen=True)
class Round:
    """What one fresh process gave; times in ms, energy in joules per inference."""

    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...]
    joules: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One bundle under one profile: summary, raw samples and where they come from.

    ``evidence`` is ``measured`` only for the target's own runtime on the profile's own hardware;
    ``why`` says what it is otherwise. ``rounds`` is empty where nothing could be timed.
    """

    profile: str
    evidence: Evidence
    why: str | None
    rounds: tuple[Round, ...]
    rows: int
    peak_memory_bytes: int | None
    memory_why: str | None
    memory_cap_bytes: int | None
    exact: Mapping[str, Any]
    session: Mapping[str, Any]
    environment: Mapping[str, Any]
    protocol: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)  # concurrency, projection

    @property
    def samples(self) -> np.ndarray:
        """Every timed inference, in ms, in order."""
        return np.concatenate([np.asarray(r.samples_ms) for r in self.rounds])

    @property
    def p50(self) -> statistics.Interval | None:
        """Median of the per-process medians, in ms, with its interval."""
        if not self.rounds:
            return None
        return statistics.rounds_interval(
            [np.asarray(r.samples_ms) for r in self.rounds], self.rows
        )

    @property
    def over_memory_cap(self) -> bool | None:
        """Whether the peak is above the profile's cap; None where either is unknown."""
        if self.peak_memory_bytes is None or self.memory_cap_bytes is None:
            return None
        return self.peak_memory_bytes > self.memory_cap_bytes

    def to_dict(self, raw: bool = True) -> dict[str, Any]:
        """The bench row of ``report.json``; ``raw`` keeps every sample in its ``details``.

        A number that was not taken on the profile's own hardware never stands in the row itself:
        what this machine did in its place is ``details["host"]``.
        """
        numbers = self._numbers()
        measured = self.evidence == "measured"
        details: dict[str, Any] = {
            "exact": dict(self.exact),
            "session": dict(self.session),
            "environment": dict(self.environment),
            "protocol": dict(self.protocol),
            "memory_cap_bytes": self.memory_cap_bytes,
            "over_memory_cap": self.over_memory_cap,
            "peak_memory_missing": self.memory_why,
            **self.extra,
        }
        if self.rounds:
            summary = statistics.latency_summary(self.samples)
            details["percentiles"] = {k: v for k, v in summary.items() if k not in _IN_ROW}
            joules = [r.joules for r in self.rounds if r.joules is not None]
            details["joules_per_inference"] = float(np.median(joules)) if joules else None
            if not measured:
                details["host"] = numbers
        if raw:
            details["rounds"] = [asdict(r) for r in self.rounds]
        row = {
            "profile": self.profile,
            "evidence": self.evidence,
            "runtime": f"{self.session.get('runtime')} {self.session.get('version')}",
            "threads": self.session.get("threads"),
            "inputs": f"{self.rows} rows as served, batch 1",
            "missing": self.why,
            "details": details,
        }
        return row | numbers if measured else row

    def _numbers(self) -> dict[str, Any]:
        """What was timed and weighed on this machine."""
        interval = self.p50
        if interval is None:
            return {"peak_memory_bytes": self.peak_memory_bytes}
        summary = statistics.latency_summary(self.samples)
        return {
            "latency_ms": {
                "p50": interval.value,
                "p50_ci": [interval.low, interval.high],
                **{name: summary[name] for name in _IN_ROW},
            },
            "load_ms": float(np.median([r.load_ms for r in self.rounds])),
            "first_ms": float(np.median([r.first_ms for r in self.rounds])),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True)
class Comparison:
    """Several bundles measured together, round by round."""

    measurements: Mapping[str, Measurement]

    def __getitem__(self, name: str) -> Measurement:
        return self.measurements[name]

    def ratio(self, above: str, below: str) -> statistics.Interval | None:
        """p50 of ``above`` over p50 of ``below``; None where either was not timed."""
        pair = [self.measurements[above], self.measurements[below]]
        if not all(m.rounds for m in pair):
            return None
        samples = [[np.asarray(r.samples_ms) for r in m.rounds] for m in pair]
        return statistics.ratio_interval(samples[0], samples[1], (pair[0].rows, pair[1].rows))


def measure(
    bundle: Path,
    profile: Profile,
    rows: Sequence[Row],
    *,
    rounds: int = 3,
    seconds: float = 0.5,
    memory: bool = True,
    seed: int = 0,
    start: Start = Runner,
) -> Measurement:
    """Measure one bundle; see :func:`compare`."""
    return compare(
        {"bundle": bundle},
        profile,
        rows,
        rounds=rounds,
        seconds=seconds,
        memory=memory,
        seed=seed,
        start=start,
    )["bundle"]


def compare(
    bundles: Mapping[str, Path],
    profile: Profile,
    rows: Sequence[Row],
    *,
    rounds: int = 3,
    seconds: float = 0.5,
    memory: bool = True,
    seed: int = 0,
    start: Start = Runner,
) -> Comparison:
    """Measure bundles side by side under ``profile``, over at most 64 of the real ``rows``.

    ``seconds`` is the least that one block lasts. Raises :class:`InputError` for a bundle of
    another target than the profile's or for no rows, and :class:`InconclusiveError` where a
    runner dies or hangs.
    """
    opened = {name: Bundle.open(path) for name, path in bundles.items()}
    for bundle in opened.values():
        check_target(bundle, profile)
    if rounds < 1 or seconds <= 0:
        raise InputError("a measurement needs at least one round and a block of some duration")
    picked = spread(rows, next(iter(opened.values())))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in opened}
    peaks: dict[str, dict[str, Any]] = {}
    before = environment.cpu_ticks()
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as folder:
        feeds = {name: Path(folder) / f"{i}.npz" for i, name in enumerate(opened)}
        for name, bundle in opened.items():
            write_feeds(feeds[name], [bundle.encode([row]) for row in picked])
        order = random.Random(seed)
        for _ in range(rounds):
            for name in order.sample(list(opened), len(opened)):
                with start(str(opened[name].path)) as runner:
                    prepared = prepare(runner, opened[name], feeds[name], profile)
                    found[name].append({**prepared, **_round(runner, seconds)})
        for name, bundle in opened.items():
            if memory and found[name][0]["kind"] == "native":
                with start(str(bundle.path)) as runner:
                    prepare(runner, bundle, feeds[name], profile)
                    peaks[name] = runner.ask("memory", passes=2)
    steal = environment.steal_percent(before, environment.cpu_ticks())
    protocol = {
        "rounds": rounds,
        "seconds": seconds,
        "warm_up": {"seconds": WARM_SECONDS, "count": WARM_COUNT},
        "rows": len(picked),
        "batch": 1,
        "interleaved_with": sorted(opened),
        "seed": seed,
        "interval": "two-stage bootstrap over processes and passes, 95 %",
    }
    return Comparison(
        {
            name: _measurement(
                opened[name], profile, found[name], peaks.get(name, {}), steal, protocol
            )
            for name in opened
        }
    )


def check_target(bundle: Bundle, profile: Profile) -> None:
    """Raise :class:`InputError` where the profile's runtime cannot load the bundle."""
    if bundle.manifest.target != profile.target:
        raise InputError(
            f"the profile '{profile.name}' runs {profile.target} bundles, and {bundle.path} is one"
            f" for {bundle.manifest.target}; choose another profile or export for {profile.target}"
        )


def prepare(runner: Runner, bundle: Bundle, feeds: Path, profile: Profile) -> dict[str, Any]:
    """Have ``runner`` import what ``bundle`` needs, under the profile's runtime settings."""
    runtime = profile.runtime
    return runner.ask(
        "prepare",
        bundle=str(bundle.path.resolve()),
        feeds=str(feeds),
        runtime={
            "threads": runtime.threads,
            "spinning": runtime.spinning,
            "options": dict(runtime.options),
        },
        affinity=list(runtime.affinity) if runtime.affinity else None,
    )


def spread(rows: Sequence[Row], bundle: Bundle) -> list[Row]:
    """At most 64 rows whose lengths are spread as the lengths of all rows are.

    Sorted by encoded length, taken at even steps, and put in an order of which every beginning is
    itself spread out (bit reversal), so that even a pass cut short saw a fair mixture.
    """
    if not rows:
        raise InputError(
            "there are no rows to measure with; give --data or a bundle with golden rows"
        )
    lengths = getattr(bundle.preprocessor, "lengths", None)
    order = np.argsort(lengths(rows), kind="stable") if lengths else np.arange(len(rows))
    count = min(ROWS, len(rows))
    steps = (np.arange(count) * len(rows) + len(rows) // 2) // count
    bits = max(1, (count - 1).bit_length())
    reverse = sorted(range(count), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [rows[order[steps[i]]] for i in reverse]


def _round(runner: Runner, seconds: float) -> dict[str, Any]:
    reply = runner.ask("open")
    if reply["kind"] != "native":
        return reply  # an interpreter's speed says nothing about the target
    reply |= runner.ask("first")
    runner.ask("warm", seconds=WARM_SECONDS, count=WARM_COUNT, expected_seconds=WARM_SECONDS)
    limit = max(5.0, 20 * seconds)  # one pass of a slow model takes longer than a block
    return reply | runner.ask("block", seconds=seconds, limit=limit, expected_seconds=limit)


def _measurement(
    bundle: Bundle,
    profile: Profile,
    found: Sequence[Mapping[str, Any]],
    peak: Mapping[str, Any],
    steal: float | None,
    protocol: Mapping[str, Any],
) -> Measurement:
    native = found[0]["kind"] == "native"
    rounds = [
        Round(r["load_ms"], r["first_ms"], tuple(r["samples_ms"]), r["joules"])
        for r in found
        if native
    ]
    evidence: Evidence = "measured"
    why = None
    if not native:
        evidence = "reference"
        why = f"no {profile.target} runtime on this machine; the reference interpreter is not timed"
    elif profile.where == "elsewhere":
        evidence = "reference"
        why = f"uncalibrated: {profile.title} is elsewhere; details.host is this machine's own"
    exact = {"size_bytes": bundle.size_bytes, **exporters.get(profile.target).inspect(bundle)}
    return Measurement(
        profile=profile.name,
        evidence=evidence,
        why=why,
        rounds=tuple(rounds),
        rows=protocol["rows"],
        peak_memory_bytes=peak.get("peak_memory_bytes"),
        memory_why=peak.get("why") or (None if peak else "not measured"),
        memory_cap_bytes=profile.memory_cap_bytes,
        exact=exact,
        session=found[0]["session"],
        environment={**found[0]["environment"], "steal_percent": steal},
        protocol=protocol,
    )
