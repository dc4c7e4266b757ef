"""Teacher and student under every profile: one table in which each number carries its evidence.

    python benchmarks/banking77_profiles.py TEACHER STUDENT --data test.csv [--work DIR]

Bundles are made once in --work; a profile that was measured is kept in benchmarks/results and not
measured again, so a killed run goes on where it was (--again starts over). The second table is the
server's: throughput, tail and the cost of a million inferences at 1, 2, 4 and 8 clients.

    python benchmarks/banking77_profiles.py --render

writes the page from the kept JSON alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import machine_line

from edgekd import models, profiles, tasks
from edgekd.bench.measure import compare
from edgekd.bench.render import QUEUED
from edgekd.bundle import Bundle
from edgekd.data import read_rows
from edgekd.exporter import Plan, Spec, get
from edgekd.preprocess import Row
from edgekd.program import Shapes
from edgekd.report.document import Bench
from edgekd.wrap import wrap

SCHEMA = "edgekd.benchmark.banking77-profiles/1"
OUT = Path(__file__).parent / "results"
# What each model ships as; the teacher is what one has before anything was compressed.
PRECISIONS = {
    "onnx": {"teacher": "fp32", "student": "int8"},
    "browser": {"teacher": "fp32", "student": "int8"},
    "coreml": {"teacher": "fp16", "student": "int8"},
}
LENGTH = 64  # of the Core ML bundles, whose shapes are fixed


def bundles(sources: Mapping[str, str], target: str, rows: Sequence[Row], work: Path) -> Any:
    """The bundle of each model for ``target``, made where it is not there yet."""
    exporter, task = get(target), tasks.get("text-classification")
    lengths = (LENGTH,) if target == "coreml" else ()
    made = {}
    for name, source in sources.items():
        precision = PRECISIONS[target][name]
        folder = work / f"{target}-{precision}-{name}"
        if not (folder / "bundle.json").is_file():
            loaded = models.load(source, task, max_length=LENGTH if lengths else None)
            program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, list(rows[:16]))
            spec = Spec(Shapes(lengths=lengths), compute=exporter.default_compute)
            first = exporter.precisions(spec)[0]
            base = folder if precision == first else work / f"{target}-{first}-{name}"
            floating = exporter.lower(program, spec, base)
            if precision != first:
                exporter.compress(floating, Plan(precision), rows[:128], folder)
        made[name] = Bundle.open(folder)
    return made


def measured(made: Mapping[str, Bundle], profile: profiles.Profile, rows: Sequence[Row]) -> Any:
    """The report's bench row of each model under ``profile``; the raw samples are left out."""
    found = compare({name: bundle.path for name, bundle in made.items()}, profile, rows)
    result = {}
    for name, measurement in found.measurements.items():
        row = measurement.to_dict(raw=False)
        Bench.model_validate(row)  # refuses a projection without its range or its method
        result[name] = {**row, "precision": made[name].manifest.precision}
    return result


def profile_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| profile | model | size | MACs at served length | p50 | p90 | p99 | load | first |"
        " peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for profile, by_model in rows.items():
        for name, row in by_model.items():
            latency = row.get("latency_ms") or {}
            evidence = row["evidence"]
            numbers = [
                _p50(row),
                *(_ms(latency.get(p), evidence) for p in ("p90", "p99")),
                *(_ms(row.get(key), evidence) for key in ("load_ms", "first_ms")),
                _mb(row.get("peak_memory_bytes"), evidence),
            ]
            exact = row["details"]["exact"]
            lines.append(
                f"| {profile} | {name}, {row['precision']} | {_mb(exact['size_bytes'], 'exact')} |"
                f" {_macs(exact)} | {' | '.join(numbers)} |"
            )
            why = row.get("missing") or row.get("method")
            if why:
                notes.append(f"- {profile}, {name}: {why}")
    return [*lines, "", *notes]


def server_table(row: Mapping[str, Any]) -> list[str]:
    lines = [
        "| clients | cores | model | per second | p50 | p99 | samples | a million inferences |",
        "|---|---|---|---|---|---|---|---|",
    ]
    loads = {name: row[name]["details"]["concurrency"] for name in row}
    for at_once in zip(*loads.values(), strict=True):
        for name, load in zip(loads, at_once, strict=True):
            cost, star = load["cost_per_million"], r"\*" if load["queued"] else ""
            lines.append(
                f"| {load['clients']}{star} | {load['cores']} | {name} |"
                f" {load['throughput_per_s']:,.0f} (measured) |"
                f" {_ms(load['p50'], 'measured')} | {_ms(load['p99'], 'measured')} |"
                f" {load['samples']:,} | {cost['cost']:.3g} {cost['currency']} (computed) |"
            )
    cost = next(iter(loads.values()))[0]["cost_per_million"]
    return [
        *lines,
        "",
        rf"\{QUEUED}.",
        "",
        f"The cost assumes that {cost['assumes']} ({cost['source']}). It charges all of this"
        f" machine's usable cores ({cost['cores']}) at any number of clients, at one client too,"
        " whose single thread leaves the others idle.",
    ]


def page(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown of ``banking77_profiles.json``."""
    rows = [row for by_model in kept.values() for row in by_model.values()]
    lines = ["# banking77: teacher and student under every profile", ""]
    lines += [machine_line([row["details"].get("environment") for row in rows]), ""]
    lines += profile_table(kept)
    if "edge-server" in kept:
        lines += ["", "## edge-server", "", *server_table(kept["edge-server"])]
    return "\n".join(lines) + "\n"


def _macs(exact: Mapping[str, Any]) -> str:
    if exact.get("macs") is None:
        return "-"
    tokens = f" of {exact['length']} tokens" if exact.get("length") else ", shape as exported"
    return f"{exact['macs'] / 1e6:,.1f} M{tokens} (exact)"


def _p50(row: Mapping[str, Any]) -> str:
    latency = row.get("latency_ms")
    if not latency:
        host = (row["details"].get("host") or {}).get("latency_ms")
        return f"uncalibrated; here {host['p50']:.3g} ms (measured)" if host else "uncalibrated"
    if row["evidence"] == "projected":
        return f"{latency['low']:.3g} to {latency['high']:.3g} ms (projected)"
    low, high = latency["p50_ci"]
    return f"{latency['p50']:.3g} ms [{low:.3g}, {high:.3g}] ({row['evidence']})"


def _ms(value: float | None, evidence: str) -> str:
    return "-" if value is None else f"{value:.3g} ms ({evidence})"


def _mb(value: float | None, evidence: str) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} MB ({evidence})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", nargs="?")
    parser.add_argument("student", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--render", action="store_true", help="the page again; measures nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/banking77-profiles"))
    parser.add_argument("--profile", action="append", help="only this one; repeatable")
    parser.add_argument("--again", action="store_true", help="measure what is kept already, too")
    given = parser.parse_args()
    file = OUT / "banking77_profiles.json"
    if given.render:
        kept = json.loads(file.read_text(encoding="utf-8"))["profiles"]
        file.with_suffix(".md").write_text(page(kept), encoding="utf-8")
        return
    if not (given.teacher and given.student and given.data):
        parser.error("measuring needs a teacher, a student and --data")
    rows = read_rows(given.data, tasks.get("text-classification"), labelled=False)
    sources = {"teacher": given.teacher, "student": given.student}
    kept: dict[str, Any] = {}
    if file.is_file() and not given.again:
        kept = json.loads(file.read_text(encoding="utf-8"))["profiles"]
    shipped = list(profiles.available())
    for name in given.profile or shipped:
        if name in kept and not given.profile:
            continue
        print(f"{name} …", flush=True)
        profile = profiles.load(name)
        made = bundles(sources, profile.target, rows, given.work)
        kept[name] = measured(made, profile, rows)
        ordered = {each: kept[each] for each in shipped if each in kept}
        text = json.dumps({"schema": SCHEMA, "profiles": ordered}, indent=2)
        file.with_suffix(".partial").write_text(f"{text}\n", encoding="utf-8")
        file.with_suffix(".partial").replace(file)
        file.with_suffix(".md").write_text(page(ordered), encoding="utf-8")
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
