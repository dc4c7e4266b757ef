"""``tune``: hand the search its score function, and turn what it chose into a recipe.

A trial trains the student with one setting on what the teacher said, which the signal store
holds, and is scored after each epoch on labelled rows that no trial learns from: the recipe's
selection rows, or a tenth of its training rows. A teacher that the run fits does not learn from
them either. The test rows take no part. What was chosen is then trained on every training row by
:func:`edgekd.pipeline.run`, as if the recipe had said so.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from edgekd import data, tasks
from edgekd.errors import InputError
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context, hold_out
from edgekd.pipeline.searched import check, default_space
from edgekd.pipeline.signals import stored, truth
from edgekd.pipeline.stage import Done, fingerprint
from edgekd.pipeline.training import cutters_of, plan
from edgekd.preprocess import Row
from edgekd.progress import say
from edgekd.recipe import Recipe
from edgekd.search.hyperparameters import Report, Study, Trial
from edgekd.search.journal import locked
from edgekd.sections import Distill, Student, Tune
from edgekd.space import Space, plain

if TYPE_CHECKING:
    from edgekd.tasks.base import Metric

FOLDER = "tune"
_SOURCES = ("train", "test", "selection", "unlabelled")


@dataclass
class Tuning:
    """The search that a recipe asks for, in the folder ``tune`` of its run directory."""

    context: Context
    settings: Tune

    @property
    def folder(self) -> Path:
        return self.context.run.path / FOLDER

    @cached_property
    def own(self) -> dict[str, Any]:
        """The recipe's own value of everything that is searched."""
        recipe, task = self.context.recipe, self.context.task
        method = task.method(recipe.distill.method, recipe.distill.top_k)
        values = {
            **recipe.distill.model_dump(),
            "method": method,
            "temperature": task.temperature(recipe.distill.temperature, method),
            "losses": plain(recipe.distill.losses),
            "student": plain(recipe.student),
        }
        return {name: values[name] for name in self.space}

    @cached_property
    def space(self) -> Space:
        return self.settings.space or default_space(self.context)

    @cached_property
    def study(self) -> Study:
        recipe = self.context.recipe
        depends = {
            "task": recipe.task,
            "data": recipe.data.model_dump(exclude={*_SOURCES, "served", "signals"}),
            "sources": [self.context.identity(getattr(recipe.data, s)) for s in _SOURCES],
            "held out": self.context.chooses,
            "teacher": recipe.teacher.model_dump(exclude={"model", "base"}),
            "model": self.context.identity(recipe.teacher.model or recipe.teacher.base),
            "student": recipe.student.model_dump(exclude={"model"}),
            "start": self.context.identity(recipe.student.model),
            "distill": recipe.distill.model_dump(exclude={"control"}),
            "seed": recipe.seed,
            "space": {name: asdict(values) for name, values in self.space.items()},
            "epochs": self.settings.epochs,
            "rows": self.settings.rows,
        }
        code = (*learn.TRAINING, "edgekd.search", "edgekd.pipeline.tuning")
        return Study(
            self.folder,
            fingerprint(depends, code),
            self.space,
            self.own,
            maximise=not self.metric.lower_is_better,
            seed=recipe.seed,
        )

    @cached_property
    def metric(self) -> Metric:
        return self.context.task.metrics(list(self.context.labels))[0]

    @cached_property
    def held_out(self) -> Sequence[Row]:
        """Labelled rows that score a trial: none of them is learned from in one."""
        context = self.context
        held = context.selection or hold_out(context.train, context.task)[1]
        if not held:
            raise InputError(
                f"tune: no rows are left to choose on ({len(context.train)} training rows); give"
                " data.selection"
            )
        return held

    @cached_property
    def learned_from(self) -> Sequence[Row]:
        """Rows that a trial trains on: with ``rows`` a sample of them, the same for every trial."""
        context = self.context
        if not context.selection:  # nor are variants of what is held out for the trials alone
            context = copy.copy(context)
            context.__dict__["_split"] = hold_out(context.train, context.task)
            context.__dict__.pop("unlabelled", None)
        every = [*context.train, *context.unlabelled]
        rows = data.drop_overlap(every, self.held_out, allow=True)[0]
        count = self.settings.rows or len(rows)
        order = sorted(range(len(rows)), key=lambda i: data.content_key(rows[i]))
        return [rows[i] for i in sorted(order[:count])]

    @cached_property
    def references(self) -> list[Any]:
        return truth(self.context, self.held_out)

    def check(self) -> None:
        """Refuse what cannot be tried, before any training.

        Raises :class:`InputError` for a study of something else in the folder, for epochs that
        the cap would hide, for a method that the task does not have, and for a recipe of stages.
        """
        if self.context.recipe.stages:
            raise InputError(
                "tune searches the step from a teacher to its student, and this recipe has stages"
                " between them; tune without stages, then copy tune/chosen.yaml"
            )
        check(self.context, self.settings, self.space)
        self.study.join()

    def score(self, number: int, values: Mapping[str, Any], report: Report) -> bool:
        """Train the student with ``values``; whether it came to the end of its epochs."""
        from edgekd.distill import trainer
        from edgekd.distill.examples import Examples
        from edgekd.infer import predict

        _ = self.context.teacher, self.context.max_length  # loaded once, before they are shared
        trial = copy.copy(self.context)
        trial.recipe = apply(self.context.recipe, values, self.settings.epochs)
        # Trials run side by side (jobs), each in one process.
        distill = trial.recipe.distill.model_copy(update={"processes": 1})
        seed = trial.recipe.seed
        student = learn.fresh_student(trial, self.learned_from, seed)
        objective = plan(trial, distill, student)
        with locked(self.folder / "label.lock"):  # intermediate signals are stored at first need
            signals = stored(trial, self.learned_from, objective.teacher)
        cuts = cutters_of(student, distill, self.learned_from, seed)
        examples = Examples(
            self.learned_from, trial.task, student.preprocessor, student.labels, signals, cuts
        )
        scores: list[float] = []
        said: dict[str, np.ndarray] = {}
        fell_behind = False
        sign = -1 if self.metric.lower_is_better else 1

        def after_epoch(epoch: int) -> bool:
            nonlocal said, fell_behind
            now = predict(student, self.held_out, trial.task, f"score trial {number}")
            value = self.metric(trial.task.decode(now, list(student.labels)), self.references)
            if distill.keep == "best" and scores and sign * value < sign * scores[-1]:
                value = scores[-1]  # the epoch that a run would keep is an earlier one
            else:
                said = now
            scores.append(value)
            # The last epoch is over: there is nothing left to save by stopping.
            fell_behind = report(scores[-1]) and len(scores) < distill.epochs
            return fell_behind

        with TemporaryDirectory(dir=self.folder, prefix=f"trial-{number}-") as scratch:
            trainer.train(
                student.model,
                examples,
                objective,
                distill,
                seed=seed,
                folder=Path(scratch),
                what=f"trial {number}",
                after_epoch=after_epoch,
            )
        _write(self.outputs(number), said)
        end = ", fell behind" if fell_behind else ""
        say(f"trial {number}: {self.metric.name} {scores[-1]:.4f}{end}")
        return not fell_behind

    def outputs(self, number: int) -> Path:
        """What the student of a trial said about the held-out rows."""
        return self.folder / "outputs" / f"{number}.npz"

    def result(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """The ``tuning`` block of the report."""
        from edgekd.evaluate.bootstrap import difference, estimate

        chosen = self.study.choose(trials)
        decoded = {n: self._decoded(n) for n in {0, chosen.number}}
        score = estimate(self.metric, decoded[chosen.number], self.references)
        gain = difference(self.metric, decoded[chosen.number], decoded[0], self.references)
        return {
            "metric": self.metric.name,
            "lower_is_better": self.metric.lower_is_better,
            "held_out": len(self.held_out),
            "rows": len(self.learned_from),
            "epochs": self.settings.epochs,
            "space": {name: asdict(values) for name, values in self.space.items()},
            "trials": [
                {**asdict(t), "values": used(self.context.recipe, t.values)} for t in trials
            ],
            "chosen": chosen.number,
            "values": used(self.context.recipe, chosen.values),
            "score": score.value,
            "score_ci": (score.ci_low, score.ci_high),
            "gain": gain.value,
            "gain_ci": (gain.ci_low, gain.ci_high),
            "importance": self.study.importance(),
        }

    def _decoded(self, number: int) -> list[Any]:
        with np.load(self.outputs(number)) as arrays:
            said = {name: arrays[name] for name in arrays.files}
        return self.context.task.decode(said, list(self.context.labels))


def search(tuning: Tuning, source: Path) -> Done:
    """Run the study to its end; ``source`` is the recipe's file, which other processes read."""
    settings, run = tuning.settings, tuning.context.run
    before = tuning.study.trials()
    with _helpers(tuning, source):
        trials = tuning.study.run(tuning.score, settings.trials, settings.timeout)
    for leftover in tuning.folder.glob("trial-*"):  # of trials whose process was killed
        if not any(trial.state == "running" for trial in trials):
            shutil.rmtree(leftover, ignore_errors=True)
    result = tuning.result(trials)
    _write_chosen(tuning.folder / "chosen.yaml", result["values"])
    seconds = round(sum(trial.seconds or 0.0 for trial in trials), 2)
    done = Done(FOLDER, tuning.study.identity, seconds, result, reused=trials == before)
    run.done[FOLDER] = done
    return done


def apply(recipe: Recipe, values: Mapping[str, Any], epochs: int | None = None) -> Recipe:
    """``recipe`` with the values of a trial; ``epochs`` is the most it may train.

    A temperature or a layer map that no loss reads with these values is left out.
    """
    from edgekd.distill.terms import reads

    values = dict(values)
    student = values.pop("student", None)
    try:
        distill = Distill.model_validate({**recipe.distill.model_dump(), **values})
        shape = recipe.student if student is None else Student.model_validate(student)
    except ValidationError as error:  # each value is fine by itself, together they are not
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"this setting cannot be trained: {message}") from error
    unread = {"temperature", "layer_map"} - reads(distill, tasks.get(recipe.task))
    distill = distill.model_copy(update=dict.fromkeys(unread))
    if epochs is not None:
        distill = distill.model_copy(update={"epochs": min(epochs, distill.epochs)})
    return recipe.model_copy(update={"distill": distill, "student": shape})


def used(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without a temperature that was drawn for losses that have none."""
    try:
        unread = {"temperature"} if apply(recipe, values).distill.temperature is None else set()
    except InputError:  # a setting that could not be trained
        unread = set()
    return {name: value for name, value in values.items() if name not in unread}


@contextmanager
def _helpers(tuning: Tuning, source: Path) -> Iterator[None]:
    """Other processes that join the study, ended with this one; the cores are shared out."""
    import os

    import torch

    settings = tuning.settings
    options = {
        "--out": tuning.context.run.path,
        "--trials": settings.trials,
        "--timeout": settings.timeout,
        "--epochs": settings.epochs,
        "--rows": settings.rows,
        "--jobs": 1,
    }
    given = [part for name, v in options.items() if v is not None for part in (name, str(v))]
    before = torch.get_num_threads()
    threads = max(1, before // settings.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "edgekd", "tune", str(source), *given]
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(settings.jobs - 1)
    ]
    torch.set_num_threads(threads)
    try:
        yield
        for process in started:
            process.wait()
    finally:
        torch.set_num_threads(before)
        for process in started:
            process.terminate()
            process.wait()


def _write_chosen(path: Path, values: Mapping[str, Any]) -> None:
    """The choice as sections of a recipe, to be copied into one."""
    import yaml

    sections = {"distill": {k: v for k, v in values.items() if k != "student"}}
    sections |= {k: v for k, v in values.items() if k == "student"}
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    partial.replace(path)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)
