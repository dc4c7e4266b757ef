"""Served rows through the stage: features, what is found, what is named, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.pipeline import learn, shift
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Done, Run
from edgekd.report.document import Shift

LABELLED = Done("label", "mark", 0.0, {}, reused=False)


@pytest.fixture
def context_of(bert_dir: Path, intents: Any, tmp_path: Path) -> Callable[..., Context]:
    """``context_of(texts)`` serves ``texts`` beside the intents' training rows."""

    def make(texts: list[str]) -> Context:
        (tmp_path / "served.csv").write_text("\n".join(["text", *texts]), encoding="utf-8")
        data = {"train": str(intents.train), "test": str(intents.test), "served": "served.csv"}
        values = {"name": "x", "task": "text-classification", "teacher": str(bert_dir)}
        recipe = recipes.validate({**values, "data": data}, "here")
        return Context(recipe, Run(tmp_path / "run"), tmp_path)

    return make


def test_the_training_rows_themselves_are_no_shift(
    context_of: Callable[..., Context], intents: Any
) -> None:
    context = context_of([row["text"] for row in intents.train_rows])
    done = shift.examine(context, LABELLED)
    assert done is not None and not done.result["found"]
    assert done.result["statistic"] == pytest.approx(0, abs=1e-6)
    again = shift.examine(context_of([r["text"] for r in intents.train_rows]), LABELLED)
    assert again is not None and again.reused


def test_strangers_are_found_and_the_farthest_named(
    context_of: Callable[..., Context], intents: Any
) -> None:
    stranger = "zzz " * 12 + "[bold]"
    context = context_of([*(row["text"] for row in intents.train_rows[:10]), *[stranger] * 30])
    done = shift.examine(context, LABELLED)
    assert done is not None and done.result["found"]
    found = Shift(**done.result)
    assert found.p_value <= 0.01 and "zzz" not in found.sentence
    assert all("zzz" in line for line in found.lines) and len(found.lines) == 3


def test_padding_and_order_leave_the_features_alone(
    context_of: Callable[..., Context], intents: Any
) -> None:
    rows = [{"text": text} for text in ("card", "my card is " * 6, "money")]
    teacher = context_of(["a", "b"]).teacher
    together = shift.features(teacher, rows)
    alone = np.concatenate([shift.features(teacher, [row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_features_that_are_no_numbers_are_refused(
    context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift, "features", lambda model, rows: np.full((len(rows), 2), np.nan))
    with pytest.raises(InputError, match="not finite"):
        shift.examine(context_of(["a", "b"]), LABELLED)


def test_one_row_is_too_few(context_of: Callable[..., Context]) -> None:
    with pytest.raises(InputError, match=r"data\.served has one row"):
        shift.check(context_of(["alone"]))


def test_served_rows_train_nothing_again(context_of: Callable[..., Context]) -> None:
    first = learn.read(context_of(["a", "b"]))
    assert learn.read(context_of(["c", "d", "e"])).fingerprint == first.fingerprint
    context = context_of(["a", "b"])
    without = replace(
        context,
        recipe=context.recipe.model_copy(
            update={"data": context.recipe.data.model_copy(update={"served": None})}
        ),
    )
    assert learn.read(without).fingerprint == first.fingerprint
    assert shift.examine(without, LABELLED) is None
