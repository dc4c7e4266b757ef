"""Turn the stages' results into ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.pipeline import stages
from edgekd.pipeline.caveats import of_models, of_search
from edgekd.pipeline.context import Context
from edgekd.pipeline.learn import seed_folder
from edgekd.pipeline.ship import Built, budget_limits, chosen_profiles, not_searched
from edgekd.pipeline.stage import Done
from edgekd.profiles import Profile
from edgekd.report.document import (
    SCHEMA,
    Bench,
    BlindSpot,
    BundleRow,
    Calibration,
    Curve,
    Data,
    Document,
    Gain,
    Model,
    Shape,
    Shift,
    Stage,
)
from edgekd.report.folder import Folder
from edgekd.report.precision import Search
from edgekd.report.tuning import Tuning
from edgekd.report.verdict import Line, check, verdict

TRAINED_PER_SEED = ("student-no-kd", "student")
_SCORES = ("n", "metrics", "metrics_ci", "retained", "retained_ci", "agreement", "ece")


def assemble(
    context: Context,
    models: Mapping[str, Done],
    built: Sequence[Built],
    scores: Mapping[str, Done],
    benches: Mapping[str, Done],
    *,
    strict: bool = False,
    gate_projections: bool = False,
) -> Document:
    """Build the report document of a finished run."""
    rows = [_bundle_row(b, scores[b.path], benches) for b in built]
    lines, chosen = _judge(context, rows, benches, gate_projections)
    rows_read = context.run.done["data"].result
    tuned = context.run.done.get("tune")
    analysis = context.run.done["analysis"].result
    examined = context.run.done.get("shift")
    shift = Shift(**examined.result) if examined else None
    return Document(
        schema=SCHEMA,
        name=context.recipe.name,
        task=context.recipe.task,
        models=[
            model_row(name, done, analysis["by_seed"].get(name, ()))
            for name, done in models.items()
        ],
        bundles=rows,
        verdict=verdict(lines, strict=strict),
        chosen=chosen,
        folders=[
            Folder(**done.result["folder"])
            for done in context.run.done.values()
            if "folder" in done.result
        ],
        searches=[_search(context, b) for b in built if "search" in b.done.result],
        student=_shape(models["student"], rows),
        tuning=Tuning.model_validate(tuned.result) if tuned else None,
        gain=Gain(**analysis["gain"]) if analysis["gain"] else None,
        data=Data(
            source=_source_name(context.recipe.data.train),
            rows={k: v for k, v in rows_read["rows"].items() if v},
            classes=len(rows_read["labels"]),
            dropped_overlaps=rows_read["overlap"]["dropped"],
            duplicates=rows_read["duplicates"],
        ),
        shift=shift,
        blind_spots=[BlindSpot(**spot) for spot in analysis["blind_spots"]],
        calibration=[Calibration(**c) for c in analysis["calibration"]],
        curves=[
            Curve(model=name, name="loss", points=[(p["step"], p["loss"]) for p in curve])
            for name, done in models.items()
            if (curve := done.result.get("history"))
        ],
        stages=[
            Stage(name=d.name, seconds=d.seconds, reused=d.reused)
            for d in context.run.done.values()
        ],
        settings=_settings(context, models),
        environment=_environment(benches),
        recipe=(context.run.path / "recipe.yaml").read_text(encoding="utf-8"),
        warnings=[
            *context.warnings,
            *of_models(context, models),
            *(warning for b in built for warning in of_search(b.done.result.get("search"))),
            *([shift.sentence] if shift and shift.found else []),
        ],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def analyse(context: Context, models: Mapping[str, Done], labelled: Done) -> Done:
    """What distillation bought, what the student inherits, how calibrated the models are."""

    def make(scratch: Any) -> Mapping[str, Any]:
        from dataclasses import asdict

        from edgekd.evaluate.calibration import expected_calibration_error, reliability
        from edgekd.evaluate.classes import errors_by_class
        from edgekd.pipeline.signals import teacher_outputs

        labels = list(context.labels)
        references = context.task.references(context.test, labels)
        outputs: dict[str, Any] = {"teacher": dict(teacher_outputs(context))}
        outputs |= {name: _said(context, name) for name in models if name != "teacher"}
        task = context.task
        references = list(task.truth(references, outputs["teacher"]))
        spots = errors_by_class(task, outputs["student"], outputs["teacher"], references, labels)
        calibration = []
        for name, said in outputs.items():
            decisions = task.decisions(said, references)
            if decisions is not None:
                bins = reliability(*decisions)
                calibration.append(
                    {
                        "id": name,
                        "ece": expected_calibration_error(bins),
                        "bins": [asdict(b) for b in bins],
                    }
                )
        return {
            **_over_seeds(context, [m for m in models if m in TRAINED_PER_SEED], references),
            "blind_spots": [asdict(spot) for spot in spots],
            "calibration": calibration,
        }

    seeds = {name: done for name, done in context.run.done.items() if "-seed-" in name}
    depends = {"labelled": labelled, **models, **seeds}
    code = ("edgekd.evaluate", "edgekd.tasks", "edgekd.pipeline.document")
    return context.run.stage("analysis", depends, code, make)


def _over_seeds(context: Context, names: Sequence[str], references: Sequence[Any]) -> Any:
    """The main metric of each model by seed, and the gain of the student over its control."""
    from edgekd.evaluate.bootstrap import mcnemar
    from edgekd.evaluate.seeds import gain

    task, labels, seeds = context.task, list(context.labels), context.recipe.seeds
    metric = task.metrics(labels)[0]
    decoded = {
        name: [task.decode(_said(context, name, nth), labels) for nth in range(seeds)]
        for name in names
    }
    by_seed = {name: [metric(d, references) for d in each] for name, each in decoded.items()}
    if "student-no-kd" not in decoded:
        return {"by_seed": by_seed, "gain": None}
    with_kd, without = decoded["student"], decoded["student-no-kd"]
    better = ("student", "student-no-kd")[:: -1 if metric.lower_is_better else 1]
    # Above 0 the student is the better one, whichever way the metric runs.
    bought = gain(metric, decoded[better[0]], decoded[better[1]], references)
    pairs = zip(by_seed[better[0]], by_seed[better[1]], strict=True)
    found = {
        "metric": metric.name,
        "value": bought.value,
        "ci": (bought.ci_low, bought.ci_high),
        "seeds": seeds,
        "by_seed": [ours - theirs for ours, theirs in pairs],
    }
    if seeds == 1:  # the exact test compares two models, not two ways of training them
        right = [task.correct(said[0], references) for said in (with_kd, without)]
        found["p_value"] = mcnemar(*right).p_value
    return {"by_seed": by_seed, "gain": found}


def _said(context: Context, name: str, nth: int = 0) -> dict[str, np.ndarray]:
    """What a model that this run trained said about the test rows."""
    folder = context.run.path / seed_folder(name, nth)
    with np.load(folder / "test-outputs.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def model_row(name: str, done: Done, by_seed: Sequence[float] = ()) -> Model:
    """One row of the report's models, from the stage that made the model."""
    result = done.result
    return Model(
        id=name,
        seeds=max(1, len(by_seed)),
        by_seed=list(by_seed),
        params=result["params"],
        size_bytes=result["size_bytes"],
        source=result["source"],
        **{k: v for k, v in result["evaluation"].items() if k in _SCORES},
    )


def _search(context: Context, built: Built) -> Search:
    """What a search found, and under which of the recipe's profiles it did not look."""
    found = Search(bundle=built.path, **built.done.result["search"])
    if unsearched := not_searched(context, built.target):
        found.timing.note += f"; {unsearched}"
    return found


def _bundle_row(built: Built, scored: Done, benches: Mapping[str, Done]) -> BundleRow:
    facts = built.done.result
    rows = [
        Bench.model_validate(done.result["rows"][built.path])
        for done in benches.values()
        if built.path in done.result["rows"]
    ]
    return BundleRow(
        path=built.path,
        model=built.model,
        target=built.target,
        precision=built.precision,
        variant=facts["variant"],
        size_bytes=facts["size_bytes"],
        bundle_bytes=facts["bundle_bytes"],
        evidence=scored.result["evidence"],
        scored_on=scored.result["scored_on"],
        checks=scored.result["checks"],
        bench=rows,
        exact=facts["exact"],
        notes=facts["notes"],
        **{k: v for k, v in scored.result["evaluation"].items() if k in _SCORES},
    )


def _judge(
    context: Context,
    rows: Sequence[BundleRow],
    benches: Mapping[str, Done],
    gate_projections: bool = False,
) -> tuple[list[Line], str | None]:
    """Budget lines of the best bundle of each profile, and of targets that no profile times."""
    lines: list[Line] = []
    chosen: str | None = None
    students = [row for row in rows if row.model == "student"]
    timed = chosen_profiles(context)
    cases: list[tuple[str, Profile | None]] = [(profile.target, profile) for profile in timed]
    covered = {target for target, _ in cases}
    cases += [(target, None) for target in context.recipe.targets if target not in covered]
    for target, profile in cases:
        speedups = benches[profile.name].result["speedup"] if profile else {}
        limits = budget_limits(context.recipe.budget, profile)
        judged = [
            (row, _lines(limits, row, profile, speedups.get(row.path), gate_projections))
            for row in students
            if row.target == target
        ]
        if judged:
            row, found = min(judged, key=lambda pair: _rank(pair[0], pair[1], profile))
            lines += found
            chosen = chosen or row.path
    return lines, chosen


def _bench_of(row: BundleRow, profile: Profile | None) -> Bench | None:
    return next((b for b in row.bench if profile and b.profile == profile.name), None)


def _rank(row: BundleRow, lines: Sequence[Line], profile: Profile | None) -> tuple[float, ...]:
    """Fewest failed lines first, then fewest open ones, then the fastest, then the smallest.

    What is retained does not count: the test data reports and never chooses. Who wants the
    accuracy to decide asks for ``auto``, which has rows of its own to choose on.
    """
    fits = [line for line in lines if line.name != "retained"]
    failed = sum(line.status == "failed" for line in fits)
    open_lines = sum(line.status in ("inconclusive", "unchecked") for line in fits)
    bench = _bench_of(row, profile)
    p50 = bench.latency_ms.p50 if bench and bench.latency_ms else None
    return failed, open_lines, p50 or float("inf"), row.size_bytes


def _lines(
    limits: Mapping[str, float],
    row: BundleRow,
    profile: Profile | None,
    speedup: Sequence[float] | None,
    gate_projections: bool = False,
) -> list[Line]:
    """One line per limit. A value that was not measured there is unchecked, with the reason."""
    bench = _bench_of(row, profile)
    here = bench is not None and bench.evidence == "measured"
    why = bench.missing if bench else "no profile times it"
    latency = bench.latency_ms if bench else None
    projected = (latency.low, latency.high) if latency and latency.low and latency.high else None
    values: dict[str, tuple[str, Any, str | None]] = {
        "retained": ("retained", row.retained, row.evidence),
        "size": ("size", row.size_bytes, "measured"),
        "latency": ("latency_p50", latency.p50 if latency and here else projected, None),
        "speedup": ("speedup", speedup[0] if speedup and here else None, None),
        "memory": ("peak_memory", bench.peak_memory_bytes if bench and here else None, None),
        "load": ("load", bench.load_ms if bench and here else None, None),
    }
    lines = []
    for key, limit in limits.items():
        name, value, evidence = values[key]
        lines.append(
            check(
                name,
                limit,
                value,
                evidence=evidence or (bench.evidence if bench else None),
                profile=None if evidence or profile is None else profile.name,
                bundle=row.path,
                reason=why if value is None else None,
                gate_projections=gate_projections,
            )
        )
    return lines


def _source_name(source: str) -> str:
    """A data set in a report: its id, or folder and file without the way there."""
    return "/".join(Path(source).parts[-2:]) if Path(source).suffix else source.strip("/")


def _shape(student: Done, bundles: Sequence[BundleRow]) -> Shape | None:
    """The shape that was chosen, the true size of its smallest bundle beside the estimate."""
    chosen = student.result.get("shape")
    if not chosen:
        return None
    sizes = {b.precision: b.size_bytes for b in reversed(bundles) if b.model == "student"}
    return Shape(**chosen, built_bytes=sizes.get(chosen["precision"]))


def _settings(context: Context, models: Mapping[str, Done]) -> dict[str, Any]:
    distill = context.recipe.distill
    weights = {name: value for name, value in distill.weights.items() if value}
    method = context.task.method(distill.method, distill.top_k)
    heat = {"temperature": context.task.temperature(distill.temperature, method)}
    return {
        "method": method,
        **weights,
        **{f"losses.{n}": t.model_dump(exclude_none=True) for n, t in distill.losses.items()},
        **(heat if "temperature" in context.run.done["recipe"].result["reads"] else {}),
        "learning_rate": distill.learning_rate,
        "epochs": distill.epochs,
        "batch_size": distill.batch_size,
        "steps": models["student"].result["steps"],
        **({"steps of the stages before": spent} if (spent := stages.steps(context)) else {}),
        "gradient share at the first step": models["student"].result["gradient_shares"],
        "seed": context.recipe.seed,
    }


def _environment(benches: Mapping[str, Done]) -> dict[str, Any]:
    for done in benches.values():
        for row in done.result["rows"].values():
            return dict(row["details"]["environment"])
    return {}
