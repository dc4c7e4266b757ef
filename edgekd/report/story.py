"""The sentences of the report and the model card: what the numbers say, in words."""

from __future__ import annotations

from edgekd.report import units
from edgekd.report.check import Check
from edgekd.report.document import Bench, BundleRow, Document, Latency, speedup
from edgekd.report.folder import Folder

TARGETS = {"onnx": "ONNX", "coreml": "Core ML", "browser": "browser"}
_LEVEL = 0.05
_SHARES = ("accuracy", "f1", "exact_match", "precision", "recall")
EVIDENCE = {
    "measured": "run on that runtime and that hardware",
    "reference": "numerics executed by the reference interpreter; says nothing about speed",
    "published": "cited from a source",
    "projected": "a range computed from other measurements, with its method and the error that it allows for; never decides",
}
_WORDS = {"passed": "Passed", "failed": "Failed", "inconclusive": "Undecided"}


def target(name: str) -> str:
    return TARGETS.get(name, name)


def title(name: str | None) -> str:
    """``macro_f1`` as ``macro F1``."""
    return (name or "metric").replace("_", " ").replace("f1", "F1")


def metric(value: float | None, name: str, digits: int = 2) -> str:
    """A metric in its own form: a percentage where it is a share of examples."""
    if any(word in name for word in _SHARES):
        return units.percent(value, digits)
    return units.number(value)


def gain_text(name: str, value: float) -> str:
    """A difference of two metrics, with its sign."""
    if any(word in name for word in _SHARES):
        return units.points(value, 2)
    return f"{value:+.3g}".replace("-", "−")


def interval(ci: tuple[float, float] | None, digits: int = 1) -> str:
    """``98.7–100.1 %``; empty where there is none."""
    return f"{100 * ci[0]:.{digits}f}–{100 * ci[1]:.{digits}f} %" if ci else ""


def name(row: BundleRow) -> str:
    """``ONNX int8``"""
    return f"{target(row.target)} {row.variant}"


def short_name(document: Document, row: BundleRow) -> str:
    """A bundle's name in a plot: the target only where there are several."""
    several = len({bundle.target for bundle in document.bundles}) > 1
    return f"{target(row.target)} {row.variant}" if several else row.variant


def status(document: Document) -> str:
    return _WORDS[document.verdict.status]


def headline(document: Document) -> str:
    """What the chosen bundle is, in one sentence."""
    row = document.bundle(document.chosen)
    if row is None:
        return "No bundle was chosen."
    subject = f"The {name(row)} bundle"
    kept = f" keeps {units.percent(row.retained)} of its teacher’s {title(document.metric)}"
    if row.retained is None:
        kept = " was not compared with its teacher"
    sentence = f"{subject}{kept} in {units.size(row.size_bytes)}"
    smaller, faster = shrink(document, row), best_speedup(document, row)
    parts = [f"{units.times(smaller)} smaller"] if smaller and smaller > 1 else []
    if faster:
        parts.append(f"{units.times(faster)} {'faster' if faster >= 1 else 'of the speed'}")
    return f"{sentence}: {' and '.join(parts)}." if parts else f"{sentence}."


def shrink(document: Document, row: BundleRow) -> float | None:
    """Size of the teacher’s fp32 export for the same target, over this bundle's."""
    for other in document.bundles:
        if (other.model, other.target, other.precision) == ("teacher", row.target, "fp32"):
            return other.size_bytes / row.size_bytes
    return None


def folder(row: Folder) -> str:
    """What a folder of several precisions ships, and which rows have the figures of each."""
    first, *others = (f"{slot} (`{path}`)" for slot, path in row.holds.items())
    left = "".join(f" `{path}` is not in it: another has its place." for path in row.left_out)
    return (
        f"`{row.path}` ships {len(row.holds)} models in {units.size(row.bundle_bytes)}: {first},"
        f" which opens unless another is asked for, and {', '.join(others)}. Each is the same file"
        f" as in the bundle named, whose figures are its own.{left}"
    )


def check(row: Check, name: str) -> str:
    """How often another runtime decides as the bundle's own does, and how far apart they are."""
    if row.missing:
        return f"{row.runtime}: not asked, {row.missing}"
    apart = row.largest_difference
    return (
        f"{row.runtime}: the same decision on {units.percent(row.same, 2)} of"
        f" {units.count(row.rows)} rows, {title(name)} {metric(row.metric, name)}"
        f"{'' if apart is None else f', probabilities at most {apart:.2g} apart'}"
    )


def best_speedup(document: Document, row: BundleRow) -> float | None:
    """Speed-up over the teacher under the profile that the plots show."""
    profile = main_profile(document)
    found = (speedup(document, row, bench) for bench in row.bench if bench.profile == profile)
    return next((value for value in found if value), None)


def main_profile(document: Document) -> str | None:
    """The profile under which most bundles were measured."""
    profiles = [b.profile for row in document.bundles for b in row.bench if b.latency_ms]
    measured = [
        b.profile
        for row in document.bundles
        for b in row.bench
        if b.latency_ms and b.evidence == "measured"
    ]
    return max(dict.fromkeys(profiles), key=measured.count, default=None)


def projection(figures: Latency) -> str:
    """``0.6 to 1.9 ms``"""
    low, high = units.duration_ms(figures.low), units.duration_ms(figures.high)
    return units.span(units.short(low), units.short(high), " to ")


def latency(bench: Bench | None) -> str:
    """``1.41 ms, edge-server, measured``; a projection stays a range."""
    if bench is None or bench.latency_ms is None:
        return units.MISSING
    figures = bench.latency_ms
    value = projection(figures) if figures.p50 is None else units.duration_ms(figures.p50)
    return f"{value}, {bench.profile}, {bench.evidence}"


def bought(document: Document) -> str:
    """What distillation bought, and whether the interval is clear of zero."""
    gain = document.gain
    if gain is None:
        return "The same student was not trained without the teacher, so the gain is unknown."
    low, high = gain.ci
    value = gain_text(gain.metric, gain.value)
    span = units.span(gain_text(gain.metric, low), gain_text(gain.metric, high), " to ")
    if low <= 0 <= high:
        end = "the interval includes zero: on this data the two cannot be told apart."
    elif gain.p_value is not None and gain.p_value > _LEVEL:
        side = "above" if low > 0 else "below"
        end = (
            f"the interval lies {side} zero, but the exact test does not confirm it"
            f" (p = {gain.p_value:.2g}): this data does not settle it."
        )
    elif low > 0:
        end = "the interval lies above zero: distillation helped."
    else:
        end = "the interval lies below zero: distillation hurt here."
    over = f" over {gain.seeds} seeds" if gain.seeds > 1 else " over examples, of one seed"
    return (
        f"At the same budget the student is {value} against itself trained without the teacher, in"
        f" {title(gain.metric)} (95 % interval {span}{over}); {end}"
    )


def tuned(document: Document) -> str:
    """What a search of hyper-parameters chose, and what that is worth on the rows that chose."""
    tuning = document.tuning
    if tuning is None:
        return "Nothing was searched: the settings are the recipe’s own."
    ended = {"pruned": "stopped early", "failed": "failed"}
    counts = {word: sum(t.state == state for t in tuning.trials) for state, word in ended.items()}
    asides = [f"{count} {word}" for word, count in counts.items() if count]
    aside = f" ({', '.join(asides)})" if asides else ""
    trials = f"Of {len(tuning.trials)} trials{aside}"
    if tuning.chosen == 0:
        return f"{trials}, none was better than the recipe’s own setting, which stays."
    values = ", ".join(f"{title(k)} {units.setting(v)}" for k, v in tuning.values.items())
    low, high = (gain_text(tuning.metric, v) for v in tuning.gain_ci)
    return (
        f"{trials}, number {tuning.chosen} is best: {values}. It scores"
        f" {metric(tuning.score, tuning.metric)} on the held-out rows,"
        f" {gain_text(tuning.metric, tuning.gain)} against the recipe’s own setting (95 % interval"
        f" {units.span(low, high, ' to ')})."
    )


def inherited(document: Document) -> str:
    """How much of the teacher’s error the student repeats."""
    spots = document.blind_spots
    teacher = sum(spot.teacher_errors for spot in spots)
    student = sum(spot.student_errors for spot in spots)
    same = sum(spot.inherited for spot in spots)
    examples = sum(spot.examples for spot in spots)
    student_row = document.model("student")
    whole = student_row is not None and student_row.n == examples
    among = f"Of {'' if whole else 'the '}{units.count(examples)} examples"
    among += "" if whole else f" of these {len(spots)} classes"
    if not teacher:
        return f"{among} the teacher gets none wrong: there is nothing to inherit."
    return (
        f"{among} the teacher gets {units.count(teacher)} wrong and the"
        f" student {units.count(student)}. In {units.count(same)} cases the student gives the"
        f" teacher’s own wrong answer: {units.percent(same / teacher, 0)} of the teacher’s errors"
        " are inherited."
    )


def snippet(document: Document, row: BundleRow) -> str:
    """Python that runs the bundle on one raw row."""
    kinds = {"image": '{"image": "photo.png"}', "audio": '{"audio": "sound.wav"}'}
    example = kinds.get(document.task.split("-")[0], '{"text": "…"}')
    answer = (
        'labels = bundle.manifest.labels\nprint(labels[outputs["logits"][0].argmax()])'
        if document.task.endswith("-classification") and not document.task.startswith("token")
        else "print(outputs)"
    )
    return (
        "from edgekd import exporter\n"
        "from edgekd.bundle import Bundle\n\n"
        f'bundle = Bundle.open("{row.path}")\n'
        "session = exporter.get(bundle.manifest.target).open(bundle)\n"
        f"outputs = session.run(bundle.encode([{example}]))\n"
        f"{answer}\n"
    )
