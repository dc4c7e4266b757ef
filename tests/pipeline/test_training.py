"""What is refused of a student before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.pipeline import learn, stages
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Run
from edgekd.pipeline.training import plan
from tests.conftest import write_csv


def test_unlabelled_rows_are_matched_token_by_token_too(
    bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    """A student whose vocabulary has the pieces of the training rows alone."""
    word = max(intents.train_rows[0]["text"].split(), key=len)
    write_csv(tmp_path / "more.csv", [{"text": f"{word} now"}])
    without = [row for row in intents.train_rows if word not in row["text"].split()]
    write_csv(tmp_path / "train.csv", without)

    def context(**more: str) -> Context:
        values = {
            "name": "x",
            "task": "text-classification",
            "teacher": str(bert_dir),
            "data": {"train": "train.csv", "test": str(intents.test), **more},
            "student": {"layers": [0], "vocabulary": "trim"},
            "distill": {"hidden_weight": 1},
        }
        return Context(recipes.validate(values, "r"), Run(tmp_path / "run"), tmp_path)

    plain, more = context(), context(unlabelled="more.csv")
    student = learn.fresh_student(plain, plain.train, 0)
    plan(plain, plain.recipe.distill, student)
    with pytest.raises(InputError, match="cuts texts into other tokens"):
        plan(more, more.recipe.distill, student)
    # A batch in parts has other statistics: refused here, before the teacher is asked.
    student.model.add_module("norm", torch.nn.BatchNorm1d(2))
    parts = plain.recipe.distill.model_copy(update={"gradient_accumulation": 2})
    with pytest.raises(InputError, match="batch normalisation"):
        plan(plain, parts, student)


def test_words_fall_apart_while_a_student_learns(
    bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    """Other losses, the same tokenizer; the control as well."""

    def trained(**more: float) -> list[dict[str, Any]]:
        values = {
            "name": "x",
            "task": "text-classification",
            "teacher": str(bert_dir),
            "data": {"train": str(intents.train), "test": str(intents.test)},
            "student": {"layers": [0]},
            "distill": {"epochs": 1, **more},
        }
        run = Run(tmp_path / f"run-{len(more)}")
        context = Context(recipes.validate(values, "r"), run, tmp_path)
        stages.check(context)
        rows = learn.read(context)
        labelled = learn.label(context, rows, learn.fit_teacher(context, rows))
        return [dict(make(context, labelled).result) for make in (learn.control, learn.student)]

    whole, apart = trained(), trained(subword_dropout=0.9)
    for before, after in zip(whole, apart, strict=True):
        assert before["history"][0]["loss"] != after["history"][0]["loss"]
    tokenizers = {
        (tmp_path / f"run-{n}" / "student" / "tokenizer.json").read_text() for n in (0, 1)
    }
    assert len(tokenizers) == 1


def test_only_texts_have_words_to_cut(tmp_path: Path) -> None:
    values = {
        "name": "x",
        "task": "image-classification",
        "teacher": {"config": {"model_type": "vit"}, "fit": {"subword_dropout": 0.3}},
        "data": {"train": "builtin:digits/train", "test": "builtin:digits/test"},
    }
    context = Context(recipes.validate(values, "r"), Run(tmp_path / "run"), tmp_path)
    with pytest.raises(InputError, match="subword_dropout needs a text task"):
        stages.check(context)
