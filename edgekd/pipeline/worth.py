"""What bundles are worth: their answers to the test rows, in every runtime, and their times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import exporter as exporters
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Runtime
from edgekd.pipeline.context import Context
from edgekd.pipeline.ship import NUMBERS, SCORING, TIMES, Built, here, package_of, profiles_of
from edgekd.pipeline.stage import Done
from edgekd.profiles import Profile
from edgekd.progress import say, track


def score(context: Context, built: Built, labelled: Done) -> Done:
    """Run the bundle over every test row; keep its outputs and what they are worth.

    It runs as the first profile of its target that opens it: a provider or a device has numerics
    of its own. Where the target has other runtimes for the same files, they run the rows as well.
    """
    name = Path(built.path).name
    exporter, bundle = exporters.get(built.target), Bundle.open(context.run.path / built.path)
    mine = profiles_of(context, built.target)
    profile = next((p for p in mine if opens(p, bundle)), None)
    runtime = profile.runtime.for_session() if profile else Runtime()

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.evaluate.cross import compare
        from edgekd.evaluate.run import evaluate, run_session
        from edgekd.pipeline.signals import teacher_outputs

        labels = bundle.manifest.labels
        session = exporter.open(bundle, runtime)
        try:
            with track(f"score {name}", len(context.test)) as advance:
                outputs = run_session(session, bundle, context.test, progress=advance)
            kind, where = session.kind, _where(session.describe())
        finally:
            session.close()
        references = context.task.references(context.test, labels)
        said = teacher_outputs(context)
        found = evaluate(context.task, labels, outputs, references, said)
        truth = context.task.truth(references, said)
        # The teacher's is a bar that nobody ships, and the most expensive to ask about.
        shipped = built.model != "teacher"
        others = exporter.cross_check(bundle, context.test, runtime) if shipped else ()
        checks = [compare(context.task, labels, outputs, truth, each) for each in others]
        with (scratch / "output").open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        evidence = "measured" if kind == "native" else "reference"
        scores = {"evaluation": found.to_dict(), "checks": checks}
        return {"evidence": evidence, "scored_on": where, **scores}

    depends = {
        "bundle": built.done,
        "labelled": labelled,
        "runtime": asdict(runtime),
        "machine": here(NUMBERS),
    }
    code = (*SCORING, "edgekd.pipeline.worth", package_of(exporter))
    return context.run.stage(f"score-{name}", depends, code, make, f"evaluations/{name}.npz")


def _where(described: Mapping[str, Any]) -> str:
    """``onnxruntime 1.32.0, CPUExecutionProvider``"""
    runtime = f"{described.get('runtime', '')} {described.get('version', '')}".strip()
    device = described.get("device") or described.get("provider")
    return ", ".join(filter(None, (runtime, device)))


def opens(profile: Profile, bundle: Bundle) -> bool:
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
        if opens(profile, Bundle.open(context.run.path / one.path)):
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

    bundles = {b.path: b.done for b in mine}
    depends = {"profile": profile, "machine": here(TIMES), "bundles": bundles}
    code = (
        "edgekd.bench",
        "edgekd.pipeline.worth",
        "edgekd.bundle",
        "edgekd.preprocess",
        "edgekd.audio",
    )
    return context.run.stage(
        f"bench-{profile.name}", depends, code, make, f"bench/{profile.name}.json"
    )
