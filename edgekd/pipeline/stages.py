"""The stages before the student: assistants, and a student that first learns the language.

A teacher much larger than its student teaches it worse than a model between the two does
(Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020,
arXiv:1902.03393): each stage's model is the next one's teacher, and what it says is stored under
its own revision. A stage with a task of its own (fill-mask, on text without labels) is a small run
by itself; its weights are what the next stage's student starts from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgekd import tasks
from edgekd.errors import InputError
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Done, Run
from edgekd.sections import Stage, Student, Teacher

_ROWS = ("test", "_train_and_overlap", "_split", "unlabelled", "labels")  # of every stage alike


@dataclass(frozen=True)
class Passed:
    """What the stages before the student leave to it."""

    context: Context  # its teacher is the last assistant
    alone: Context  # of the control: the same student, of models that learned nothing
    labelled: Done  # what the last assistant said
    models: dict[str, Done]  # the assistants, by name


def check(context: Context) -> None:
    """Refuse what a recipe alone says cannot be trained, of every stage, before any row is read.

    What was found good stands in a record: a run that changes nothing does not import torch.
    """
    recipe = context.recipe
    each: list[Stage | None] = [*recipe.stages] or [None]

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.distill import subwords
        from edgekd.distill.precision import in_bf16
        from edgekd.distill.terms import reads, terms

        for stage in each:
            own = recipe.of(stage) if stage else recipe
            task = tasks.get(own.task)
            reads_text = task.default_columns.keys() & {"text", "tokens"}
            with _named(stage):
                if "bf16" in (own.distill.precision, own.teacher.fit.precision):
                    in_bf16("bf16")
                weights, _ = terms(own.distill, task)
                if own.distill.subword_dropout:
                    subwords.check(task, weights)
                if own.teacher.fit.subword_dropout:
                    subwords.check(task)
                if own.student.vocabulary == "trim" and not reads_text:
                    raise InputError("student.vocabulary: trim needs a text task; drop the key")
        return {"reads": sorted(reads(recipe.distill, context.task))}

    sections = {"task", "distill", "teacher", "student", "stages"}
    code = ("edgekd.distill", "edgekd.tasks", "edgekd.pipeline.stages")
    context.run.stage("recipe", {"recipe": recipe.model_dump(include=sections)}, code, make)


def rehearse(context: Context, rows: Done) -> None:
    """Refuse what a stage cannot be taught by before any is: plan each on untrained models."""
    stages = context.recipe.stages

    def make(scratch: Path) -> Mapping[str, Any]:
        teacher, start = learn.untaught(context), None
        for stage in stages:
            with _named(stage):
                if stage.task is not None:
                    inner = _inner(context, stage)
                    student = learn.plan_untrained(inner, learn.untaught(inner))
                    start = str(scratch / stage.name)
                    student.save(Path(start))
                    continue
                spec = _starting(stage, start) if start else stage.student
                here = _follow(context, context, student=spec, distill=stage.distill)
                teacher, start = learn.plan_untrained(here, teacher), None
        return {}

    depends = {
        "rows": rows,
        "stages": [stage.model_dump() for stage in stages],
        "teacher": context.recipe.teacher.model_dump(),
        "model": context.identity(context.recipe.teacher.model or context.recipe.teacher.base),
        "seed": context.recipe.seed,
    }
    if stages:
        context.run.stage("rehearsal", depends, learn.TRAINING, make)


def before_student(context: Context, labelled: Done) -> Passed:
    """Train every stage but the last; without any, the student learns from the teacher itself.

    Beside each stage's model stands the same one untrained: of those the control is made.
    """
    stages = context.recipe.stages
    if not stages:
        return Passed(context, context, labelled, {})
    here = alone = _follow(context, context, student=stages[0].student)
    models: dict[str, Done] = {}
    heard = labelled
    data = context.recipe.data.model_copy(update={"signals": None})  # a shared store: the teacher's
    for stage, following in pairwise(stages):
        if stage.task is not None:
            inner = _language(context, stage)
            start, bare = (str(inner.run.path / name) for name in ("student", "untrained"))
            here = _follow(context, here, student=_starting(following, start))
            alone = _follow(context, alone, student=_starting(following, bare))
            continue
        taught = _follow(context, here, distill=stage.distill)
        models[stage.name] = learn.assistant(taught, heard, stage.name)
        learn.untrained(alone, labelled, f"untrained-{stage.name}")
        # A language stage makes its own student: nothing is made of this assistant then.
        spec = Student() if following.task else following.student
        here, alone = (
            _follow(
                context,
                one,
                student=spec,
                teacher=Teacher(model=str(context.run.path / name)),
                data=data,
            )
            for one, name in ((here, stage.name), (alone, f"untrained-{stage.name}"))
        )
        rows = context.run.done["data"]
        heard = learn.label(here, rows, models[stage.name], f"label-{stage.name}")
    return Passed(here, alone, heard, models)


def steps(context: Context) -> dict[str, int]:
    """Optimizer steps of each stage before the last, which the control does not get."""
    done = context.run.done
    return {
        stage.name: (done.get(stage.name) or done[f"{stage.name}/student"]).result["steps"]
        for stage in context.recipe.stages[:-1]
    }


def _language(context: Context, stage: Stage) -> Context:
    """Distil a stage that has a task and rows of its own, in a run directory inside this one's."""
    inner = _inner(context, stage)
    inner.run.path.mkdir(exist_ok=True)
    rows = learn.read(inner)
    labelled = learn.label(inner, rows, learn.fit_teacher(inner, rows))
    learn.student(inner, labelled)
    learn.untrained(inner, labelled)
    for warning in inner.warnings:
        context.warn(f"stage '{stage.name}': {warning}")
    for name, done in inner.run.done.items():
        context.run.done[f"{stage.name}/{name}"] = replace(done, name=f"{stage.name}/{name}")
    del context.inner[stage.name]  # with its rows and its teacher
    return inner


def _inner(context: Context, stage: Stage) -> Context:
    """The run that a stage with a task is by itself; its rows are read once."""
    if stage.name not in context.inner:
        run = Run(context.run.path / stage.name)
        context.inner[stage.name] = Context(context.recipe.of(stage), run, context.beside)
    return context.inner[stage.name]


def _follow(first: Context, context: Context, **sections: Any) -> Context:
    """One stage: other ``sections``, the same rows, judged by the ``first`` one's teacher."""
    recipe = context.recipe.model_copy(update={**sections, "stages": []})
    found = replace(context, recipe=recipe, judge=first)
    for name in _ROWS:
        found.__dict__[name] = getattr(first, name)
    return found


@contextmanager
def _named(stage: Stage | None) -> Iterator[None]:
    """Say which ``stage`` it is that is refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"stage '{stage.name}': {error}" if stage else str(error)) from error


def _starting(stage: Stage, model: str) -> Student:
    """The student of a ``stage``, made of ``model`` instead of its teacher."""
    return stage.student.model_copy(update={"model": model})
