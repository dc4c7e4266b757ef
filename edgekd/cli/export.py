"""``edgekd export``: any Hugging Face model to a bundle for one target."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit
from edgekd.cli.quantize import CALIBRATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.bundle import Bundle
    from edgekd.exporter import Exporter, Spec
    from edgekd.profiles import Profile
    from edgekd.search.trial import Budget

MAX_DROP = 0.01  # absolute, of the main metric


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face model directory or id.")],
    out: Annotated[Path, typer.Option(help="Where the bundle goes.", show_default=False)],
    target: Annotated[str, typer.Option(help="onnx, coreml or browser.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, int8, …, or auto: the fastest within --max-drop and the two limits. The"
            " target's float by default. Several with commas make one browser folder, the first"
            " its default.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help=f"With auto: the loss of the main metric that is allowed, {MAX_DROP} by default; as"
            " counted, and for classifiers as far as the rows rule out more.",
            show_default=False,
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(help="With auto: the slowest median allowed, such as '5 ms'."),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="With auto: the largest model allowed, such as '6 MB'.")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Labelled rows to choose on with auto, best such as the model has not learned from,"
            " and to calibrate on where a precision sets"
            " activation ranges (with auto a fifth of them, at most); never the test data."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Rows that set activation ranges, such as the training data; no labels needed. By"
            " default they are of --select."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="With auto: where candidates are timed; this machine by default.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled rows: the bundle is scored on them, beside the model itself."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task; read from the architecture by default.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Fix the batch size.")] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Fix the number of tokens; several give the allowed lengths."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="The longest input served; the model's own by default."),
    ] = None,
    deployment: Annotated[
        str | None, typer.Option(help="Opset or OS version, such as iOS18.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The data's text column.")] = None,
    label: Annotated[str | None, typer.Option(help="The data's label column.")] = None,
    author: Annotated[
        str | None, typer.Option(help="Written into packages that carry metadata.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="As --author.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE that only this target knows, such as format=ort; repeats."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Export a model, compare it with torch on real rows, and write a complete bundle.

    Nothing is written where the numbers differ, or where auto finds nothing inside the budget
    (exit 1: the nearest miss is named).
    """
    from edgekd import data as reading
    from edgekd import exporter as exporters
    from edgekd import models, tasks
    from edgekd.cli.selection import apart, divided
    from edgekd.exporter import AUTO, Spec
    from edgekd.program import Shapes
    from edgekd.wrap import wrap

    exporter = exporters.get(target)
    spec = Spec(
        shapes=Shapes(batch, tuple(sorted(length or ()))),
        compute="fp32" if "fp32" in (precision or "").split(",") else exporter.default_compute,
        deployment=deployment,
        metadata={k: v for k, v in (("author", author), ("license", license)) if v},
        options=_options(option or []),
    )
    known = exporter.precisions(spec)
    wanted = list(dict.fromkeys((precision or known[0]).split(",")))
    _check_precisions(exporter, wanted, known, bool(select), bool(calibration))
    limits = {"--max-drop": max_drop, "--max-latency": max_latency, "--max-size": max_size}
    _check_auto(wanted, {**limits, "--profile": profile})
    budget = _budget(max_drop, max_latency, max_size)
    timed = _profile(exporter, profile) if AUTO in wanted else None
    chosen = tasks.get(task or models.detect_task(model))
    columns = {k: v for k, v in {"text": text, "label": label}.items() if v}
    rows = reading.read_rows(data, chosen, columns) if data else []
    selection = reading.read_rows(select, chosen, columns) if select else []
    selection = apart(selection, rows)
    chosen_on = ranging = selection
    if calibration:
        ranging = reading.read_rows(calibration, chosen, columns, labelled=False)
        ranging = apart(ranging, rows, "--calibration")
        ranging = apart(ranging, selection, "--calibration", "--select")
    elif AUTO in wanted and exporter.calibrated:
        chosen_on, ranging = divided(selection, CALIBRATION, chosen.group)
    loaded = models.load(model, chosen, max_length=max(length) if length else max_length)
    # A stranger among the labels is told at once.
    rows = reading.name_labels(rows, loaded.labels)
    chosen_on = reading.name_labels(chosen_on, loaded.labels)
    samples = models.example_rows(chosen, loaded.preprocessor)
    examples = _spread(chosen_on or rows) or samples
    program = wrap(
        loaded.model,
        chosen,
        loaded.preprocessor,
        loaded.labels,
        examples,
        {"source": Path(model).name or model, "revision": loaded.revision},
    )
    asked = Asked(wanted, budget, timed, chosen_on, _spread(ranging, CALIBRATION) or samples)
    bundle, search = _build(exporter, program, spec, asked, out)
    document: dict[str, Any] = {
        "schema": "edgekd.export/1",
        "bundle": str(out),
        "target": target,
        "precision": bundle.manifest.precision,
        "precisions": wanted,
        "variant": bundle.manifest.variant,
        "size_bytes": bundle.size_bytes,
        "bundle_bytes": bundle.bundle_bytes,
        "relative_error": bundle.manifest.provenance["relative_error"],
        "exact": exporter.inspect(bundle),
        "findings": [vars(finding) for finding in exporter.check(bundle)],
    }
    if search:
        document["search"] = search
    if rows:
        document["evaluation"] = _score(loaded, chosen, bundle, rows, timed)
    emit(document, json_path, lambda console: _show(console, document))


def _check_precisions(
    exporter: Exporter, wanted: list[str], known: Sequence[str], select: bool, calibration: bool
) -> None:
    """Raise :class:`InputError` before anything is loaded."""
    from edgekd.errors import InputError, nearest
    from edgekd.exporter import AUTO

    slots: dict[str, str] = {}
    for name in wanted:
        if name not in (*known, AUTO):
            raise InputError(
                f"unknown precision '{name}'{nearest(name, list(known))}; {exporter.name} offers"
                f" {', '.join(known)}"
            )
        if name == AUTO and not select:
            raise InputError(
                "--precision auto needs --select: labelled rows to choose on, not the test data"
            )
        if name in exporter.calibrated and not (select or calibration):
            raise InputError(
                f"--precision {name} takes activation ranges from rows: give --calibration (or"
                " --select), rows that are served like these and are not the test data"
            )
        slot = exporter.slot(name) if name != AUTO else AUTO
        if len(wanted) > 1 and exporter.slot(known[0]) is None:
            raise InputError(
                f"a {exporter.name} bundle holds one precision: export {' and '.join(wanted)} each"
                " by itself"
            )
        if slot in slots:
            raise InputError(
                f"{slots[slot]} and {name} are both '{slot}' in one folder; name one of them"
            )
        slots[str(slot)] = name


def _check_auto(wanted: list[str], options: Mapping[str, Any]) -> None:
    """Refuse what only auto reads: without it the option would be ignored in silence."""
    from edgekd.errors import InputError
    from edgekd.exporter import AUTO

    given = next((name for name, value in options.items() if value is not None), None)
    if given and AUTO not in wanted:
        raise InputError(f"{given} says how auto may choose; add --precision auto, or drop it")


def _budget(drop: float | None, latency: str | None, size: str | None) -> Budget:
    """What ``auto`` has to stay inside."""
    from edgekd.errors import InputError
    from edgekd.quantities import parse_bytes, parse_milliseconds
    from edgekd.search.trial import Budget

    try:
        longest = parse_milliseconds(latency) if latency else None
        largest = parse_bytes(size) if size else None
    except ValueError as error:
        raise InputError(str(error)) from error
    return Budget(MAX_DROP if drop is None else drop, longest, largest)


def _profile(exporter: Exporter, name: str | None) -> Profile:
    from edgekd import profiles
    from edgekd.errors import InputError

    if name is None:
        return profiles.here(exporter.name)
    found = profiles.load(name, Path.cwd())
    if found.target != exporter.name:
        raise InputError(
            f"the profile '{name}' runs {found.target} bundles, and this export is for"
            f" {exporter.name}; name one that runs those, or none for this machine"
        )
    return found


def _options(given: list[str]) -> dict[str, Any]:
    """``format=ort`` and ``range=true`` as values."""
    from edgekd.errors import InputError

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--option {text}: write NAME=VALUE")
        found[name] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def _spread(rows: list[dict[str, Any]], count: int | None = None) -> list[Any]:
    """Rows of every length and class: files are often sorted."""
    from edgekd.pipeline.context import EXAMPLES, spread

    return spread(rows, count or EXAMPLES) if rows else []


@dataclass(frozen=True)
class Asked:
    """Which precisions, and what is needed to find or to calibrate them."""

    precisions: list[str]  # the first is the bundle's own
    budget: Budget
    profile: Profile | None  # where auto times
    selection: list[Any]
    calibration: list[Any]  # never the test data


def _build(
    exporter: Exporter, program: Any, spec: Spec, asked: Asked, out: Path
) -> tuple[Bundle, dict[str, Any] | None]:
    from edgekd.publish import copy

    if asked.precisions == [exporter.precisions(spec)[0]]:
        return exporter.lower(program, spec, out), None
    with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder:
        work = Path(folder)
        base = exporter.lower(program, spec, work / "float")
        made = [_make(exporter, base, name, asked, work) for name in asked.precisions]
        bundles = _first_of_slots(exporter, [bundle for bundle, _ in made])
        search = next((found for _, found in made if found), None)
        if len(bundles) == 1:
            return copy(bundles[0], out), search
        return exporter.combine(bundles, out), search


def _first_of_slots(exporter: Exporter, bundles: Sequence[Bundle]) -> list[Bundle]:
    """Without those of a slot that an earlier one has: what auto chooses may be named as well."""
    from edgekd.progress import say

    slots: dict[str | None, Bundle] = {}
    for bundle in bundles:
        precision = bundle.manifest.precision
        slot = exporter.slot(precision)
        first = slots.setdefault(slot, bundle)
        if first is not bundle:
            say(
                f"  {exporter.name}: {first.manifest.precision} is the folder's '{slot}' already,"
                f" so {precision} is left out; to have it, name it first"
            )
    return list(slots.values())


def _make(
    exporter: Exporter, base: Bundle, name: str, asked: Asked, work: Path
) -> tuple[Bundle, dict[str, Any] | None]:
    """One precision of ``base``, and for auto what was tried."""
    from edgekd.exporter import AUTO, Plan

    if name == base.manifest.precision:
        return base, None
    if name != AUTO:
        return exporter.compress(base, Plan(name), asked.calibration, work / f"asked-{name}"), None
    from edgekd.pipeline import precision

    search = precision.Search(
        exporter, base, asked.selection, asked.calibration, asked.profile, work
    )
    choice, clock, best = precision.auto(search, asked.budget)
    return best, precision.as_rows(choice, asked.budget, clock, len(asked.selection))


def _score(
    loaded: Any, task: Any, bundle: Bundle, rows: list[dict[str, Any]], profile: Profile | None
) -> dict[str, Any]:
    from edgekd.evaluate.run import evaluate, predict
    from edgekd.infer import predict as predict_torch
    from edgekd.progress import track

    references = task.references(rows, loaded.labels)
    said = predict_torch(loaded, rows, task, "score the model")
    with track("score the bundle", len(rows)) as advance:
        runtime = profile.runtime.for_session() if profile else None
        outputs = predict(bundle, rows, runtime=runtime, progress=advance)
    return evaluate(task, loaded.labels, outputs, references, said).to_dict()


def _show(console: Any, document: dict[str, Any]) -> None:
    from edgekd.pipeline.precision import doubts
    from edgekd.report import units

    console.print(
        f"{document['bundle']}: {document['target']} {document['variant']},"
        f" {units.size(document['size_bytes'])}; outputs within"
        f" {document['relative_error']:.1e} of the model it was made from"
    )
    if "search" in document:
        chosen = document["search"]["chosen"]
        kept = ", ".join(chosen["kept"]) or "nothing"
        console.print(f"auto chose {chosen['precision']}; put back to float: {kept}")
        console.print(document["search"]["timing"]["note"])
        for doubt in doubts(document["search"]):
            console.print(f"[yellow]note:[/yellow] {doubt}")
    scored = document.get("evaluation")
    if scored:
        name, value = next(iter(scored["metrics"].items()))
        low, high = scored["retained_ci"]
        console.print(
            f"{name} {value:.4f} on {scored['n']:,} rows: {scored['retained']:.2%} of the model's"
            f" ({low:.1%} to {high:.1%}), the same decision on {scored['agreement']:.2%}"
        )
    for finding in document["findings"]:
        where = f" ({finding['where']})" if finding["where"] else ""
        console.print(f"{finding['level']}: {finding['message']}{where}")
