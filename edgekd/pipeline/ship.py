"""The stages that make bundles of a model and find out what they are worth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import exporter as exporters
from edgekd import profiles
from edgekd.bench import environment
from edgekd.bundle import Bundle
from edgekd.errors import InputError, nearest
from edgekd.exporter import AUTO, Exporter, Plan, Runtime, Spec
from edgekd.pipeline.context import Context, spread
from edgekd.pipeline.stage import Done
from edgekd.profiles import Profile
from edgekd.progress import say, track
from edgekd.sections import Budget, Target

BUNDLING = (
    "edgekd.bundle",
    "edgekd.exporter",
    "edgekd.publish",
    "edgekd.preprocess",
    "edgekd.audio",
    "edgekd.program",
    "edgekd.passes",
)
SCORING = (*BUNDLING, "edgekd.evaluate", "edgekd.tasks", "edgekd.pipeline.ship")
CALIBRATION = 128  # training rows that set activation ranges


@dataclass(frozen=True)
class Built:
    """A bundle of this run: whose it is, where it lies, how it was made."""

    model: str  # "teacher" or "student"
    target: str
    precision: str
    path: str  # inside the run directory
    done: Done


def check_targets(context: Context) -> None:
    """Refuse an unknown target, precision or profile before anything is trained."""
    for name, target in context.recipe.targets.items():
        exporter = exporters.get(name)
        known = exporter.precisions(_spec(context, target, exporter))
        for precision in target.precisions:
            if precision not in (*known, AUTO):
                raise InputError(
                    f"targets.{name}.precisions: unknown precision '{precision}'"
                    f"{nearest(precision, known)}; {name} offers {', '.join(known)}"
                )
        _check_slots(exporter, [p for p in dict.fromkeys(target.precisions) if p != AUTO])
    chosen_profiles(context)


def _check_slots(exporter: Exporter, precisions: Sequence[str]) -> None:
    """Refuse two precisions that would be one file of the folder with all of them."""
    slots: dict[str, str] = {}
    for precision in precisions:
        slot = exporter.slot(precision)
        if slot is not None and slots.setdefault(slot, precision) != precision:
            raise InputError(
                f"targets.{exporter.name}.precisions: {slots[slot]} and {precision} are both"
                f" '{slot}' in one folder; name one of them"
            )


def chosen_profiles(context: Context) -> list[Profile]:
    """The recipe's profiles; each must run a target that the recipe exports."""
    loaded = [profiles.load(name, context.beside) for name in context.recipe.profiles]
    for profile in loaded:
        if profile.target not in context.recipe.targets:
            raise InputError(
                f"the profile '{profile.name}' runs {profile.target} bundles, and the recipe has no"
                f" target {profile.target}; add it under targets:, or drop the profile"
            )
    return loaded


def profiles_of(context: Context, target: str) -> list[Profile]:
    """The recipe's profiles that run ``target``, in its order."""
    return [profile for profile in chosen_profiles(context) if profile.target == target]


def build(context: Context, models: Mapping[str, Done]) -> list[Built]:
    """Export each model to each target: the float bundle, then what is compressed from it.

    The teacher's float bundle is made where a profile will time it beside the student's.
    """
    timed = {p.target for p in chosen_profiles(context)}
    built = []
    for name, target in context.recipe.targets.items():
        exporter = exporters.get(name)
        wanted = list(dict.fromkeys(target.precisions or exporter.default_precisions))
        if name in timed:
            built.append(_export(context, exporter, target, "teacher", models["teacher"]))
        base = _export(context, exporter, target, "student", models["student"])
        if base.precision in wanted:
            built.append(base)
        for precision in wanted:
            if precision == AUTO:
                built.append(_automatic(context, exporter, base, target))
            elif precision != base.precision:
                built.append(_compress(context, exporter, base, precision))
        _combine(context, exporter, [b for b in built if (b.model, b.target) == ("student", name)])
    return built


def _combine(context: Context, exporter: Exporter, built: Sequence[Built]) -> None:
    """Where the target has folders of several precisions, also one with all that were asked for.

    What auto chose may want the slot of a named one, which nobody could know before: the first
    has it, and what is left out is said."""
    slots: dict[str | None, Built] = {}
    for one in built:
        slots.setdefault(exporter.slot(one.precision), one)
    if None in slots or len(slots) < 2:
        return
    path = f"bundles/{exporter.name}"
    left = [one for one in built if one is not slots[exporter.slot(one.precision)]]
    for one in left:
        slot = exporter.slot(one.precision)
        say(
            f"  {path} has {slots[slot].precision} as '{slot}' already, so {one.precision} is left"
            f" out of it: {one.path} has it alone"
        )
    holds = {slot: one.path for slot, one in slots.items()}
    known = {"path": path, "target": exporter.name, "left_out": [one.path for one in left]}

    def make(scratch: Path) -> Mapping[str, Any]:
        bundles = [Bundle.open(context.run.path / one.path) for one in slots.values()]
        size = exporter.combine(bundles, scratch / "output").bundle_bytes
        return {"folder": {**known, "bundle_bytes": size, "holds": holds}}

    depends = {"bundles": {one.path: one.done for one in slots.values()}, "known": known}
    code = (*BUNDLING, "edgekd.pipeline.ship", _package(exporter))
    context.run.stage(f"combine-{exporter.name}", depends, code, make, path)


def _export(context: Context, exporter: Exporter, target: Target, model: str, made: Done) -> Built:
    spec = _spec(context, target, exporter)
    precision = exporter.precisions(spec)[0]
    shapes = "" if spec.shapes.name == "dynamic" else f"-{spec.shapes.name}"
    suffix = "-teacher" if model == "teacher" else ""
    path = f"bundles/{exporter.name}-{precision}{shapes}{suffix}"

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.wrap import wrap

        loaded = context.teacher if model == "teacher" else context.model("student")
        score = made.result["evaluation"]["metrics"]
        program = wrap(
            loaded.model,
            context.task,
            loaded.preprocessor,
            loaded.labels,
            context.examples(),
            {"model": model, "source": made.result["source"], "test_metrics": score},
        )
        return _facts(exporter, exporter.lower(program, spec, scratch / "output"))

    depends = {"model": made, "spec": repr(spec)}
    code = (*BUNDLING, "edgekd.wrap", "edgekd.models", "edgekd.processors", _package(exporter))
    name = f"export-{Path(path).name}"
    return Built(
        model, exporter.name, precision, path, context.run.stage(name, depends, code, make, path)
    )


def _compress(context: Context, exporter: Exporter, base: Built, precision: str) -> Built:
    path = base.path.replace(f"-{base.precision}", f"-{precision}", 1)

    def make(scratch: Path) -> Mapping[str, Any]:
        bundle = Bundle.open(context.run.path / base.path)
        rows = spread(context.train, CALIBRATION)
        made = exporter.compress(bundle, Plan(precision), rows, scratch / "output")
        return _facts(exporter, made)

    code = (*BUNDLING, _package(exporter))
    done = context.run.stage(
        f"quantize-{Path(path).name}", {"base": base.done, "plan": precision}, code, make, path
    )
    return Built("student", exporter.name, precision, path, done)


def _automatic(context: Context, exporter: Exporter, base: Built, target: Target) -> Built:
    """The fastest bundle within the target's max_drop and the budget's latency and size, searched
    on the selection split. Where nothing fits, the closest goes on, and the verdict says no."""
    path = base.path.replace(f"-{base.precision}", f"-{AUTO}", 1)
    given = next(iter(profiles_of(context, exporter.name)), None)
    profile = given or profiles.here(exporter.name)
    limits = budget_limits(context.recipe.budget, given)
    if unsearched := not_searched(context, exporter.name):
        say(f"  {exporter.name} auto: {unsearched}")

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.pipeline import precision
        from edgekd.pipeline.signals import truth
        from edgekd.search.precision import closest
        from edgekd.search.trial import Budget as Allowed

        search = precision.Search(
            exporter,
            Bundle.open(context.run.path / base.path),
            context.selection,
            spread(context.train, CALIBRATION),
            profile,
            scratch,
            references=truth(context, context.selection),
        )
        timed = precision.clock(exporter, search.base, profile)
        latency = limits.get("latency") if timed.evidence == "measured" and given else None
        budget = Allowed(target.max_drop, latency, limits.get("size"))
        choice = precision.find(search, budget, timed)
        kept = choice.chosen or closest(choice.trials, budget)
        shutil.copytree(search.bundle(kept.candidate).path, scratch / "output")
        found = precision.as_rows(choice, budget, timed)
        facts = _facts(exporter, Bundle.open(scratch / "output"))
        search_row = {"target": exporter.name, **found}
        return {**facts, "precision": kept.candidate.precision, "search": search_row}

    depends = {"base": base.done, "profile": profile, "max_drop": target.max_drop, "limits": limits}
    code = (*SCORING, "edgekd.search", "edgekd.pipeline.precision", _package(exporter))
    done = context.run.stage(f"search-{Path(path).name}", depends, code, make, path)
    return Built("student", exporter.name, done.result["precision"], path, done)


def not_searched(context: Context, target: str) -> str | None:
    """One line where ``auto`` leaves profiles of the target out: one search ships one bundle."""
    names = [profile.name for profile in profiles_of(context, target)]
    if len(names) < 2:
        return None
    others = ", ".join(names[1:])
    return (
        f"searched under {names[0]} alone, by its times and limits; under {others} another"
        " precision may be the fastest, or this one over a limit"
    )


def budget_limits(own: Budget, profile: Profile | None) -> dict[str, Any]:
    """The recipe's budget, and where it is silent the profile's; no more memory than its cap."""
    given = profile.budget.model_dump(exclude_none=True) if profile else {}
    limits = given | own.model_dump(exclude_none=True)
    if profile and profile.memory_cap:
        limits["memory"] = min(limits.get("memory", profile.memory_cap), profile.memory_cap)
    return limits


def _spec(context: Context, target: Target, exporter: Exporter) -> Spec:
    from edgekd.program import Shapes

    recipe = context.recipe
    metadata = {"name": recipe.name, "task": recipe.task}
    if recipe.license:
        metadata["license"] = recipe.license
    if recipe.author:
        metadata["author"] = recipe.author
    return Spec(
        shapes=Shapes(target.batch, tuple(target.lengths)),
        compute="fp32" if "fp32" in target.precisions else exporter.default_compute,
        deployment=target.deployment,
        metadata=metadata,
        options=target.options,
    )


def _package(exporter: Exporter) -> str:
    """The package that an exporter lives in: its source is part of the stage's fingerprint."""
    return ".".join(type(exporter).__module__.split(".")[:2])


def _facts(exporter: Exporter, bundle: Bundle) -> Mapping[str, Any]:
    manifest = bundle.manifest
    findings = exporter.check(bundle)
    return {
        "variant": manifest.variant,
        "size_bytes": bundle.size_bytes,
        "bundle_bytes": bundle.bundle_bytes,
        "relative_error": manifest.provenance.get("relative_error"),
        "exact": exporter.inspect(bundle),
        "notes": [f"{f.message}{f' ({f.where})' if f.where else ''}" for f in findings],
    }


def score(context: Context, built: Built, labelled: Done) -> Done:
    """Run the bundle over every test row; keep its outputs and what they are worth.

    It runs as the first profile of its target that opens it: a provider or a device has numerics
    of its own.
    """
    name = Path(built.path).name
    bundle = Bundle.open(context.run.path / built.path)
    mine = profiles_of(context, built.target)
    profile = next((p for p in mine if _opens(p, bundle)), None)
    runtime = profile.runtime.for_session() if profile else Runtime()

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.evaluate.run import evaluate, run_session
        from edgekd.pipeline.signals import teacher_outputs

        labels = bundle.manifest.labels
        session = exporters.get(built.target).open(bundle, runtime)
        try:
            with track(f"score {name}", len(context.test)) as advance:
                outputs = run_session(session, bundle, context.test, progress=advance)
            kind, where = session.kind, _where(session.describe())
        finally:
            session.close()
        references = context.task.references(context.test, labels)
        said = teacher_outputs(context)
        found = evaluate(context.task, labels, outputs, references, said)
        with (scratch / "output").open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        evidence = "measured" if kind == "native" else "reference"
        return {"evidence": evidence, "scored_on": where, "evaluation": found.to_dict()}

    depends = {"bundle": built.done, "labelled": labelled, "runtime": asdict(runtime)}
    code = (*SCORING, _package(exporters.get(built.target)))
    return context.run.stage(f"score-{name}", depends, code, make, f"evaluations/{name}.npz")


def _where(described: Mapping[str, Any]) -> str:
    """``onnxruntime 1.32.0, CPUExecutionProvider``"""
    runtime = f"{described.get('runtime', '')} {described.get('version', '')}".strip()
    device = described.get("device") or described.get("provider")
    return ", ".join(filter(None, (runtime, device)))


def _opens(profile: Profile, bundle: Bundle) -> bool:
    """Whether the profile's runtime asks for a model that this bundle has."""
    exporter = exporters.get(profile.target)
    try:
        exporter.opened(bundle, profile.runtime.for_session())
    except InputError:
        return False
    return True


def bench(context: Context, profile: Profile, built: Sequence[Built]) -> Done:
    """Time every bundle that the profile runs, in one interleaved run of fresh processes.

    A profile may ask for one of a folder's models by name: then for the bundles that are that one.
    """
    mine = []
    for one in (b for b in built if b.target == profile.target):
        if _opens(profile, Bundle.open(context.run.path / one.path)):
            mine.append(one)
        else:
            say(f"  {one.path} is not what the runtime of {profile.name} asks for: not timed")
    if not mine:
        raise InputError(
            f"no bundle is what the runtime of the profile '{profile.name}' asks for"
            f" ({profile.runtime.options}); add its precision to targets.{profile.target}, or drop"
            " the option"
        )

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.bench.measure import compare

        paths = {b.path: context.run.path / b.path for b in mine}
        found = compare(paths, profile, context.test)
        raw = {name: m.to_dict() for name, m in found.measurements.items()}
        (scratch / "output").write_text(json.dumps({"schema": "edgekd.bench/1", "bundles": raw}))
        teacher = next((b.path for b in mine if b.model == "teacher"), None)
        ratios = {}
        for path in paths:
            ratio = found.ratio(teacher, path) if teacher and path != teacher else None
            if ratio is not None:
                ratios[path] = [ratio.value, ratio.low, ratio.high]
        rows = {name: m.to_dict(raw=False) for name, m in found.measurements.items()}
        return {"rows": rows, "speedup": ratios}

    # Times are of this machine: a run directory that was carried elsewhere is timed again.
    machine = environment.describe()
    here = {key: machine.get(key) for key in ("cpu", "flags", "cores", "usable_cores", "os")}
    depends = {"profile": profile, "machine": here, "bundles": {b.path: b.done for b in mine}}
    code = (
        "edgekd.bench",
        "edgekd.pipeline.ship",
        "edgekd.bundle",
        "edgekd.preprocess",
        "edgekd.audio",
    )
    return context.run.stage(
        f"bench-{profile.name}", depends, code, make, f"bench/{profile.name}.json"
    )
