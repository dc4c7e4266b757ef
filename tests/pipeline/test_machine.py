"""A run directory that was carried to another machine: what follows the processor is done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgekd_exporters.onnx import exporter as onnx
from edgekd_exporters.onnx.cpu import Int8Kernels

from edgekd import exporter as exporters
from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.bench import environment
from edgekd.pipeline import precision


def test_what_follows_the_processor_is_done_again_elsewhere(
    digits_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_ladder", lambda search: ["fp32"])
    monkeypatch.setattr(precision, "ROUNDS", 1)
    monkeypatch.setattr(precision, "SECONDS", 0.01)
    targets = {"onnx": {"precisions": ["fp32", "int8", "auto"], "max_drop": 1}}
    distill = {"epochs": 1, "batch_size": 32, "learning_rate": 5e-3, "control": False}
    path = digits_recipe(tmp_path, targets=targets, distill=distill)
    pipeline.run(recipes.load(path), path, tmp_path / "run")

    def again() -> set[str]:
        document = pipeline.run(recipes.load(path), path, tmp_path / "run")
        return {stage.name for stage in document.stages if not stage.reused}

    assert not again()
    monkeypatch.setattr(environment, "_cpu", lambda: ("another", ["avx2"]))
    elsewhere = {"search-onnx-auto", "score-onnx-fp32", "score-onnx-int8", "score-onnx-auto"}
    assert again() == elsewhere
    monkeypatch.setattr(onnx, "int8_kernels", lambda: Int8Kernels("another", exact=False))
    assert again() == {"quantize-onnx-int8", "score-onnx-int8"}


def test_only_what_a_processor_decides_depends_on_it() -> None:
    assert exporters.get("onnx").made_for("int8") and exporters.get("onnx").made_for("fp16") is None
    assert exporters.get("browser").made_for("int8") is None  # the same wherever it is made
