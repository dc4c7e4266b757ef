"""A recipe's precisions for the browser: each by itself, and one folder with all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.bundle import Bundle
from tests.exporters.browser.conftest import require_programs


@pytest.mark.browser
def test_the_precisions_of_a_recipe_make_one_folder(
    digits_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    require_programs()
    targets = {"browser": {"precisions": ["fp32", "int8", "int8-full"]}}
    path = digits_recipe(tmp_path, targets=targets)
    pipeline.run(recipes.load(path), path, tmp_path / "run")
    bundles = tmp_path / "run" / "bundles"
    assert sorted(folder.name for folder in bundles.iterdir()) == [
        "browser",
        "browser-fp32",
        "browser-int8",
        "browser-int8-full",
    ]
    folder = Bundle.open(bundles / "browser")
    folder.check_files()
    said = {name: entry["precision"] for name, entry in folder.manifest.runtime["dtypes"].items()}
    assert said == {"fp32": "fp32", "q8": "int8"}  # of one dtype the first that was asked for
    assert (folder.path / "onnx" / "model_quantized.onnx").read_bytes() == (
        bundles / "browser-int8" / "onnx" / "model_quantized.onnx"
    ).read_bytes()
