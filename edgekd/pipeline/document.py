"""Turn the stages' results into ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from edgekd.pipeline.context import Context
from edgekd.pipeline.preflight import CUT_OFF
from edgekd.pipeline.ship import Built, chosen_profiles
from edgekd.pipeline.stage import Done
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
    Stage,
)
from edgekd.report.verdict import Line, Verdict, check, verdict

_SCORES = ("n", "metrics", "metrics_ci", "retained", "retained_ci", "agreement", "ece")
BLIND_SPOTS = 10  # classes that the report lists


def assemble(
    context: Context,
    models: Mapping[str, Done],
    built: Sequence[Built],
    scores: Mapping[str, Done],
    benches: Mapping[str, Done],
    *,
    strict: bool = False,
) -> Document:
    """Build the report document of a finished run."""
    rows = [_bundle_row(b, scores[b.path], benches) for b in built]
    lines, chosen = _judge(context, rows, benches)
    rows_read = context.run.done["data"].result
    analysis = context.run.done["analysis"].result
    return Document(
        schema=SCHEMA,
        name=context.recipe.name,
        task=context.recipe.task,
        models=[model_row(name, done) for name, done in models.items()],
        bundles=rows,
        verdict=_verdict(lines, strict),
        chosen=chosen,
        gain=Gain(**analysis["gain"]) if analysis["gain"] else None,
        data=Data(
            source=context.recipe.data.train,
            rows={k: v for k, v in rows_read["rows"].items() if v},
            classes=len(rows_read["labels"]),
            dropped_overlaps=rows_read["overlap"]["dropped"],
            duplicates=rows_read["duplicates"],
        ),
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
        warnings=[*context.warnings, *_warnings(context, models)],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def analyse(context: Context, models: Mapping[str, Done], labelled: Done) -> Done:
    """What distillation bought, what the student inherits, how calibrated the models are."""

    def make(scratch: Any) -> Mapping[str, Any]:
        from dataclasses import asdict

        from edgekd.evaluate.bootstrap import difference, mcnemar
        from edgekd.evaluate.calibration import expected_calibration_error, reliability
        from edgekd.evaluate.classes import blind_spots
        from edgekd.pipeline.learn import teacher_outputs

        labels = list(context.labels)
        references = context.task.references(context.test, labels)
        outputs: dict[str, Any] = {"teacher": dict(teacher_outputs(context))}
        for name in models:
            if name != "teacher":
                with np.load(context.run.path / name / "test-outputs.npz") as arrays:
                    outputs[name] = {key: arrays[key] for key in arrays.files}
        decoded = {name: context.task.decode(said, labels) for name, said in outputs.items()}
        metric = context.task.metrics(labels)[0]
        gain = None
        if "student-no-kd" in decoded:
            with_kd, without = decoded["student"], decoded["student-no-kd"]
            bought = difference(metric, with_kd, without, references)
            truth = np.asarray(references)
            test = mcnemar(np.asarray(with_kd) == truth, np.asarray(without) == truth)
            gain = {
                "metric": metric.name,
                "value": bought.value,
                "ci": (bought.ci_low, bought.ci_high),
                "p_value": test.p_value,
            }
        spots = blind_spots(references, decoded["student"], decoded["teacher"], labels)
        worst = sorted(spots, key=lambda spot: -spot.inherited)[:BLIND_SPOTS]
        calibration = []
        for name, said in outputs.items():
            chances = context.task.probabilities(said)
            if chances is not None:
                bins = reliability(chances, np.asarray(references))
                calibration.append(
                    {
                        "id": name,
                        "ece": expected_calibration_error(bins),
                        "bins": [asdict(b) for b in bins],
                    }
                )
        return {
            "gain": gain,
            "blind_spots": [asdict(spot) for spot in worst if spot.inherited],
            "calibration": calibration,
        }

    depends = {"labelled": labelled, **models}
    code = ("edgekd.evaluate", "edgekd.tasks", "edgekd.pipeline.document")
    return context.run.stage("analysis", depends, code, make)


def model_row(name: str, done: Done) -> Model:
    """One row of the report's models, from the stage that made the model."""
    result = done.result
    return Model(
        id=name,
        params=result["params"],
        size_bytes=result["size_bytes"],
        source=result["source"],
        **{k: v for k, v in result["evaluation"].items() if k in _SCORES},
    )


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
        bench=rows,
        exact=facts["exact"],
        notes=facts["notes"],
        **{k: v for k, v in scored.result["evaluation"].items() if k in _SCORES},
    )


def _judge(
    context: Context, rows: Sequence[BundleRow], benches: Mapping[str, Done]
) -> tuple[list[Line], str | None]:
    """Budget lines of the best bundle of each profile, and of targets that no profile times."""
    lines: list[Line] = []
    chosen: str | None = None
    students = [row for row in rows if row.model == "student"]
    timed = chosen_profiles(context)
    cases: list[tuple[str, str | None]] = [(p.target, p.name) for p in timed]
    covered = {target for target, _ in cases}
    cases += [(target, None) for target in context.recipe.targets if target not in covered]
    for target, profile in cases:
        candidates = [row for row in students if row.target == target]
        if not candidates:
            continue
        judged = [(row, _lines(context, row, profile, benches)) for row in candidates]
        row, found = min(judged, key=lambda pair: _rank(pair[0], pair[1], profile))
        lines += found
        chosen = chosen or row.path
    return lines, chosen


def _rank(row: BundleRow, lines: Sequence[Line], profile: str | None) -> tuple[float, ...]:
    """Fewest failed lines first, then fewest open ones, then the fastest, then the smallest."""
    failed = sum(line.status == "failed" for line in lines)
    open_lines = sum(line.status in ("inconclusive", "unchecked") for line in lines)
    p50 = next((b.latency_ms.p50 for b in row.bench if b.profile == profile and b.latency_ms), None)
    return failed, open_lines, p50 or float("inf"), row.size_bytes


def _lines(
    context: Context, row: BundleRow, profile: str | None, benches: Mapping[str, Done]
) -> list[Line]:
    budget = context.recipe.budget
    bench = next((b for b in row.bench if b.profile == profile), None)
    timed = bench.evidence if bench and bench.latency_ms else None
    ratio = benches[profile].result["speedup"].get(row.path) if profile else None
    here = timed == "measured"
    why = bench.missing if bench else "no profile times it"
    latency = bench.latency_ms.p50 if bench and bench.latency_ms else None
    values: dict[str, tuple[float | None, float | None, str | None]] = {
        "retained": (budget.retained, row.retained, row.evidence),
        "size": (budget.size, row.size_bytes, "measured"),
        "latency_p50": (budget.latency, latency if here else None, timed),
        "speedup": (budget.speedup, ratio[0] if ratio and here else None, timed),
        "peak_memory": (budget.memory, bench.peak_memory_bytes if bench and here else None, timed),
        "load": (budget.load, bench.load_ms if bench and here else None, timed),
    }
    return [
        check(
            name,
            limit,
            value,
            evidence=evidence,
            profile=profile,
            bundle=row.path,
            reason=why if value is None else None,
        )
        for name, (limit, value, evidence) in values.items()
        if limit is not None
    ]


def _verdict(lines: Sequence[Line], strict: bool) -> Verdict:
    return verdict(lines, strict=strict)


def _settings(context: Context, models: Mapping[str, Done]) -> dict[str, Any]:
    distill = context.recipe.distill
    return {
        "temperature": distill.temperature,
        "soft_weight": distill.soft_weight,
        "hard_weight": distill.hard_weight,
        "learning_rate": distill.learning_rate,
        "epochs": distill.epochs,
        "batch_size": distill.batch_size,
        "steps": models["student"].result["steps"],
        "seed": context.recipe.seed,
    }


def _environment(benches: Mapping[str, Done]) -> dict[str, Any]:
    for done in benches.values():
        for row in done.result["rows"].values():
            return dict(row["details"]["environment"])
    return {}


def _warnings(context: Context, models: Mapping[str, Done]) -> list[str]:
    found = []
    overlap = context.run.done["data"].result["overlap"]
    if overlap["dropped"]:
        found.append(
            f"{overlap['dropped']} training rows also stand in the test data; they were dropped from"
            " training"
        )
    cut = models["teacher"].result.get("cut", 0.0)
    if cut > CUT_OFF:
        found.append(f"{cut:.1%} of the training rows are longer than the teacher reads: cut off")
    return found
