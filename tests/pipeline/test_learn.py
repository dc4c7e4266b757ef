"""Reading and labelling as stages: what is counted, what is dropped, what is asked only once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import infer
from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.pipeline import learn, signals
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Run


@pytest.fixture
def context_of(bert_dir: Path, intents: Any, tmp_path: Path) -> Callable[..., Context]:
    """``context_of(allow_overlap=True)`` trains on two rows of the test data and a doubled one."""
    extra = [*intents.test_rows[:2], intents.train_rows[0]]
    lines = [f"{row['text']},{row['label']}" for row in [*intents.train_rows, *extra]]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    more = [intents.test_rows[5]["text"], "my plastic money", intents.train_rows[1]["text"]]
    (tmp_path / "more.csv").write_text("text\n" + "\n".join(more), encoding="utf-8")

    def make(**data: Any) -> Context:
        sources = {"train": "train.csv", "test": str(intents.test), **data}
        values = {"name": "x", "task": "text-classification", "teacher": str(bert_dir)}
        recipe = recipes.validate({**values, "data": sources}, "here")
        return Context(recipe, Run(tmp_path / "run"), tmp_path)

    return make


def test_rows_are_counted_and_test_rows_dropped_from_training(
    context_of: Callable[..., Context],
) -> None:
    with pytest.raises(InputError, match=r"2 of 48 test rows .*allow_overlap: true"):
        learn.read(context_of())
    counted = learn.read(context_of(allow_overlap=True)).result
    assert (counted["rows"]["train"], counted["rows"]["test"]) == (97, 48)
    assert counted["overlap"]["dropped"] == 2
    assert counted["duplicates"] == 1
    assert counted["labels"] == ["card", "money", "größe"]
    assert learn.read(context_of(allow_overlap=True)).reused


def test_the_teacher_is_asked_once_for_each_content(
    context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = infer.forward

    def forward(model: Any, rows: Any, outputs: Any) -> Any:
        asked.append(len(rows))
        return real(model, rows, outputs)

    monkeypatch.setattr(infer, "forward", forward)
    context = context_of(allow_overlap=True)
    done = learn.label(context, learn.read(context), None)
    assert sum(asked) == 96 + 48  # one training row stands there twice
    assert done.result["evaluation"]["metrics"]["accuracy"] > 0.6
    said = signals.teacher_outputs(context)["logits"]
    expected = real(context.teacher, context.test, context.task)["logits"]
    np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-4)

    asked.clear()
    wider = context_of(allow_overlap=True, unlabelled="more.csv")
    learn.label(wider, learn.read(wider), None)
    # Of three more rows one is a test row and one was labelled before.
    assert len(wider.unlabelled) == 2
    assert sum(asked) == 1
