"""Tables for people, Markdown for a job summary, JSON for chart actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.bench import environment

if TYPE_CHECKING:
    from rich.console import Console

    from edgekd.bench.budget import Line
    from edgekd.bench.gate import GateResult
    from edgekd.bench.measurement import Measurement
    from edgekd.bench.sequential import Finding
    from edgekd.profiles import Profile

QUEUED = (
    "*: more clients than cores, so that p50 and p99 there are mostly the wait for a core (the"
    " scheduler), not the model"
)
RATIO_ALONE = " (error of the ratio alone)"
MARKS = {
    "regressed": "❌",
    "improved": "🚀",
    "unchanged": "✅",
    "inconclusive": "❔",
    "missing": "❔",
}


def bench(
    console: Console,
    found: Mapping[str, Sequence[tuple[Profile, Measurement]]],
    lines: Sequence[Line],
    skipped: Sequence[str],
) -> None:
    """One row per bundle and profile; every latency with its evidence, a projection as a range."""
    from rich.table import Table

    table = Table("bundle", "profile", "p50", "p90", "p99", "load", "first", "memory", "evidence")
    notes = list(skipped)
    for name, pairs in found.items():
        for profile, measurement in pairs:
            row = measurement.to_dict(raw=False)
            latency = row.get("latency_ms") or {}
            table.add_row(
                name,
                profile.name,
                _p50(latency, measurement),
                _ms(latency.get("p90")),
                _ms(latency.get("p99")),
                _ms(row.get("load_ms")),
                _ms(row.get("first_ms")),
                _mb(row.get("peak_memory_bytes")),
                row["evidence"] if latency else "uncalibrated",
            )
            why = row.get("missing") or row.get("method")
            if why:
                notes.append(f"{name}, {profile.name}: {why}")
            notes.append(f"{name}, {profile.name}: {_exact(measurement.exact)}")
            if measurement.memory_kind not in (None, environment.SINCE_IMPORTS):
                notes.append(f"{name}, {profile.name}: memory is {measurement.memory_kind}")
            kernels = measurement.session.get("int8_kernels")
            if kernels and measurement.exact.get("int8_weight_bytes"):
                notes.append(
                    f"{name}, {profile.name}: int8 by {kernels} kernels; another processor's have"
                    " other speeds"
                )
            joules = row["details"].get("joules_per_inference")
            if joules is not None and row["evidence"] == "measured":
                notes.append(
                    f"{name}, {profile.name}: {joules * 1e3:.3g} mJ per inference (measured; the"
                    " whole processor's counter)"
                )
    console.print(table)
    for profile_name in dict.fromkeys(p.name for pairs in found.values() for p, _ in pairs):
        loads = {
            name: measurement.concurrency
            for name, pairs in found.items()
            for profile, measurement in pairs
            if profile.name == profile_name and measurement.concurrency
        }
        if loads:
            console.print(_concurrency(profile_name, loads))
            if any(load["queued"] for each in loads.values() for load in each):
                notes.append(f"{profile_name}: {QUEUED}")
    for name, pairs in found.items():
        for profile, measurement in pairs:
            if measurement.settings:
                console.print(_settings(f"{name}, {profile.name}", measurement))
    for note in notes:
        console.print(f"  {note}", markup=False)
    for line in lines:
        value = "unknown" if line.value is None else _unit(line.name, line.value)
        if line.range:
            low, high = (_unit(line.name, end) for end in line.range)
            value = f"projected {low} to {high}{RATIO_ALONE if line.excludes else ''}"
        limit = _unit(line.name, line.limit)
        console.print(
            f"  {line.status}: {line.bundle}, {line.profile}: {line.name} {value}"
            f" (at most {limit})",
            markup=False,
        )


def gate(console: Console, result: GateResult) -> None:
    """The verdict in lines of text."""
    console.print(f"{MARKS[result.verdict]} {result.verdict}", markup=False)
    for finding in result.outcome.findings:
        console.print(f"  {sentence(finding)}", markup=False)
    changed = [exact for exact in result.exact if exact.baseline != exact.candidate]
    for exact in changed:
        console.print(
            f"  {exact.metric}: {exact.verdict}, {_count(exact.baseline)} ->"
            f" {_count(exact.candidate)}",
            markup=False,
        )
    if not changed:
        names = ", ".join(exact.metric for exact in result.exact)
        console.print(f"  exactly equal: {names}", markup=False)
    for caution in result.outcome.cautions:
        console.print(f"  caution: {caution}", markup=False)


def sentence(finding: Finding) -> str:
    """``p50: regressed, 1.103 [1.09, 1.12] of the baseline over 8 pairs; estimated …``"""
    low, high = finding.ratio_ci
    text = (
        f"{finding.metric}: {finding.verdict}, {finding.ratio:.3f} [{low:.3f}, {high:.3f}] of the"
        f" baseline over {finding.pairs} pairs; estimated from their spread, 8 of 10 such gates"
        f" would call {finding.mde:.1%} slower regressed; {finding.independence}"
    )
    return f"{text}; {finding.why}" if finding.why else text


def gate_markdown(result: GateResult) -> str:
    """For ``$GITHUB_STEP_SUMMARY``."""
    plan = result.plan
    rows = [
        f"| {f.metric} | {MARKS[f.verdict]} {f.verdict} | {f.ratio:.3f} |"
        f" {f.ratio_ci[0]:.3f} to {f.ratio_ci[1]:.3f} | {f.mde:.1%} | {f.pairs} |"
        f" {f.independence} |"
        for f in result.outcome.findings
    ]
    exact = [
        f"| {e.metric} | {MARKS[e.verdict]} {e.verdict} | {_count(e.baseline)} |"
        f" {_count(e.candidate)} |"
        for e in result.exact
    ]
    whys = [f"- {f.metric}: {f.why}" for f in result.outcome.findings if f.why]
    whys += [f"- caution: {caution}" for caution in result.outcome.cautions]
    machine = result.environment
    return "\n".join(
        [
            f"## edgekd gate: {MARKS[result.verdict]} {result.verdict}",
            "",
            "| metric | verdict | candidate / baseline | 95 % interval | detectable at 80 % power"
            " (estimated) | pairs | independence |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "| exact figure | verdict | baseline | candidate |",
            "|---|---|---|---|",
            *exact,
            "",
            *whys,
            f"Tolerance {plan.tolerance:.1%}; control kernel {result.outcome.control_ratio:.3f}"
            f" between the sides, {_pace(result.outcome.pace_ratio)} at its largest change over time;"
            f" {machine.get('cpu')}, {machine.get('usable_cores')} cores, steal"
            f" {machine.get('steal_percent')} %.",
            "",
        ]
    )


def _count(value: float | None) -> str:
    return "not told by this bundle" if value is None else f"{value:,.0f}"


def _pace(ratio: float | None) -> str:
    return "not kept" if ratio is None else f"{ratio:.3f}"


def gate_chart(result: GateResult) -> list[dict[str, Any]]:
    """``customSmallerIsBetter``, which github-action-benchmark and Bencher draw over time."""
    entries = [
        {
            "name": f"{finding.metric} (candidate / baseline)",
            "unit": "ratio",
            "value": finding.ratio,
            "range": f"{finding.ratio_ci[0]:.4f} - {finding.ratio_ci[1]:.4f}",
            "extra": f"{finding.verdict}, {finding.pairs} pairs",
        }
        for finding in result.outcome.findings
    ]
    return entries + [
        {"name": exact.metric, "unit": "count", "value": exact.candidate}
        for exact in result.exact
        if exact.candidate is not None
    ]


def _concurrency(title: str, loads: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Bundles side by side at each number of clients."""
    from rich.table import Table

    columns = ("clients", "cores", "bundle", "per second", "p50", "p99", "samples")
    table = Table(*columns, "a million cost", title=title)
    for at_once in zip(*loads.values(), strict=True):
        for name, load in zip(loads, at_once, strict=True):
            cost = load.get("cost_per_million")
            table.add_row(
                f"{load['clients']}*" if load["queued"] else str(load["clients"]),
                str(load["cores"]),
                name,
                f"{load['throughput_per_s']:.0f}",
                _ms(load["p50"]),
                _ms(load["p99"]),
                str(load["samples"]),
                f"{cost['cost']:.3g} {cost['currency']}" if cost else "-",
            )
    return table


def _settings(title: str, measurement: Measurement) -> Any:
    from rich.table import Table

    columns = (
        "dtype",
        "device",
        "threads",
        "model",
        "engine",
        "create",
        "first",
        "p50",
        "memory",
        "",
    )
    table = Table(*columns, title=title)
    for row in measurement.settings:
        table.add_row(
            row.dtype,
            row.device,
            str(row.threads),
            _mb(row.download_bytes),
            _mb(row.engine_bytes),
            _ms(row.create_ms),
            _ms(row.first_ms),
            _ms(row.p50_ms),
            _mb(row.memory_bytes),
            "" if row.missing is None else row.missing.partition(";")[0],
        )
    return table


def _exact(exact: Mapping[str, Any]) -> str:
    """What was counted and has no noise; MACs with the length that they are of."""
    tokens = f" of one example of {exact['length']} tokens" if exact.get("length") else ""
    parts = [f"{_mb(exact['size_bytes'])}"]
    for key, title in (("parameters", "parameters"), ("macs", f"MACs{tokens}")):
        if exact.get(key) is not None:
            parts.append(f"{exact[key]:,} {title}")
    counts = {"operators": sum((exact.get("ops") or {}).values()) or None}
    counts |= {
        "Q": exact.get("quantize"),
        "DQ": exact.get("dequantize"),
        "Cast": exact.get("casts"),
    }
    parts += [f"{value:,} {title}" for title, value in counts.items() if value is not None]
    return f"exactly {', '.join(parts)}"


def _p50(latency: Mapping[str, Any], measurement: Measurement) -> str:
    if latency.get("p50") is not None:
        low, high = latency["p50_ci"]
        return f"{latency['p50']:.3g} ms [{low:.3g}, {high:.3g}]"
    if latency.get("low") is not None:
        alone = measurement.projection is not None and measurement.projection.excludes
        return f"{latency['low']:.3g} to {latency['high']:.3g} ms{RATIO_ALONE if alone else ''}"
    return "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} MB"


def _unit(name: str, value: float) -> str:
    return f"{value:.3g} ms" if name in ("latency", "load") else f"{value / 1e6:.1f} MB"
