"""A recipe's precisions for the browser: each by itself, and one folder with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edgekd import exporter as exporters
from edgekd import pipeline, sources
from edgekd import recipe as recipes
from edgekd.bench import measure
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.pipeline import ship
from edgekd.pipeline.context import Context
from edgekd.pipeline.ship import Built
from edgekd.pipeline.stage import Done, Run
from tests.exporters.browser.conftest import require_programs

Write = Callable[..., Path]


@pytest.mark.browser
def test_the_precisions_of_a_recipe_make_one_folder(
    digits_recipe: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_programs()
    quick = partial(measure.compare, rounds=1, seconds=0.01, memory=False)
    monkeypatch.setattr(measure, "compare", quick)
    builtin = sources._builtin  # of the test rows a third: each goes through three runtimes
    monkeypatch.setattr(
        sources, "_builtin", lambda s: builtin(s)[: 150 if s.endswith("test") else None]
    )
    q8 = "{title: q8, target: browser, where: host, runtime: {options: {dtype: q8}}}"
    (tmp_path / "q8.yaml").write_text(q8)
    targets = {"browser": {"precisions": ["fp32", "int8"]}}
    distill = {"epochs": 1, "batch_size": 32, "learning_rate": 5e-3, "control": False}
    path = digits_recipe(tmp_path, targets=targets, profiles=["q8"], distill=distill)
    document = pipeline.run(recipes.load(path), path, tmp_path / "run")
    bundles = tmp_path / "run" / "bundles"
    assert sorted(folder.name for folder in bundles.iterdir()) == [
        "browser",
        "browser-fp32",
        "browser-fp32-teacher",
        "browser-int8",
    ]
    folder = Bundle.open(bundles / "browser")
    folder.check_files()
    said = {name: entry["precision"] for name, entry in folder.manifest.runtime["dtypes"].items()}
    assert said == {"fp32": "fp32", "q8": "int8"}
    assert (folder.path / "onnx" / "model_quantized.onnx").read_bytes() == (
        bundles / "browser-int8" / "onnx" / "model_quantized.onnx"
    ).read_bytes()

    # The report says what ships, and the rows that it names have each model's figures.
    (shipped,) = document.folders
    assert shipped.path == "bundles/browser" and shipped.bundle_bytes == folder.bundle_bytes
    assert shipped.holds == {"fp32": "bundles/browser-fp32", "q8": "bundles/browser-int8"}
    rows = [document.bundle(held) for held in shipped.holds.values()]
    assert all(row and row.metrics and row.scored_on for row in rows)
    timed = {row.path for row in document.bundles if row.bench}
    assert timed == {shipped.holds["q8"]}  # what the profile asks for

    # Every bundle's rows once more in this machine's onnxruntime and in transformers.js.
    # But not the teacher's: what ships is asked about.
    ours = [row for row in document.bundles if row.model == "student"]
    assert len(ours) == 2 and len(document.bundles) == 3
    for row in ours:
        native, second = row.checks
        assert native.runtime.startswith("onnxruntime 1.") and second.runtime.endswith(", wasm")
        for check in (native, second):
            assert check.rows == row.n == 150 and check.same and check.same >= 0.99
            assert check.metric is not None
            assert abs(check.metric - row.metrics["accuracy"]) <= 0.01
            assert check.largest_difference is not None and check.largest_difference < 0.05

    # Where auto lands on a slot that is taken, the first keeps it, and that is said.
    context = Context(recipes.load(path), Run(tmp_path / "run"), tmp_path)
    made = Done("made", "mark", 0.0, {}, reused=True)
    fp32, int8 = (
        Built("student", "browser", name, f"bundles/browser-{name}", made)
        for name in ("fp32", "int8")
    )
    auto = replace(int8, precision="int8-full", path="bundles/browser-auto")
    ship._combine(context, exporters.get("browser"), [fp32, int8, auto])
    assert "has int8 as 'q8' already, so int8-full is left out" in capsys.readouterr().err
    again = Bundle.open(bundles / "browser").manifest.runtime["dtypes"]
    assert {name: entry["precision"] for name, entry in again.items()} == said


def test_two_precisions_of_one_slot_are_refused_before_any_training(
    digits_recipe: Write, tmp_path: Path
) -> None:
    path = digits_recipe(
        tmp_path, targets={"browser": {"precisions": ["fp32", "int8", "int8-full"]}}
    )
    with pytest.raises(InputError, match=r"int8 and int8-full are both 'q8' in one folder"):
        pipeline.run(recipes.load(path), path, tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()
