"""``edgekd tune``: the document, the choice as a recipe, and one line for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Cli = Callable[..., Any]


@pytest.fixture
def recipe(write_recipe: Callable[..., Path], bert_dir: Path, intents: Any) -> Path:
    return write_recipe(
        task="text-classification",
        teacher=str(bert_dir),
        data={"train": str(intents.train), "test": str(intents.test)},
        student={"layers": [1], "vocabulary": "trim"},
        distill={"epochs": 2, "batch_size": 16, "learning_rate": 3e-3},
        tune={"trials": 9, "space": {"learning_rate": [3e-3, 1e-3], "temperature": [2, 5]}},
    )


def test_trials_on_held_out_rows_of_a_text_task(edgekd: Cli, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = edgekd("tune", recipe, "--out", out, "--trials", 3, "--epochs", 1, "--json", "-")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "edgekd.tune/1"
    assert [trial["number"] for trial in document["trials"]] == [0, 1, 2]
    assert all(len(trial["curve"]) == 1 for trial in document["trials"])
    assert document["trials"][0]["values"] == {"learning_rate": 0.003, "temperature": 2.0}
    assert document["held_out"] + document["rows"] == 96
    assert "chosen: trial" in answer.err
    chosen = yaml.safe_load((out / "tune" / "chosen.yaml").read_text())
    assert chosen == {"distill": document["values"]}
    assert not (out / "student").exists()  # `run` trains what was chosen
    # The same command goes on: more trials, those before them as they were.
    more = edgekd("tune", recipe, "--out", out, "--trials", 4, "--epochs", 1, "--json", "-")
    assert json.loads(more.out)["trials"][:3] == document["trials"]
    assert len(json.loads(more.out)["trials"]) == 4
    # Fewer epochs make other trials: the study is not theirs.
    other = edgekd("tune", recipe, "--out", out, "--trials", 4)
    assert other.code == 2 and other.err.count("\n") == 1
    assert "of another recipe, data or version" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trials", 0), "--trials: Input should be greater than or equal to 1 (got 0)"),
        (("--timeout", "later"), "'later' is not a duration"),
        (("--jobs", 0), "--jobs: "),
        (("--rows", 0), "--rows: "),
    ],
)
def test_a_bad_option_is_one_line(
    edgekd: Cli, recipe: Path, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    answer = edgekd("tune", recipe, "--out", tmp_path / "run", *options)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
