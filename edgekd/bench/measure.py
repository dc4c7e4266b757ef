"""Measure bundles: fresh processes, real rows, raw samples kept.

One round is one process per bundle, in random order: load, first inference, warm-up by time and
count, then whole passes over the rows. Peak memory is taken in a process of its own.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import exporter as exporters
from edgekd.bench import projection, statistics
from edgekd.bench.concurrency import cost_per_million
from edgekd.bench.measurement import Comparison, Evidence, Measurement, Round
from edgekd.bench.projection import Projection
from edgekd.bench.runner import Runner
from edgekd.bench.settings import Setting, device, setting
from edgekd.bench.transport import Local, Transport
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency
from edgekd.preprocess import Row
from edgekd.profiles import Profile

__all__ = ["Comparison", "Measurement", "compare", "measure"]

ROWS = 64  # of one pass: a spread over the lengths that are served
WARM_SECONDS, WARM_COUNT = 0.5, 20
HERE = Local()


def measure(bundle: Path, profile: Profile, rows: Sequence[Row], **options: Any) -> Measurement:
    """Measure one bundle; the options are those of :func:`compare`."""
    return compare({"bundle": bundle}, profile, rows, **options)["bundle"]


def compare(
    bundles: Mapping[str, Path],
    profile: Profile,
    rows: Sequence[Row],
    *,
    rounds: int = 3,
    seconds: float = 0.5,
    memory: bool = True,
    settings: bool = True,
    seed: int = 0,
    transport: Transport = HERE,
    calibrations: Path | None = None,
) -> Comparison:
    """Measure bundles side by side under ``profile``, over at most 64 of the real ``rows``.

    ``seconds`` is the least that one block lasts; a remote ``transport`` leads to the profile's
    own hardware; ``calibrations`` is the folder that projections read; ``settings`` adds the table
    of the runtimes in ``profile.also``. Raises
    :class:`InputError` for a bundle of another target than the profile's or for no rows, and
    :class:`InconclusiveError` where a runner dies or hangs.
    """
    opened = {name: Bundle.open(path) for name, path in bundles.items()}
    for bundle in opened.values():
        check_target(bundle, profile)
    names = sorted({bundle.manifest.task for bundle in opened.values()})
    if len(names) > 1:
        raise InputError(
            f"bundles are measured side by side on the same rows, and these are for {names[0]} and"
            f" {names[1]}; measure them in two commands"
        )
    if rounds < 1 or seconds <= 0:
        raise InputError("a measurement needs at least one round and a block of some duration")
    picked = spread(rows, next(iter(opened.values())))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in opened}
    peaks: dict[str, dict[str, Any]] = {name: {} for name in opened}
    loads: dict[str, list[dict[str, Any]]] = {name: [] for name in opened}
    tables: dict[str, list[Setting]] = {name: [] for name in opened}
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as folder:
        feeds = {name: Path(folder) / f"{i}.npz" for i, name in enumerate(opened)}
        lengths: dict[str, int | None] = {}
        for name, bundle in opened.items():
            encoded = [bundle.encode([row]) for row in picked]
            write_feeds(feeds[name], encoded)
            lengths[name] = served_length(bundle, encoded)
        order = random.Random(seed)
        for _ in range(rounds):
            for name in order.sample(list(opened), len(opened)):
                with transport.start(str(opened[name].path)) as runner:
                    reply = prepare(runner, opened[name], feeds[name], profile, transport)
                    found[name].append({**reply, **_round(runner, seconds)})
        for name, bundle in opened.items():
            if found[name][0]["kind"] != "native":
                continue
            if memory:
                with transport.start(str(bundle.path)) as runner:
                    prepare(runner, bundle, feeds[name], profile, transport)
                    peaks[name] = runner.ask("memory", passes=2)
        for clients in profile.clients:  # side by side, so that a busy minute falls on all
            for name, bundle in opened.items():
                if found[name][0]["kind"] != "native":
                    continue
                with transport.start(str(bundle.path)) as runner:
                    cores = prepare(runner, bundle, feeds[name], profile, transport)
                    loads[name].append(_load(runner, clients, profile, cores["environment"]))
        for name, bundle in opened.items():
            if not settings or not profile.also or found[name][0]["kind"] != "native":
                continue
            peak = peaks[name].get("peak_memory_bytes")
            said, ran = found[name][0]["session"], _dtype(bundle, profile)
            tables[name].append(setting(said, found[name], len(picked), peak, ran))
            for runtime in profile.also:
                other = profile.model_copy(update={"runtime": runtime})
                with transport.start(str(bundle.path)) as runner:
                    prepare(runner, bundle, feeds[name], other, transport)
                    tables[name].append(_setting(runner, bundle, other, seconds, len(picked)))
    protocol = {
        "rounds": rounds,
        "seconds": seconds,
        "warm_up": {"seconds": min(WARM_SECONDS, seconds), "count": WARM_COUNT},
        "rows": len(picked),
        "batch": 1,
        "interleaved_with": sorted(opened),
        "seed": seed,
        "interval": "two-stage bootstrap over processes and passes, 95 %",
    }
    return Comparison(
        {
            name: _measurement(
                opened[name],
                profile,
                lengths[name],
                found[name],
                peaks[name],
                loads[name],
                tables[name],
                protocol,
                transport.remote,
                calibrations,
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


def prepare(
    runner: Runner, bundle: Bundle, feeds: Path, profile: Profile, transport: Transport
) -> dict[str, Any]:
    """Have ``runner`` import what ``bundle`` needs, under the profile's runtime settings."""
    runtime = profile.runtime
    return runner.ask(
        "prepare",
        bundle=transport.place(bundle.path),
        feeds=transport.place(feeds),
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
        raise InputError("there are no rows to measure with; give some with --data")
    lengths = getattr(bundle.preprocessor, "lengths", None)
    order = np.argsort(lengths(rows), kind="stable") if lengths else np.arange(len(rows))
    count = min(ROWS, len(rows))
    steps = (np.arange(count) * len(rows) + len(rows) // 2) // count
    bits = max(1, (count - 1).bit_length())
    reverse = sorted(range(count), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [rows[order[steps[i]]] for i in reverse]


def served_length(bundle: Bundle, feeds: Sequence[Mapping[str, np.ndarray]]) -> int | None:
    """Median number of tokens of the encoded rows, as p50 is of their times; None without any."""
    for spec in bundle.manifest.inputs:
        if "sequence" in spec.shape:
            axis = spec.shape.index("sequence")
            lengths = sorted(feed[spec.name].shape[axis] for feed in feeds)
            return int(lengths[len(lengths) // 2])
    return None


def _round(runner: Runner, seconds: float) -> dict[str, Any]:
    reply = runner.ask("open")
    if reply["kind"] != "native":
        return reply  # an interpreter's speed says nothing about the target
    reply |= runner.ask("first")
    warm = min(WARM_SECONDS, seconds)
    runner.ask("warm", seconds=warm, count=WARM_COUNT, expected_seconds=warm)
    limit = max(5.0, 20 * seconds)  # one pass of a slow model takes longer than a block
    return reply | runner.ask("block", seconds=seconds, limit=limit, expected_seconds=limit)


def _setting(
    runner: Runner, bundle: Bundle, profile: Profile, seconds: float, rows: int
) -> Setting:
    """One row of the table; what the machine (a GPU) or the bundle (a dtype) lacks is its reason
    and not the end."""
    options, threads = profile.runtime.options, profile.runtime.threads
    try:
        dtype = _dtype(bundle, profile)
    except InputError:
        asked = options.get("dtype")
        return Setting(threads, device(options), asked, missing=f"this bundle has no {asked}")
    try:
        reply = _round(runner, seconds)
    except MissingDependency as error:
        own = opened(bundle, profile).manifest.runtime  # a folder may be made for a device
        return Setting(threads, device({**own, **options}), dtype, missing=str(error))
    after = runner.ask("held")
    return setting(after["session"], [reply], rows, after["peak_memory_bytes"], dtype)


def _dtype(bundle: Bundle, profile: Profile) -> str:
    """Which model of ``bundle`` runs under ``profile``, as the runtime names it."""
    precision = opened(bundle, profile).manifest.precision
    return exporters.get(profile.target).slot(precision) or precision


def _load(
    runner: Runner, clients: int, profile: Profile, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Throughput and tail with ``clients`` asking at once; as many samples as p99 needs.

    ``queued`` where they want more cores than there are: their tail is then mostly the wait for
    one, the scheduler's and not the model's.
    """
    runner.ask("open")
    runner.ask("warm", seconds=WARM_SECONDS, count=WARM_COUNT, expected_seconds=WARM_SECONDS)
    needed = statistics.samples_needed(0.99)
    reply = runner.ask("load", clients=clients, samples=needed, seconds=1.0)
    samples = np.asarray(reply["samples_ms"])
    throughput = len(samples) / reply["wall_s"]
    cores = environment["usable_cores"]
    result = {
        "clients": clients,
        "cores": cores,
        "queued": bool(cores and clients * profile.runtime.threads > cores),
        "throughput_per_s": throughput,
        "p50": float(np.median(samples)),
        **statistics.latency_summary(samples),
        "samples_ms": reply["samples_ms"],
        "wall_s": reply["wall_s"],
    }
    if profile.price:
        result["cost_per_million"] = cost_per_million(throughput, profile.price, cores)
    return result


def opened(bundle: Bundle, profile: Profile) -> Bundle:
    """The bundle as ``profile`` runs it: exact figures are of the model that is timed."""
    return exporters.get(profile.target).opened(bundle, profile.runtime.for_session())


def _measurement(
    bundle: Bundle,
    profile: Profile,
    length: int | None,
    found: Sequence[Mapping[str, Any]],
    peak: Mapping[str, Any],
    loads: Sequence[Mapping[str, Any]],
    settings: Sequence[Setting],
    protocol: Mapping[str, Any],
    remote: bool,
    calibrations: Path | None,
) -> Measurement:
    exporter, bundle = exporters.get(profile.target), opened(bundle, profile)
    native = found[0]["kind"] == "native"
    kept = ("load_ms", "first_ms", "samples_ms", "joules", "steal_percent")
    rounds = [Round(**{name: reply[name] for name in kept}) for reply in found if native]
    exact = {
        "size_bytes": bundle.size_bytes,
        "parameters": bundle.manifest.provenance.get("parameters"),
        **exporter.inspect(bundle, length),
    }
    evidence: Evidence = "measured"
    why, projected = None, None
    if not native:
        evidence = "reference"
        nearest = projection.nearest_published(exact, profile.target)
        why = f"uncalibrated: no {profile.target} runtime here, and an interpreter is not timed"
        why += f"; {nearest}" if nearest else ""
    elif profile.where == "elsewhere" and not remote:
        fastest = min(float(np.median(r.samples_ms)) for r in rounds)
        precision, machine = bundle.manifest.precision, found[0]["environment"]
        answer = projection.project(fastest, exact, precision, profile, machine, calibrations)
        if isinstance(answer, Projection):
            evidence, projected = "projected", answer
        else:
            p50 = float(np.median([np.median(r.samples_ms) for r in rounds]))
            nearest = projection.nearest_published(exact, profile.target)
            parts = [f"uncalibrated: {answer}", f"on this machine {p50:.3g} ms (measured)", nearest]
            evidence, why = "reference", "; ".join(part for part in parts if part)
    return Measurement(
        profile=profile.name,
        evidence=evidence,
        why=why,
        rounds=tuple(rounds),
        rows=protocol["rows"],
        peak_memory_bytes=peak.get("peak_memory_bytes"),
        memory_why=peak.get("why") or (None if peak else "not measured"),
        memory_kind=peak.get("kind"),
        memory_cap_bytes=profile.memory_cap_bytes,
        exact=exact,
        session=found[0]["session"],
        environment=found[0]["environment"],
        protocol=protocol,
        projection=projected,
        concurrency=tuple(loads),
        settings=tuple(settings),
    )
