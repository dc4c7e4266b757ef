"""The stages that make models: read the data, fit the teacher, label, distil, score."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import data
from edgekd.errors import InputError
from edgekd.infer import predict
from edgekd.pipeline import preflight, shape
from edgekd.pipeline.context import Context
from edgekd.pipeline.signals import label_rows, teacher_outputs
from edgekd.pipeline.stage import Done
from edgekd.pipeline.training import finish, fit, plan, train, weight_bytes
from edgekd.preprocess import Row
from edgekd.progress import say
from edgekd.sections import Control, Training

if TYPE_CHECKING:
    from edgekd.models import LoadedModel
    from edgekd.sections import Distill, Student

READING = (
    "edgekd.audio",
    "edgekd.blocks",
    "edgekd.data",
    "edgekd.media",
    "edgekd.preprocess",
    "edgekd.sources",
    "edgekd.tasks",
    "edgekd.pipeline.context",
)
MODELS = (
    *READING,
    "edgekd.models",
    "edgekd.processors",
    "edgekd.infer",
    "edgekd.evaluate",
    "edgekd.pipeline.learn",
    "edgekd.pipeline.preflight",
    "edgekd.pipeline.signals",
)
TRAINING = (
    *MODELS,
    "edgekd.distill",
    "edgekd.signals",
    "edgekd.pipeline.keep",
    "edgekd.pipeline.shape",
    "edgekd.pipeline.training",
    "edgekd.search.shape",
)
SOURCES = ("train", "test", "selection", "unlabelled", "served", "signals")


def read(context: Context) -> Done:
    """Read and check every row; the result counts them."""
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        labels = list(context.labels)
        if not recipe.data.allow_empty_classes and context.task.answer == "label" and labels:
            data.check_classes(context.train, labels, recipe.data.train)
        context.task.references(context.test, labels)
        seen = {data.content_key(row) for row in context.train}
        return {
            "labels": labels,
            "rows": {
                "train": len(context.train),
                "selection": len(context.selection),
                "test": len(context.test),
                "unlabelled": len(context.unlabelled),
            },
            "overlap": vars(context.overlap),
            "duplicates": len(context.train) - len(seen),
        }

    depends = {
        "task": recipe.task,
        # What the sources say, not where they lie: a moved folder changes nothing.
        "data": recipe.data.model_dump(exclude=set(SOURCES)),
        "train": context.identity(recipe.data.train),
        "selection": context.identity(recipe.data.selection) or context.chooses,
        "test": context.identity(recipe.data.test),
        "unlabelled": context.identity(recipe.data.unlabelled),
        "teacher": context.identity(recipe.teacher.model),
    }
    done = context.run.stage("data", depends, READING, make)
    names = done.result["labels"]
    if context.task.answer == "tags" and all(name.isdigit() for name in names):
        context.warn(
            "the tags are numbers, so words are scored and not entities; list the names that they"
            " stand for under data.labels"
        )
    return done


def fit_teacher(context: Context, rows: Done) -> Done | None:
    """Train the teacher on the labels where the recipe gives a base model or a config."""
    spec = context.recipe.teacher
    if spec.model is not None:
        return None
    if not context.has_answers:
        raise InputError(
            "a teacher is fitted on labels, and the training rows have none; give a label column,"
            " or a teacher.model that needs no fitting"
        )

    def make(scratch: Path) -> Mapping[str, Any]:
        teacher = untaught(context)
        shape.check(context, teacher)
        if not context.recipe.stages:  # theirs were rehearsed
            plan_untrained(context, teacher)
        _cut_off(context, teacher, context.train, "teacher")
        return train(context, teacher, spec.fit, scratch, "teacher", context.recipe.seed)

    depends = {
        "rows": rows,
        "teacher": spec.model_dump(exclude={"base"}),
        "base": context.identity(spec.base),
        "seed": context.recipe.seed,
    }
    return context.run.stage("teacher", depends, TRAINING, make, output="teacher")


def untaught(context: Context) -> LoadedModel:
    """The teacher as it is before :func:`fit_teacher`, which a fine-tuned one does not need."""
    import torch

    from edgekd import models
    from edgekd.processors import fresh_preprocessor

    spec, task, labels = context.recipe.teacher, context.task, list(context.labels)
    if spec.model is not None:
        return context.teacher
    torch.manual_seed(context.recipe.seed)  # a base model gets a fresh head
    if spec.base is not None:
        where, length = context.locate(spec.base), context.recipe.data.max_length
        return models.load(where, task, revision=spec.revision, max_length=length, labels=labels)
    config = spec.config or {}
    encoder = context.encoder if spec.vocabulary else fresh_preprocessor(context.train, config)
    return models.from_config(config, task, task.prepare(encoder), labels, context.recipe.seed)


def label(context: Context, rows: Done, fitted: Done | None, name: str = "label") -> Done:
    """Run the teacher once over every row and keep what it said; check that it knows the task.

    Test rows are kept in float32, for what is retained is computed from them; the rows that the
    student learns from in the task's own dtype, mostly float16.
    """
    recipe = context.recipe
    whose = name.removeprefix("label-") if context.judge else "teacher"

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.evaluate.run import evaluate

        teacher, labels = context.teacher, list(context.labels)
        shape.check(context, teacher)
        learned_from = [*context.train, *context.unlabelled]
        cut = _cut_off(context, teacher, learned_from, whose)
        label_rows(context, "test", context.test, "float32")
        said = teacher_outputs(context)
        references = context.task.references(context.test, labels)
        references = list(context.task.truth(references, said))
        source = None if context.judge else recipe.teacher.model  # an assistant was trained here
        vocabulary = getattr(teacher.model.config, "vocab_size", 0)
        preflight.teacher_knows(context.task, said, references, labels, source, vocabulary)
        label_rows(context, context.learned, learned_from, context.task.signal_dtype)
        result = {
            "params": teacher.parameters,
            "revision": teacher.revision,
            "size_bytes": weight_bytes(teacher.source) or _memory_bytes(teacher),
            "source": shape.named(recipe.teacher.model or recipe.teacher.base),
            "evaluation": evaluate(context.task, labels, said, references).to_dict(),
            "longest": context.longest_row or 0,
            "cut": cut,
            "frequency": preflight.by_frequency(context.task, said, context.train, teacher),
        }
        if warning := preflight.dull(result, whose):
            say(f"  {warning}")
        return result

    depends = {
        "rows": rows,
        "store": context.learned,
        "teacher": fitted or context.identity(recipe.teacher.model),
        "revision": recipe.teacher.revision,
    }
    done = context.run.stage(name, depends, (*MODELS, "edgekd.signals"), make)
    for warning in (
        preflight.cut_off(done.result["cut"], whose),
        preflight.dull(done.result, whose),
    ):
        if warning:
            context.warn(warning)  # said when it was found
    return done


def _cut_off(context: Context, model: LoadedModel, rows: Sequence[Row], whose: str) -> float:
    """Share of ``rows`` that ``model`` does not read to the end; said here where it matters."""
    if context.task.over_vocabulary:  # running text is cut into blocks, and nothing of it is lost
        return 0.0
    share = preflight.share_cut_off(model.preprocessor, rows)
    if warning := preflight.cut_off(share, whose):
        say(f"  {warning}")
    return share


def check_objective(context: Context, labelled: Done) -> Done:
    """Refuse what the student cannot be taught by, before its control is trained."""

    def make(scratch: Path) -> Mapping[str, Any]:
        plan_untrained(context, context.teacher)
        return {}

    recipe = context.recipe
    depends = _depends(context, labelled, "student", recipe.distill, recipe.seed)
    return context.run.stage("objective", depends, TRAINING, make)


def plan_untrained(context: Context, teacher: LoadedModel) -> LoadedModel:
    """Plan the objective for ``teacher``, which may not have been fitted yet; return the student."""
    rows = [*context.train, *context.unlabelled]  # read before the copy, which shares them then
    trial = copy.copy(context)
    trial.__dict__["teacher"] = teacher
    student = fresh_student(trial, rows, context.recipe.seed)
    plan(trial, context.recipe.distill, student)
    return student


def assistant(context: Context, labelled: Done, name: str) -> Done:
    """Distil a model between teacher and student; it lies in the run directory under ``name``."""
    return _student(context, labelled, name, 0, context.recipe.distill)


def untrained(context: Context, labelled: Done, name: str = "untrained") -> Done:
    """The student as it was before it learned anything, for a control to start from."""
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        fresh = fresh_student(context, [*context.train, *context.unlabelled], recipe.seed)
        fresh.save(scratch / "output")
        return {"params": fresh.parameters}

    depends = _depends(context, labelled, "student-no-kd", recipe.distill, recipe.seed)
    return context.run.stage(name, depends, TRAINING, make, output=name)


def student(context: Context, labelled: Done, nth: int = 0) -> Done:
    """Distil the student from the stored signals, with the ``nth`` of the recipe's seeds.

    The first one is the student that ships; the others say how much the seed matters.
    """
    return _student(context, labelled, "student", nth, context.recipe.distill)


def control(context: Context, labelled: Done, nth: int = 0) -> Done:
    """Train the same student for the same steps on the labels alone."""
    settings, tried = context.recipe.distill, None
    if isinstance(settings.control, Control):
        tried = control_rate(context, labelled, settings.control)
        settings = settings.model_copy(update={"learning_rate": tried.result["learning_rate"]})
    return _student(context, labelled, "student-no-kd", nth, settings, None if nth else tried)


def control_rate(context: Context, labelled: Done, spec: Control) -> Done:
    """The learning rate that serves the control best, on the held-out rows and the first seed.

    What was trained with it is the control of that seed, and is kept.
    """
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        scores: dict[str, float] = {}
        best: dict[str, Any] = {}
        metric = context.task.metrics(context.labels)[0]
        references = context.task.references(context.selection, list(context.labels))
        for rate in spec.learning_rates:
            model = fresh_student(context, [*context.train, *context.unlabelled], recipe.seed)
            settings = recipe.distill.model_copy(update={"learning_rate": rate})
            outcome, kept = fit(
                context, model, settings, scratch / f"{rate:g}", "student-no-kd", recipe.seed
            )
            said = predict(model, context.selection, context.task, f"score at {rate:g}")
            score = metric(context.task.decode(said, model.labels), references)
            scores[f"{rate:g}"] = score
            sign = -1 if metric.lower_is_better else 1
            if not best or sign * score > sign * scores[f"{best['learning_rate']:g}"]:
                best = {"learning_rate": rate, "outcome": asdict(outcome), "kept": kept}
                model.save(scratch / "output")
        return {**best, "scores": scores}

    # The student's own rate is none of these: another one leaves what was found.
    anyone = recipe.distill.model_copy(update={"learning_rate": spec.learning_rates[0]})
    depends = {
        "rates": spec.learning_rates,
        **_depends(context, labelled, "student-no-kd", anyone, recipe.seed),
    }
    return context.run.stage("control-rate", depends, TRAINING, make, output="control-rate")


def seed_folder(name: str, nth: int) -> str:
    """Where the ``nth`` training of a model lies in the run directory."""
    return f"seeds/{name}-{nth}" if nth else name


def fresh_student(
    context: Context, rows: Sequence[Row], seed: int, spec: Student | None = None
) -> LoadedModel:
    """The untrained student; ``rows`` say which pieces a trimmed vocabulary keeps.

    ``spec`` is the recipe's with its shape spelt out, where the caller has it already.
    """
    import torch

    from edgekd.distill.student import build

    spec = spec or shape.resolve(context, rows).student
    if spec.model is not None:
        spec = spec.model_copy(update={"model": context.locate(spec.model)})
    teacher, length = context.teacher, context.max_length or 0  # loading may draw random numbers
    torch.manual_seed(seed)  # student and control start from the same weights
    return build(spec, teacher, context.task, rows, length, seed)


def _student(
    context: Context,
    labelled: Done,
    name: str,
    nth: int,
    settings: Distill,
    tried: Done | None = None,
) -> Done:
    """``tried`` is a stage that has trained this very model already."""
    recipe = context.recipe
    seed = recipe.seed + nth

    def make(scratch: Path) -> Mapping[str, Any]:
        learned_from = [*context.train, *context.unlabelled]
        chosen = shape.resolve(context, learned_from)
        if tried is None:
            fresh = fresh_student(context, learned_from, seed, chosen.student)
            cut = _cut_off(context, fresh, learned_from, "student")
            result = train(context, fresh, settings, scratch, name, seed)
        else:
            fresh, found = context.model(tried.name), tried.result
            cut = _cut_off(context, fresh, learned_from, "student")
            result = finish(context, fresh, found["outcome"], found["kept"], scratch, name)
        source = shape.describe(chosen.student, context.teacher)
        return {
            **result,
            "source": source,
            "learning_rate": settings.learning_rate,
            "shape": chosen.to_dict(),
            "cut": cut,
        }

    depends = {**_depends(context, labelled, name, settings, seed), "tried": tried}
    stage = f"{name}-seed-{nth}" if nth else name
    return context.run.stage(stage, depends, TRAINING, make, output=seed_folder(name, nth))


def _depends(
    context: Context, labelled: Done, name: str, settings: Distill, seed: int
) -> dict[str, Any]:
    """What a student or its control is made of."""
    recipe = context.recipe
    # The control does not depend on how the teacher is listened to.
    control = name == "student-no-kd"
    fields = Training.model_fields if control else type(settings).model_fields
    values = set(fields) - {"control"}
    return {
        "labelled": labelled,
        # Of stages: the model that this one is made of, for a control is not what was heard.
        "made of": context.identity(recipe.teacher.model) if context.judge else None,
        "student": recipe.student.model_dump(exclude={"model"}),
        "precision": shape.smallest_precision(recipe) if recipe.student.size_mb else None,
        "model": context.identity(recipe.student.model),
        "distill": settings.model_dump(include=values),
        # A target's length counts only where it is more than the rows ask for anyway.
        "length": max(labelled.result["longest"], context.longest_target),
        "seed": seed,
    }


def _memory_bytes(model: LoadedModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.model.parameters())
