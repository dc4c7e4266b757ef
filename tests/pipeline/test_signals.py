"""Runs that share one store of what the teacher said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekd import recipe
from edgekd.cli import app
from edgekd.errors import InputError
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Run


def test_a_labelled_store_is_learned_from_and_added_to(
    digits_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    first = Context(recipe.load(digits_recipe(tmp_path / "a")), Run(tmp_path / "a/run"), tmp_path)
    learn.fit_teacher(first, learn.read(first))
    teacher, store = str(tmp_path / "a/run/teacher"), tmp_path / "store"
    command = ["label", teacher, "--data", "builtin:digits/test", "--out", str(store)]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = {file: file.read_bytes() for file in store.glob("*.safetensors")}
    assert before

    data = {"train": "builtin:digits/test", "test": "builtin:digits/train", "signals": str(store)}
    path = digits_recipe(tmp_path / "b", teacher={"model": teacher}, data=data)
    shared = Context(recipe.load(path), Run(tmp_path / "b/run"), path.parent)
    labelled = learn.label(shared, learn.read(shared), None)
    learn.student(shared, labelled)
    assert {file: file.read_bytes() for file in store.glob("*.safetensors")} == before
    assert [p.name[:5] for p in (tmp_path / "b/run/signals").iterdir()] == ["test-"]

    # A store of another teacher is refused before anything is trained.
    path = digits_recipe(
        tmp_path / "c",
        seed=1,
        data={**data, "train": "builtin:digits/train", "test": "builtin:digits/test"},
    )
    other = Context(recipe.load(path), Run(tmp_path / "c/run"), path.parent)
    rows = learn.read(other)
    fitted = learn.fit_teacher(other, rows)
    with pytest.raises(InputError, match="another teacher revision"):
        learn.label(other, rows, fitted)
