"""The stages that make bundles of a model; ``worth.py`` finds out what those are worth."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import exporter as exporters
from edgekd import profiles
from edgekd.bench import environment
from edgekd.bundle import Bundle
from edgekd.errors import InputError, nearest
from edgekd.exporter import AUTO, Exporter, Plan, Spec
from edgekd.pipeline.context import Context, spread
from edgekd.pipeline.stage import Done
from edgekd.profiles import Profile
from edgekd.progress import say
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
# What of a machine its kernels' numbers follow, and what its times do.
NUMBERS = ("cpu", "flags")
TIMES = (*NUMBERS, "cores", "usable_cores", "os")


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
    code = (*BUNDLING, "edgekd.pipeline.ship", package_of(exporter))
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
    code = (*BUNDLING, "edgekd.wrap", "edgekd.models", "edgekd.processors", package_of(exporter))
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

    depends = {"base": base.done, "plan": precision, "made_for": exporter.made_for(precision)}
    code = (*BUNDLING, package_of(exporter))
    done = context.run.stage(f"quantize-{Path(path).name}", depends, code, make, path)
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
        found = precision.as_rows(choice, budget, timed, len(search.selection))
        facts = _facts(exporter, Bundle.open(scratch / "output"))
        search_row = {"target": exporter.name, **found}
        return {**facts, "precision": kept.candidate.precision, "search": search_row}

    depends = {
        "base": base.done,
        "profile": profile,
        "max_drop": target.max_drop,
        "limits": limits,
        "machine": here(TIMES),
    }
    code = (*SCORING, "edgekd.search", "edgekd.pipeline.precision", package_of(exporter))
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


def here(fields: Sequence[str]) -> dict[str, Any]:
    """This machine: a run directory that was carried to another one is scored and timed again."""
    machine = environment.describe()
    return {name: machine.get(name) for name in fields}


def package_of(exporter: Exporter) -> str:
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
