"""Recipe -> stages -> run directory: fit, label, tune, distil, export, quantize, score, bench.

A run killed anywhere continues where it was, and a stage whose inputs have not changed is not
run again. Reading order: ``stage.py`` (how a stage runs), ``context.py`` (what stages share),
``learn.py`` (models), ``tuning.py`` (their settings), ``shift.py`` (are served rows like the training
rows?), ``ship.py`` (bundles), ``worth.py`` (their scores and times), ``document.py`` (the report).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from edgekd.errors import InputError
from edgekd.pipeline import learn, shift, ship, stages, worth
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Done, Run
from edgekd.recipe import Recipe
from edgekd.report.document import Document
from edgekd.sections import Tune

__all__ = ["distill", "run", "tune"]


def run(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    strict: bool = False,
    gate_projections: bool = False,
) -> Document:
    """Run ``recipe`` (read from ``source``) in the directory ``out``; return its report.

    Raises :class:`InputError` for what the user can mend, before any training where it can be
    known by then; earlier results in ``out`` stay as they were.
    """
    with _locked(out) as lock:
        context = Context(recipe, Run(out), source.resolve().parent)
        ship.check_targets(context)
        shift.check(context)
        if recipe.tune is not None:
            _tuned(context, recipe.tune, source, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        models = _models(context)
        (out / "recipe.yaml").write_bytes(source.read_bytes())
        labelled = models["teacher"]
        shift.examine(context, labelled)
        built = ship.build(context, models)
        scores = {b.path: worth.score(context, b, labelled) for b in built}
        benches = {p.name: worth.bench(context, p, built) for p in ship.chosen_profiles(context)}
        rules = {"strict": strict, "gate_projections": gate_projections}
        return _report(context, models, built, scores, benches, labelled, rules)


def distill(recipe: Recipe, beside: Path, out: Path) -> dict[str, Any]:
    """The first half of :func:`run` alone: models, no bundles; return their scores as JSON."""
    with _locked(out):
        from edgekd.pipeline import document
        from edgekd.pipeline.caveats import of_models

        context = Context(recipe, Run(out), beside)
        models = _models(context)
        found = document.analyse(context, models, models["teacher"]).result
        rows = [document.model_row(name, done) for name, done in models.items()]
        warnings = [*context.warnings, *of_models(context, models)]
        shown = [row.model_dump(mode="json") for row in rows]
        return {"models": shown, **found, "warnings": warnings}


def tune(recipe: Recipe, source: Path, out: Path) -> dict[str, Any]:
    """Search the settings of ``recipe`` alone; return the report's ``tuning`` block as JSON.

    Several processes may do so in one ``out``: they share the study and its total of trials. What
    a study found is taken up by :func:`run` where the recipe has a ``tune`` section.
    """
    with _locked(out, shared=True) as lock:
        settings = recipe.tune or Tune()
        recipe = recipe.model_copy(update={"tune": settings})
        context = Context(recipe, Run(out), source.resolve().parent)
        return dict(_tuned(context, settings, source, lock).result)


def _tuned(context: Context, settings: Tune, source: Path, lock: IO[str]) -> Done:
    """Search, with others where they join, and put what was chosen into the recipe."""
    from edgekd.pipeline import tuning
    from edgekd.search.journal import locked

    search = tuning.Tuning(context, settings)
    search.check()
    with locked(search.folder / "prepare.lock"):  # who joins waits for the teacher, once
        _labelled(context)
    fcntl.flock(lock, fcntl.LOCK_SH)  # lets tuners in, and still no second run
    done = tuning.search(search, source)
    context.recipe = tuning.apply(context.recipe, done.result["values"])
    return done


def _labelled(context: Context) -> Done:
    """Read the rows, fit the teacher where there is none, and run it once over them."""
    stages.check(context)
    rows = learn.read(context)
    stages.rehearse(context, rows)
    return learn.label(context, rows, learn.fit_teacher(context, rows))


def _models(context: Context) -> dict[str, Done]:
    """Read, fit, label, train: a finished stage per row of the report's models."""
    labelled = _labelled(context)
    passed = stages.before_student(context, labelled)
    models = {"teacher": labelled, **passed.models}
    learn.check_objective(passed.context, passed.labelled)
    for nth in range(context.recipe.seeds):
        if context.recipe.distill.control and context.has_answers:
            done = learn.control(passed.alone, labelled, nth)
            models.setdefault("student-no-kd", done)
        models.setdefault("student", learn.student(passed.context, passed.labelled, nth))
    return models


def _report(
    context: Context,
    models: dict[str, Done],
    built: list[ship.Built],
    scores: dict[str, Done],
    benches: dict[str, Done],
    labelled: Done,
    rules: dict[str, bool],
) -> Document:
    from edgekd.pipeline import document
    from edgekd.report.card import model_card
    from edgekd.report.html import render

    document.analyse(context, models, labelled)
    report = document.assemble(context, models, built, scores, benches, **rules)
    report.write(context.run.path / "report.json")
    (context.run.path / "report.html").write_text(render(report), encoding="utf-8")
    teacher = context.recipe.teacher.model or context.recipe.teacher.base
    base = Path(teacher).name if teacher and Path(teacher).exists() else teacher
    card = model_card(report, license=context.recipe.license, base_model=base)
    (context.run.path / "student" / "README.md").write_text(card, encoding="utf-8")
    return report


@contextmanager
def _locked(out: Path, *, shared: bool = False) -> Iterator[IO[str]]:
    """Make ``out`` and lock it: two runs in it would tear each other's stages apart.

    Tuners share a lock among themselves, for their study is made to be shared.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "edgekd was started by a launcher of several processes (WORLD_SIZE); start it once, and"
            " say processes: 2 under distill: it starts them for the training alone"
        )
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write to the run directory {out}: {error.strerror}") from error
    with file as lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another edgekd is running in {out}; wait for it, or give another --out"
            ) from None
        yield lock
