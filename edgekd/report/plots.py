"""The drawings of the report, each from rows of the document to one SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from markupsafe import Markup

from edgekd.report import units
from edgekd.report.document import Bench, BundleRow, Calibration, Curve, Gain
from edgekd.report.svg import Axis, Canvas, around
from edgekd.report.tuning import Tuning

WIDTH, HEIGHT = 460, 330
_DRAWN = 120  # points of a training curve
_X = (58.0, 448.0)
_Y = (276.0, 30.0)
KNOWN = ("teacher", "student-no-kd", "student")  # models with a colour of their own


def colour(model: str) -> str:
    """The style-sheet class of a model; stages between teacher and student share one."""
    return model if model in KNOWN else "other"


def trade_off(
    rows: Sequence[tuple[BundleRow, Bench | None, float | tuple[float, float]]],
    *,
    label: Callable[[BundleRow], str],
    chosen: str | None,
    title: str,
    x_text: Callable[[float], str],
    x_limit: float | None = None,
    retained_limit: float | None = None,
) -> Markup:
    """Retained against size or latency: one point per bundle, whiskers at 95 %.

    Each row brings its place on the horizontal axis; a pair is a projected range and is drawn as
    a dashed line without a point. The tinted corner is what the budget allows.
    """
    places = [v for *_, x in rows for v in (x if isinstance(x, tuple) else (x,))]
    heights = [v for row, *_ in rows for v in (row.retained_ci or (row.retained or 0,))] + [1.0]
    if x_limit:
        places.append(x_limit)
    if retained_limit:
        heights.append(retained_limit)
    x = Axis(*around(places, log=True, room=0.14), *_X, log=True)
    y = Axis(*around(heights), *_Y)
    canvas = Canvas(WIDTH, HEIGHT, f"Share of the teacher retained against {title.lower()}")
    if x_limit or retained_limit:
        corner = (
            x(x_limit) if x_limit else x.end,
            y(retained_limit) if retained_limit else y.start,
        )
        canvas.rect(x.start, y.end, *corner, "allowed")
    canvas.frame(
        x, y, x_text, lambda v: units.percent(v, 2), title, "Retained of the teacher, 95 % interval"
    )
    if x_limit:
        canvas.line(x(x_limit), y.start, x(x_limit), y.end, "limit")
        canvas.take(x(x_limit), y.start, x(x_limit), y.end)
    if retained_limit:
        canvas.line(x.start, y(retained_limit), x.end, y(retained_limit), "limit")
        canvas.take(x.start, y(retained_limit), x.end, y(retained_limit))
    canvas.line(x.start, y(1), x.end, y(1), "teacher-line")
    canvas.take(x.start, y(1), x.end, y(1))
    centres = []
    for row, bench, place in rows:
        kind = colour(row.model)
        middle = y(row.retained or 0)
        low, high = place if isinstance(place, tuple) else (place, place)
        centre = (x(low) + x(high)) / 2
        if row.retained_ci:
            bottom, top = map(y, row.retained_ci)
            canvas.line(centre, bottom, centre, top, f"whisker {kind}")
            canvas.take(centre, bottom, centre, top)
        if isinstance(place, tuple):
            canvas.line(x(low), middle, x(high), middle, f"projected {kind}")
        else:
            evidence = bench.evidence if bench else row.evidence
            if row.path == chosen:
                canvas.add("circle", cx=centre, cy=middle, r=9, class_=f"ring {kind}")
            hollow = "" if evidence == "measured" else " hollow"
            canvas.add("circle", cx=centre, cy=middle, r=5, class_=f"point {kind}{hollow}")
        canvas.take(centre, middle, centre, middle, room=8)
        centres.append((row, centre, middle))
    for row, centre, middle in sorted(centres, key=lambda c: c[0].path != chosen):
        strong = " strong" if row.path == chosen else ""
        canvas.label(centre, middle, label(row), f"name {colour(row.model)}{strong}", x)
    return canvas.markup()


def interval(
    value: float,
    ci: tuple[float, float] | None,
    axis: tuple[float, float],
    limit: float | None,
    model: str,
) -> Markup:
    """A value and its interval on a line of its own, for a table cell; all rows share ``axis``."""
    x = Axis(*axis, 4, 136)
    canvas = Canvas(140, 18, "95 % interval")
    canvas.line(x.start, 9, x.end, 9, "grid")
    canvas.line(x(1), 1, x(1), 17, "teacher-line")
    if limit is not None:
        canvas.line(x(limit), 1, x(limit), 17, "limit")
    if ci:
        canvas.line(x(ci[0]), 9, x(ci[1]), 9, f"whisker thick {colour(model)}")
    canvas.add("circle", cx=x(value), cy=9, r=4, class_=f"point {colour(model)}")
    return canvas.markup()


def gain(row: Gain, text: Callable[[float], str]) -> Markup:
    """The gain with its interval, against nothing gained."""
    low, high = around([*row.ci, row.value, 0.0], room=0.25)
    x = Axis(low, high, 20, 440)
    canvas = Canvas(WIDTH, 84, "Gain of the student over the same student without the teacher")
    for value in x.ticks(4):
        canvas.line(x(value), 46, x(value), 50, "axis")
        canvas.text(x(value), 66, units.short(text(value)) if value else "0", "tick", "middle")
    canvas.line(x.start, 46, x.end, 46, "axis")
    canvas.line(x(0), 8, x(0), 46, "limit")
    canvas.text(x(0) + 5, 16, "no gain", "tick")
    canvas.line(x(row.ci[0]), 28, x(row.ci[1]), 28, "whisker thick student")
    canvas.add("circle", cx=x(row.value), cy=28, r=5, class_="point student")
    return canvas.markup()


def reliability(row: Calibration, model: str) -> Markup:
    """Confidence against accuracy; on the diagonal a model is as sure as it is right."""
    width, height = 300, 300
    low = min(min(b.confidence, b.accuracy) for b in row.bins)
    low = max(0.0, min(0.9, low) - 0.05)
    x, y = Axis(low, 1, 46, 280), Axis(low, 1, 248, 30)
    canvas = Canvas(width, height, f"Reliability of {row.id}")
    canvas.frame(x, y, _whole, _whole, "Confidence", "Accuracy")
    canvas.line(x(low), y(low), x(1), y(1), "limit")
    total = sum(b.count for b in row.bins)
    canvas.path([(x(b.confidence), y(b.accuracy)) for b in row.bins], f"curve {colour(model)}")
    for b in row.bins:
        radius = round(2.5 + 5 * (b.count / total) ** 0.5, 1)
        canvas.add(
            "circle",
            cx=x(b.confidence),
            cy=y(b.accuracy),
            r=radius,
            class_=f"point {colour(model)}",
        )
    return canvas.markup()


def curves(rows: Sequence[Curve], title: str, text: Callable[[float], str]) -> Markup:
    """Training curves of one quantity, one line per model, named at its end.

    A long curve is drawn as the means of equal stretches of it.
    """
    rows = [row.model_copy(update={"points": _thinned(row.points)}) for row in rows]
    points = [point for row in rows for point in row.points]
    x = Axis(0, max(step for step, _ in points) * 1.02, 58, 370)
    y = Axis(*around([value for _, value in points]), *_Y)
    canvas = Canvas(WIDTH, HEIGHT, f"{title} during training")
    canvas.frame(x, y, units.count, text, "Step", title)
    lowest = y.start
    for row in sorted(rows, key=lambda row: row.points[-1][1]):
        canvas.path(
            [(x(step), y(value)) for step, value in row.points], f"curve {colour(row.model)}"
        )
        step, value = row.points[-1]
        lowest = min(y(value), lowest - 15)  # names stand above each other, never on one another
        canvas.text(x(step) + 8, lowest + 4, row.model, f"name {colour(row.model)}")
    return canvas.markup()


def tuning(row: Tuning, title: str, text: Callable[[float], str]) -> Markup:
    """The score of each trial in their order, and the best that was known after each."""
    scored = [(t, t.score) for t in row.trials if t.score is not None]
    x = Axis(-0.5, max(t.number for t in row.trials) + 0.5, *_X)
    y = Axis(*around([score for _, score in scored]), *_Y)
    canvas = Canvas(WIDTH, HEIGHT, f"{title} of {len(row.trials)} trials")
    canvas.frame(x, y, _whole_number, text, "Trial", f"{title} on the held-out rows")
    better = min if row.lower_is_better else max
    best: list[float] = []
    steps: list[tuple[float, float]] = []
    for trial, score in scored:
        if trial.state == "complete":
            best.append(better([*best[-1:], score]))
            steps += [(x(trial.number), y(b)) for b in best[-2:]]
    canvas.path([*steps, (x.end, steps[-1][1])], "curve student")
    for trial, score in scored:
        place, kind = (x(trial.number), y(score)), "teacher" if trial.number == 0 else "other"
        if trial.number == row.chosen:
            kind = "student"
            canvas.add("circle", cx=place[0], cy=place[1], r=9, class_="ring student")
        hollow = "" if trial.state == "complete" else " hollow"
        canvas.add("circle", cx=place[0], cy=place[1], r=4, class_=f"point {kind}{hollow}")
    return canvas.markup()


def _whole_number(value: float) -> str:
    return f"{value:g}"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_DRAWN`` points: the mean step and value of each stretch."""
    size = -(-len(points) // _DRAWN)
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(mean(s for s, _ in part), mean(v for _, v in part)) for part in stretches]


def _whole(value: float) -> str:
    return units.percent(value, 0)
