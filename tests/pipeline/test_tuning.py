"""Tuning the digits for real: what chooses, what is excluded, what a run takes over."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.data import content_key
from edgekd.distill.augment import widen
from edgekd.errors import InputError
from edgekd.pipeline.context import Context
from edgekd.pipeline.searched import check, default_space
from edgekd.pipeline.stage import Run
from edgekd.pipeline.tuning import Tuning, apply, used
from edgekd.report.document import Document
from edgekd.report.html import render
from edgekd.sections import Tune
from edgekd.space import Choices, Range

Write = Callable[..., Path]
SPACE = {
    "learning_rate": {"low": 1e-3, "high": 2e-2, "log": True},
    "temperature": [2, 4],
    "method": ["softened_kl", "dist", "logit_mse"],
    "losses": [{"decoupled_kl": 0.5}, {}],
    "student": [{"layers": [0]}, {"layers": [0, 1]}],
}
TUNE = {"trials": 3, "rows": 300, "space": SPACE}


@pytest.fixture(scope="module")
def tuned(
    digits_recipe: Write, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Document]]:
    """A whole run that tunes first, with two seeds."""
    folder = tmp_path_factory.mktemp("tuned")
    path = digits_recipe(folder, tune=TUNE, seeds=2, targets={})
    yield path, pipeline.run(recipes.load(path), path, folder / "run")


def search(path: Path, out: Path) -> Tuning:
    recipe = recipes.load(path)
    return Tuning(Context(recipe, Run(out), path.parent), recipe.tune or Tune())


def test_a_run_trains_what_was_chosen(tuned: tuple[Path, Document]) -> None:
    path, report = tuned
    tuning = report.tuning
    assert tuning is not None and [t.number for t in tuning.trials] == [0, 1, 2]
    own, chosen = tuning.trials[0], tuning.trials[tuning.chosen]
    given = {"learning_rate": 5e-3, "temperature": 2.0, "losses": {}, "student": {"layers": [0]}}
    assert own.values == given | {"method": "softened_kl"}
    for trial in tuning.trials:  # a temperature stands where a loss of the trial has one
        softened = trial.values["losses"] or trial.values["method"] != "logit_mse"
        assert ("temperature" in trial.values) == bool(softened)
    assert not all("temperature" in trial.values for trial in tuning.trials)
    assert own.state == "complete" and chosen.score is not None and own.score is not None
    assert chosen.score == max(t.score or 0 for t in tuning.trials if t.state == "complete")
    assert tuning.score == pytest.approx(chosen.score)
    assert tuning.gain == pytest.approx(chosen.score - own.score)
    assert report.settings["learning_rate"] == chosen.values["learning_rate"]
    assert report.settings.get("temperature") == chosen.values.get("temperature")
    assert report.data is not None
    # The teacher is fitted here: it knows no row that chose.
    assert tuning.rows == 300 and report.data.rows["train"] + tuning.held_out == 1347
    assert report.data.rows["selection"] == tuning.held_out
    layers = chosen.values["student"]["layers"]
    config = json.loads((path.parent / "run" / "student" / "config.json").read_text())
    assert config["num_hidden_layers"] == len(layers)
    written = yaml.safe_load((path.parent / "run" / "tune" / "chosen.yaml").read_text())
    assert written["student"] == chosen.values["student"]
    assert written["distill"]["learning_rate"] == chosen.values["learning_rate"]
    assert {stage.name for stage in report.stages} >= {"tune", "student", "student-seed-1"}


def test_what_chooses_is_neither_trained_on_nor_test_data(tuned: tuple[Path, Document]) -> None:
    path, report = tuned
    found = search(path, path.parent / "run")
    held, learned, test = (
        {content_key(row) for row in rows}
        for rows in (found.held_out, found.learned_from, found.context.test)
    )
    assert not held & learned and not held & test and not learned & test
    assert report.tuning is not None and len(found.held_out) == report.tuning.held_out


def test_rows_are_held_out_of_trials_alone_where_the_teacher_is_given(
    digits_recipe: Write, vit_dir: Path, tmp_path: Path
) -> None:
    path = digits_recipe(tmp_path, teacher=str(vit_dir), tune=TUNE)
    found = search(path, tmp_path / "run")
    assert len(found.context.train) == 1347 and not found.context.selection
    held = {content_key(row) for row in found.held_out}
    assert held and not held & {content_key(row) for row in found.learned_from}


def test_the_best_epoch_counts_where_the_recipe_keeps_it(
    tuned: tuple[Path, Document], tmp_path: Path
) -> None:
    path, _ = tuned
    run = tmp_path / "run"
    shutil.copytree(path.parent / "run", run)
    curves, kept = {}, {}
    for keep in ("last", "best"):
        found = search(path, run)
        distill = {"epochs": 6, "learning_rate": 0.3, "keep": keep}
        found.context.recipe = apply(found.context.recipe, distill)
        curves[keep] = curve = []
        found.score(7, {}, lambda value, curve=curve: curve.append(value) or False)
        kept[keep] = found.metric(found._decoded(7), found.references)
    assert curves["last"] != sorted(curves["last"])  # it does fall somewhere
    assert curves["best"] == np.maximum.accumulate(curves["last"]).tolist()
    assert kept == {keep: curve[-1] for keep, curve in curves.items()}


def test_no_variant_of_what_chooses_is_trained_on(digits_recipe: Write, tmp_path: Path) -> None:
    data = {"train": "builtin:digits/train", "test": "builtin:digits/test"}
    path = digits_recipe(tmp_path, data={**data, "augment": {"copies": 1}}, tune={"trials": 1})
    found = search(path, tmp_path / "run")
    learned = {content_key(row) for row in found.learned_from}
    variants = widen(found.held_out, 1, test=[], seed=found.context.recipe.seed)
    assert variants and not learned & {content_key(row) for row in variants}
    assert len(learned) > 1.8 * (1347 - len(found.held_out))  # the others' are


def test_the_teacher_saw_each_row_once(tuned: tuple[Path, Document]) -> None:
    from edgekd.signals.store import SignalStore

    path, _ = tuned
    (store,) = (path.parent / "run" / "signals").glob("train-*")
    found = search(path, path.parent / "run")
    assert len(SignalStore.open(store)) == len(found.context.train) == 1347 - len(found.held_out)
    assert not list((path.parent / "run" / "signals").glob("intermediate-*"))


def test_the_gain_is_over_seeds_and_the_first_one_ships(tuned: tuple[Path, Document]) -> None:
    path, report = tuned
    gain, student = report.gain, report.model("student")
    assert gain is not None and student is not None
    assert gain.seeds == student.seeds == 2 and gain.p_value is None
    assert gain.value == pytest.approx(np.mean(gain.by_seed))
    assert student.metrics["accuracy"] == pytest.approx(student.by_seed[0])
    control = report.model("student-no-kd")
    assert control is not None
    pairs = zip(student.by_seed, control.by_seed, strict=True)
    assert gain.by_seed == pytest.approx([a - b for a, b in pairs])
    run = path.parent / "run"
    said = [np.load(run / f / "test-outputs.npz")["logits"] for f in ("student", "seeds/student-1")]
    assert not np.array_equal(*said)


def test_the_report_shows_every_trial(tuned: tuple[Path, Document]) -> None:
    path, report = tuned
    page = render(Document.read(path.parent / "run" / "report.json"))
    assert "How the settings were chosen" in page and page.count('data-label="Trial"') == 3
    assert "Accuracy of 3 trials" in page  # the title of the plot, read aloud
    assert "and 2 training seeds" in page
    assert report.tuning is not None
    assert all(t.curve and t.seconds for t in report.tuning.trials)


def test_a_finished_study_is_not_searched_again(
    tuned: tuple[Path, Document], capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = tuned
    found = pipeline.tune(recipes.load(path), path, path.parent / "run")
    assert report.tuning is not None
    assert json.loads(json.dumps(found)) == report.tuning.model_dump(mode="json")
    assert "trial" not in capsys.readouterr().err


def test_a_study_of_another_recipe_is_refused(
    tuned: tuple[Path, Document], digits_recipe: Write, tmp_path: Path
) -> None:
    path, _ = tuned
    out = path.parent / "run"
    other = digits_recipe(tmp_path, tune=TUNE, distill={"epochs": 1, "learning_rate": 1e-3})
    with pytest.raises(InputError, match="of another recipe, data or version"):
        pipeline.tune(recipes.load(other), other, out)
    # What does not bear on a trial may change: here more of them.
    more = digits_recipe(tmp_path / "more", tune={**TUNE, "trials": 4}, budget={"size": "2 MB"})
    assert search(more, out).study.identity == search(path, out).study.identity


def test_tuners_join_one_another_but_no_run(tuned: tuple[Path, Document]) -> None:
    path, _ = tuned
    out = path.parent / "run"
    with (out / ".lock").open() as tuner:
        fcntl.flock(tuner, fcntl.LOCK_SH)
        assert len(pipeline.tune(recipes.load(path), path, out)["trials"]) == 3
        with pytest.raises(InputError, match="another edgekd is running"):
            pipeline.run(recipes.load(path), path, out)
        fcntl.flock(tuner, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another edgekd is running"):
            pipeline.tune(recipes.load(path), path, out)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"epochs": 2, "space": {"epochs": [2, 4]}}, "ends every trial at 2"),
        ({"space": {"method": ["softend_kl"]}}, "did you mean 'softened_kl'"),
        ({"space": {"method": ["logit_mse"], "temperature": [2, 4]}}, "no method that is tried"),
        ({"space": {"losses": [{"dist": 0}], "soft_weight": [0]}}, "nothing would be learned"),
        ({"space": {"losses": [{}, {"dits": 0.5}]}}, "tune.space.losses.*did you mean 'dist'"),
        (
            {"space": {"losses": [{"softened_kl": 0.5}], "soft_weight": [1, 2]}},
            "already has the weight 1 from soft_weight",
        ),
        ({"space": {"losses": [{"dist": {"wieght": 1}}]}}, "'dist' has settings but no weight"),
        ({"space": {"subword_dropout": [0.1, 0.3]}}, "tune.space: subword_dropout needs a text"),
    ],
)
def test_what_cannot_be_told_apart_or_tried_is_refused_first(
    digits_recipe: Write, tmp_path: Path, tune: dict[str, Any], message: str
) -> None:
    path = digits_recipe(tmp_path, tune=tune)
    with pytest.raises(InputError, match=message):
        pipeline.tune(recipes.load(path), path, tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()


def test_words_are_not_cut_in_trials_that_would_fail_for_it(
    digits_recipe: Write, tmp_path: Path
) -> None:
    text = {"task": "text-classification", "data": {"train": "a.csv", "test": "b.csv"}}

    def checked(distill: dict[str, Any], space: dict[str, Any]) -> None:
        path = digits_recipe(tmp_path, **text, distill=distill, tune={"space": space}, targets={})
        settings = recipes.load(path).tune
        context = Context(recipes.load(path), Run(tmp_path), tmp_path)
        assert settings and settings.space
        check(context, settings, settings.space)

    for distill, space in (
        ({"hidden_weight": 1}, {"subword_dropout": [0, 0.3]}),
        ({}, {"subword_dropout": [0, 0.3], "relation_weight": [0, 1]}),
        ({"subword_dropout": 0.3}, {"attention_weight": [0, 1]}),
    ):
        with pytest.raises(InputError, match=r"^tune.space: subword_dropout cuts words"):
            checked(distill, space)
    checked({}, {"subword_dropout": [0, 0.3], "embedding_weight": [0, 1]})
    checked({"hidden_weight": 1}, {"subword_dropout": [0]})


def test_values_that_do_not_go_together_fail_their_trial(
    digits_recipe: Write, tmp_path: Path
) -> None:
    recipe = recipes.load(digits_recipe(tmp_path))
    with pytest.raises(InputError, match="nothing would be learned"):
        apply(recipe, {"soft_weight": 0.0, "hard_weight": 0.0})
    capped = apply(recipe, {"epochs": 9, "temperature": 3.0}, epochs=4)
    assert (capped.distill.epochs, capped.distill.temperature) == (4, 3.0)
    assert apply(recipe, {"student": {"layers": [1]}}).student.layers == [1]
    assert apply(recipe, {"losses": {"dist": {"weight": 0.5}}}).distill.losses["dist"].weight == 0.5
    # What the method of a trial does not read is none of its settings.
    assert apply(recipe, {"method": "logit_mse", "temperature": 3.0}).distill.temperature is None
    assert apply(recipe, {"layer_map": [(0, 0)], "hidden_weight": 0.0}).distill.layer_map is None
    assert used(recipe, {"method": "logit_mse", "temperature": 3.0}) == {"method": "logit_mse"}
    for values in ({"temperature": 3.0}, {"soft_weight": 0.0, "temperature": 3.0}):
        assert used(recipe, values) == values


def test_losses_that_go_with_one_of_the_methods_are_tried(
    digits_recipe: Write, tmp_path: Path
) -> None:
    """And so is a temperature that only one of these losses has, if it weighs anything."""
    heat = {"temperature": [2, 4]}
    spaces: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"method": "logit_mse"}, {"losses": [{"logit_mse": 1}], "method": ["dist", "logit_mse"]}),
        ({"method": "logit_mse"}, {"losses": [{}, {"dist": 1}]}),
        ({"soft_weight": 0, "hidden_weight": 1}, {"soft_weight": [0, 1]}),
        ({}, {"losses": [{"softened_kl": 1}], "soft_weight": [0, 1]}),  # where that one is 0
    ]
    for number, (distill, given) in enumerate(spaces):
        path = digits_recipe(tmp_path, distill=distill, tune={"space": given | heat})
        search(path, tmp_path / str(number)).check()
    for distill, given in (*spaces[1:3], ({"hidden_weight": 1}, {"soft_weight": [0]})):
        kept = {name: values[:1] for name, values in given.items()}
        path = digits_recipe(tmp_path, distill=distill, tune={"space": kept | heat})
        with pytest.raises(InputError, match="no method that is tried has one"):
            search(path, tmp_path / "none").check()
    # What is wrong with the recipe itself is said first.
    path = digits_recipe(tmp_path, distill={"losses": {"dits": 1}}, tune={"space": heat})
    with pytest.raises(InputError, match="did you mean 'dist'"):
        search(path, tmp_path / "none").check()


def test_the_default_space_lies_around_the_recipe(digits_recipe: Write, tmp_path: Path) -> None:
    distill = {"temperature": 10, "hidden_weight": 0.5, "learning_rate": 1e-3}
    path = digits_recipe(tmp_path, distill=distill)
    context = Context(recipes.load(path), Run(tmp_path), tmp_path)
    space = default_space(context)
    assert space["temperature"] == Range(1.0, 10.0, log=True)
    assert space["learning_rate"] == Range(2.5e-4, 4e-3, log=True)
    assert space["hard_weight"] == Range(0.0, 1.0)
    assert space["hidden_weight"] == Range(0.05, 5.0, log=True)
    assert isinstance(space["method"], Choices) and "decoupled_kl" in space["method"].values
    assert not {"epochs", "student", "soft_weight", "attention_weight"} & set(space)
    own = Tuning(context, Tune()).own
    assert set(own) == set(space) and own["method"] == "softened_kl"


def test_a_temperature_is_searched_where_a_method_has_one(
    digits_recipe: Write, tmp_path: Path
) -> None:
    def space(task: str) -> set[str]:
        rows = {"train": "train.csv", "test": "test.csv"}
        path = digits_recipe(tmp_path, task=task, data=rows, distill={}, targets={})
        return set(default_space(Context(recipes.load(path), Run(tmp_path), tmp_path)))

    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} a,1\n{name} b,2\n")
    assert "temperature" in space("text-classification")
    assert "temperature" not in space("text-classification/regression")
    assert "temperature" not in space("feature-extraction")
