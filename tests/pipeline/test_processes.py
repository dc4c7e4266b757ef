"""`processes: 2` in a recipe: the rooms around the training notice nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.errors import InputError


def recipe(bert_dir: Path, intents: Any, **distill: Any) -> recipes.Recipe:
    values = {
        "name": "x",
        "task": "text-classification",
        "teacher": str(bert_dir),
        "data": {"train": str(intents.train), "test": str(intents.test)},
        "student": {"layers": [1], "vocabulary": "trim"},
        "distill": {
            **{"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "hard_weight": 0.1},
            **{"keep": "best", "control": False, **distill},
        },
    }
    return recipes.validate(values, "here")


def test_a_run_with_two_processes_ends_as_one_with_one(
    bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    """Rows from the store, the best epoch on held-out rows, the score; dropout aside."""
    found, weights = {}, {}
    for count in (1, 2):
        out = tmp_path / str(count)
        document = pipeline.distill(recipe(bert_dir, intents, processes=count), tmp_path, out)
        found[count] = next(row for row in document["models"] if row["id"] == "student")
        weights[count] = load_file(out / "student" / "model.safetensors")
        assert not (out / "partial").exists() or not list((out / "partial").iterdir())
    assert found[2]["params"] == found[1]["params"]
    assert found[2]["metrics"]["accuracy"] == pytest.approx(
        found[1]["metrics"]["accuracy"], abs=0.1
    )
    # Other units drop out in the second process, so the weights are near and not the same.
    for name, value in weights[1].items():
        assert value.shape == weights[2][name].shape
        assert np.abs(value - weights[2][name]).max() < 0.2, name


def test_a_launcher_is_told_how_it_is_done(
    bert_dir: Path, intents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="say processes: 2 under distill"):
        pipeline.distill(recipe(bert_dir, intents), tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
