"""``report.html``: one self-contained page that needs neither network nor scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from edgekd.report import plots, story, units
from edgekd.report.document import Bench, BundleRow, Document, speedup
from edgekd.report.verdict import BUDGETS

_FOLDER = Path(__file__).parent
_WORST = 12  # blind spots shown; report.json has all of them


def write(document: Document, path: Path) -> None:
    """Render into ``path``; an interrupted write leaves the earlier file."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(render(document), encoding="utf-8")
    partial.replace(path)


def render(document: Document) -> str:
    """Render the page. Every text from the document is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": units.size,
        "ms": units.duration_ms,
        "seconds": units.seconds,
        "percent": units.percent,
        "count": units.count,
        "times": units.times,
        "metric": story.metric,
        "interval": story.interval,
        "short": units.short,
        "setting": units.setting,
        "prose": _prose,
        "tight": _tight,
        "plain": _plain,
        "title": story.title,
    }
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        doc=document,
        style=Markup(style),
        story=story,
        budgets=BUDGETS,
        span=units.span,
        chosen=document.bundle(document.chosen),
        worst=document.blind_spots[:_WORST],
        speedup=lambda bundle, bench: speedup(document, bundle, bench),
        trade_offs=_trade_offs(document),
        drawn={row.model for row in document.bundles if row.retained is not None},
        forest=_forest(document),
        gain_plot=_gain_plot(document),
        reliability=[
            (row, plots.reliability(row, _model_of(document, row.id)))
            for row in document.calibration
        ],
        curves=_curves(document),
        tuning_plot=_tuning_plot(document),
    )


def _trade_offs(document: Document) -> list[Markup]:
    """Retained against size, and against latency under the profile with most measurements."""
    limits = {line.name: line.limit for line in document.verdict.lines}
    scored = [row for row in document.bundles if row.retained is not None]
    shared: dict[str, Any] = {
        "label": lambda row: story.short_name(document, row),
        "chosen": document.chosen,
        "retained_limit": limits.get("retained"),
    }
    pictures = []
    if scored:
        pictures.append(
            plots.trade_off(
                [(row, None, float(row.size_bytes)) for row in scored],
                title="Model size (log scale)",
                x_text=units.size,
                x_limit=limits.get("size"),
                **shared,
            )
        )
    profile = story.main_profile(document)
    timed = [
        (row, bench, place)
        for row in scored
        for bench in row.bench
        if bench.profile == profile and (place := _place(bench)) is not None
    ]
    if timed:
        limit = next(
            (
                line.limit
                for line in document.verdict.lines
                if line.name == "latency_p50" and line.profile in (None, profile)
            ),
            None,
        )
        pictures.append(
            plots.trade_off(
                timed,
                title=f"Median latency on {profile} (log scale)",
                x_text=units.duration_ms,
                x_limit=limit,
                **shared,
            )
        )
    return pictures


def _place(bench: Bench) -> float | tuple[float, float] | None:
    latency = bench.latency_ms
    if latency is None:
        return None
    if bench.evidence == "projected" and latency.low and latency.high:
        return (latency.low, latency.high)
    return latency.p50 or None


def _forest(document: Document) -> dict[str, Markup]:
    """Retained with its interval per bundle and model, all on one scale."""
    rows = [
        *((row.path, row.model, row) for row in document.bundles),
        *((row.id, row.id, row) for row in document.models),
    ]
    rows = [row for row in rows if row[2].retained is not None]
    limit = next((li.limit for li in document.verdict.lines if li.name == "retained"), None)
    values = [v for *_, row in rows for v in (row.retained_ci or (row.retained or 0,))]
    if not values:
        return {}
    axis = plots.around([*values, 1.0, *([limit] if limit else [])], room=0.06)
    return {
        key: plots.interval(row.retained or 0, row.retained_ci, axis, limit, model)
        for key, model, row in rows
    }


def _gain_plot(document: Document) -> Markup | None:
    gain = document.gain
    return plots.gain(gain, lambda v: story.gain_text(gain.metric, v)) if gain else None


def _curves(document: Document) -> list[tuple[str, Markup]]:
    names = dict.fromkeys(curve.name for curve in document.curves)
    return [
        (
            name,
            plots.curves(
                [c for c in document.curves if c.name == name and c.points],
                story.title(name).capitalize(),
                lambda value, name=name: story.metric(value, name),  # type: ignore[misc]
            ),
        )
        for name in names
        if any(c.name == name and c.points for c in document.curves)
    ]


def _tuning_plot(document: Document) -> Markup | None:
    tuning = document.tuning
    if tuning is None:
        return None
    name = tuning.metric
    return plots.tuning(tuning, story.title(name).capitalize(), lambda v: story.metric(v, name))


def _model_of(document: Document, name: str) -> str:
    """The model that a calibration row is about: itself, or the one its bundle was made from."""
    bundle: BundleRow | None = document.bundle(name)
    return bundle.model if bundle else name


def _prose(text: str) -> Markup:
    """Escaped text in which `backticks` become code."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:  # an odd backtick stands for itself
        return escape(text)
    return Markup("".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)))


def _tight(text: str) -> str:
    """A number and its unit stay on one line."""
    return re.sub(r"(?<=\d) (?=(?:%|µs|ms|s|B|kB|MB|GB|M|G|points)\b|%)", "\u00a0", text)


def _plain(value: Any) -> str:
    """A setting or an environment entry on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)
