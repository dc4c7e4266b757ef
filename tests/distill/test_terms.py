"""Losses by name: any that fit the task together, with their own settings; others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import pipeline, tasks
from edgekd import recipe as recipes
from edgekd.distill import transfer
from edgekd.distill.terms import reads, terms
from edgekd.errors import InputError
from edgekd.sections import Distill
from tests.distill.test_transfer import TEXT, bert

MODEL = tasks.get("text-generation")


def test_weights_and_settings_of_both_kinds_are_merged() -> None:
    losses = {
        "dist": 0.5,
        "decoupled_kl": {"weight": 0.1, "temperature": 4, "non_target_weight": 2},
        "softened_kl": {"temperature": 3},
        "relation": {"pairs": ["q-k", "v-v"]},
        "similarity_kl": {"weight": 1, "temperature": 0.1},
    }
    settings = Distill.model_validate({"losses": losses, "relation_weight": 0.2})
    weights, chosen = terms(settings, TEXT)
    assert weights == {
        "softened_kl": 1.0,
        "relation": 0.2,
        "dist": 0.5,
        "decoupled_kl": 0.1,
        "similarity_kl": 1.0,
    }
    assert chosen == {
        "softened_kl": {"temperature": 3},
        "dist": {"temperature": 2.0},  # the recipe's, which is of logits
        "decoupled_kl": {"temperature": 4, "non_target_weight": 2},
        "relation": {"pairs": ["q-k", "v-v"]},
        "similarity_kl": {"temperature": 0.1},
    }
    plan = transfer.plan(settings, TEXT, bert(2), bert(1), classes=3)
    made: Any = plan.objective.terms["relation"]
    assert made.keywords == {"heads": 8, "back_only": False, "pairs": ["q-k", "v-v"]}
    assert plan.teacher.stored == {"qkv", "embedding"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"dits": 1.0}, "'dits' does not fit text-classification .did you mean 'dist'"),
        ({"span_kl": 1.0}, "'span_kl' does not fit text-classification"),
        ({"dist": {"weight": 1, "intra": 2}}, "dist has no setting 'intra'.*'intra_weight'"),
        ({"softened_kl": 1.0}, "already has the weight 1 from soft_weight"),
        ({"dist": {"temperature": 2}}, "'dist' has settings but no weight"),
        ({"hidden": {"weight": 1, "layers": [0]}}, "no setting 'layers'"),
        ({"dist": {"weight": 1, "temperature": "hot"}}, "temperature must be a number"),
        ({"dist": {"weight": 1, "temperature": 0}}, "temperature must be above 0"),
        ({"relation": {"weight": 1, "pairs": ["q-w"]}}, "not 'q-w'.*did you mean"),
        ({"relation": {"weight": 1, "pairs": "q-k"}}, "pairs is a list"),
        ({"relation": {"weight": 1, "heads": 0}}, "heads must be a whole number above 0"),
        ({"relation": {"weight": 1, "heads": 5}}, "5 relation heads do not divide.*1, 2, 4, 8"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(losses: dict[str, Any], message: str) -> None:
    settings = Distill.model_validate({"losses": losses})
    with pytest.raises(InputError, match=message):
        transfer.plan(settings, TEXT, bert(2), bert(1), classes=3)


def test_a_temperature_that_softens_nothing_is_refused() -> None:
    ranking, mse = tasks.get("text-ranking"), Distill(method="logit_mse", temperature=4)
    for settings, task in ((mse, TEXT), (Distill(temperature=4), ranking)):
        with pytest.raises(InputError, match="softens none of this recipe's losses"):
            terms(settings, task)
    terms(mse.model_copy(update={"temperature": 2.0}), TEXT)  # the default, as a template says it
    _, chosen = terms(Distill.model_validate({**mse.model_dump(), "losses": {"dist": 1}}), TEXT)
    assert chosen == {"dist": {"temperature": 4}}
    assert reads(Distill(), TEXT) == {"temperature"}
    assert reads(Distill(soft_weight=0, attention_weight=1), TEXT) == {"layer_map"}


def test_of_a_vocabulary_only_what_is_stored_is_learned_from() -> None:
    settings = Distill.model_validate({"losses": {"softened_kl": 1}})
    with pytest.raises(InputError, match="does not fit text-generation"):
        terms(settings, MODEL)


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"losses": {"dist": -1}}, r"distill\.losses\.dist\.weight.*greater than or equal to 0"),
        ({"losses": {"dist": "much"}}, r"distill\.losses\.dist: write a weight"),
        ({"losses": {"dist": 0}, "soft_weight": 0}, "all 0"),
    ],
)
def test_a_recipe_that_is_no_list_of_losses(distill: dict[str, Any], message: str) -> None:
    values = {"name": "x", "task": "text-classification", "teacher": "t"}
    with pytest.raises(InputError, match=message):
        recipes.validate({**values, "data": {"train": "a", "test": "b"}, "distill": distill}, "r")


def test_three_losses_train_together(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    losses = {"dist": {"weight": 0.5, "intra_weight": 2}, "logit_mse": 0.01}
    training = {"epochs": 1, "learning_rate": 5e-3, "control": False}
    values = {
        "name": "x",
        "task": "text-classification",
        "teacher": str(bert_dir),
        "data": {"train": str(intents.train), "test": str(intents.test)},
        "student": {"layers": [0]},
        "distill": {**training, "losses": losses},
    }
    pipeline.distill(recipes.validate(values, "r"), tmp_path, tmp_path / "run")
    record = json.loads((tmp_path / "run/stages/student.json").read_text())
    shares = record["result"]["gradient_shares"]
    assert set(shares) == {"softened_kl", "dist", "logit_mse"}
    assert min(shares.values()) > 0.01 and sum(shares.values()) == pytest.approx(1)
    wrong = {**values, "distill": {**training, "losses": {"dits": 1}}}
    with pytest.raises(InputError, match="did you mean 'dist'"):
        pipeline.distill(recipes.validate(wrong, "r"), tmp_path, tmp_path / "other")
    assert not (tmp_path / "other/stages").exists()  # before any row is read
