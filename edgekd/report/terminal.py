"""The end of a run in a terminal: what came out, and whether the budget holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgekd.report import story, units
from edgekd.report.document import Document, speedup

_COLOURS = {"passed": "green", "failed": "red", "inconclusive": "yellow", "unchecked": "yellow"}


def show_tuning(console: Console, tuning: Mapping[str, Any]) -> None:
    """Print the trials of a search and what it chose."""
    names = list(tuning["space"])
    table = Table("trial", *names, tuning["metric"], "state", "time", box=None, pad_edge=False)
    for trial in tuning["trials"]:
        score = "" if trial["score"] is None else f"{trial['score']:.4f}"
        table.add_row(
            f"{trial['number']}{' *' if trial['number'] == tuning['chosen'] else ''}",
            *(units.setting(trial["values"].get(name)) for name in names),
            score,
            trial["failure"] or trial["state"],
            units.seconds(trial["seconds"]),
        )
    console.print(table, "")
    console.print(
        f"chosen: trial {tuning['chosen']}, {tuning['metric']} {tuning['score']:.4f} (95 %:"
        f" {tuning['score_ci'][0]:.4f} to {tuning['score_ci'][1]:.4f}) on {tuning['held_out']}"
        f" held-out rows, {tuning['gain']:+.4f} over the recipe's own setting (95 %:"
        f" {tuning['gain_ci'][0]:+.4f} to {tuning['gain_ci'][1]:+.4f})"
    )


def show(console: Console, document: Document) -> None:
    """Print the models, the bundles and the verdict."""
    metric = document.metric or "metric"
    models = Table("model", "parameters", metric, "retained", "agreement", box=None, pad_edge=False)
    for model in document.models:
        models.add_row(
            model.id,
            f"{model.params:,}",
            f"{model.metrics[metric]:.4f}",
            "" if model.retained is None else units.percent(model.retained, 2),
            "" if model.agreement is None else units.percent(model.agreement, 2),
        )
    console.print(models, "")
    if document.student:
        shape, built = document.student, document.student.built_bytes
        truth = f", built {units.size(built)}" if built else ""
        guess = f"{shape.precision} estimated {units.size(shape.estimated_bytes)}{truth}"
        console.print(f"student: {shape.why} ({guess})", "")
    head = ("bundle", "size", metric, "retained", "95 % interval", "p50", "speed-up", "evidence")
    bundles = Table(*head, box=None, pad_edge=False)
    bundles.columns[0].no_wrap = True
    for row in document.bundles:
        interval = "" if row.retained_ci is None else "{:.1%}–{:.1%}".format(*row.retained_ci)
        bench = next((b for b in row.bench if b.latency_ms and b.latency_ms.p50), None)
        ratio = speedup(document, row, bench) if bench and row.model != "teacher" else None
        bundles.add_row(
            row.path.removeprefix("bundles/"),
            units.size(row.size_bytes),
            f"{row.metrics[metric]:.4f}" if row.metrics else row.missing,
            "" if row.retained is None else units.percent(row.retained, 2),
            interval,
            units.duration_ms(bench.latency_ms.p50) if bench and bench.latency_ms else "-",
            f"{ratio:.2f}×" if ratio else "",
            bench.evidence if bench else row.evidence,
        )
    console.print(bundles, "")
    for row in document.bundles:
        name = row.path.removeprefix("bundles/")
        for check in row.checks:
            console.print(escape(f"{name} in {story.check(check, metric)}"))
    for folder in document.folders:
        console.print(escape(story.folder(folder).replace("`", "")), "")
    if document.tuning:
        tuning = document.tuning
        values = ", ".join(f"{k} {units.setting(v)}" for k, v in tuning.values.items())
        console.print(f"tuned over {len(tuning.trials)} trials: {values}")
    if document.gain:
        low, high = document.gain.ci
        seeds = document.gain.seeds
        over = f"over {seeds} seeds" if seeds > 1 else "over examples, one seed"
        console.print(
            f"distillation bought {document.gain.value:+.4f} {metric} over the same student"
            f" without a teacher (95 % {over}: {low:+.4f} to {high:+.4f})"
        )
    far = document.shift.lines if document.shift and document.shift.found else []
    for warning in [*document.warnings, *far]:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}")
    for line in document.verdict.lines:
        console.print(f"[{_COLOURS[line.status]}]{line.status:>9}[/] {line.sentence}")
    status = document.verdict.status
    console.print(f"[bold {_COLOURS[status]}]{status}[/]: {document.verdict.reason}")
