"""A model whose weights lie in a file beside it goes every way that a small one goes.

Two gigabytes are not written here: the limit is lowered instead.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgekd_exporters.onnx import OnnxExporter, files
from edgekd_exporters.onnx.calibrate import ranges

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan, Spec, verify
from edgekd.program import Program, Shapes

ROWS = [{"text": text} for text in ("my card was lost", "how long does it take")]


@pytest.fixture(scope="module")
def large(
    exporter: OnnxExporter, wide_bert: Program, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_EXTERNAL", 1)
        return exporter.lower(wide_bert, Spec(Shapes()), tmp_path_factory.mktemp("large") / "fp32")


def test_weights_lie_beside_the_graph(exporter: OnnxExporter, large: Bundle) -> None:
    assert large.manifest.model_files == ("model.onnx", "model.onnx.data")
    large.check_files()
    assert verify(exporter, large) < 1e-5
    figures = exporter.inspect(large)
    assert figures["macs"] > 0 and figures["weight_bytes"] < large.size_bytes
    assert not [f for f in exporter.check(large) if f.level == "error"]


@pytest.mark.parametrize("precision", ["int8", "int8-static", "int4-weights", "fp16", "fp32-fused"])
@pytest.mark.parametrize("limit", [1, files._EXTERNAL])  # what is made of it is large, or small
def test_each_kind_of_rung(
    exporter: OnnxExporter,
    large: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    limit: int,
) -> None:
    monkeypatch.setattr(files, "_EXTERNAL", limit)
    made = exporter.compress(large, Plan(precision), ROWS, tmp_path / "made")
    assert len(made.manifest.model_files) == (2 if limit == 1 else 1)
    moved = Bundle.open(made.path.rename(tmp_path / "moved"))  # needs no file of another folder
    moved.check_files()
    assert verify(exporter, moved) < 1e-5
    assert exporter.inspect(moved)["macs"] == exporter.inspect(large)["macs"]


def test_ranges_are_of_the_weights_that_lie_beside(
    large: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two graphs that differ in the other file alone are not taken for one another."""
    monkeypatch.setattr(files, "_EXTERNAL", 1)
    rows = [large.encode([row]) for row in ROWS]
    model = files.load(large)
    before = ranges(model, ["logits"], rows, "minmax")["logits"]
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            array = np.zeros_like(value.const_value.numpy())
            value.const_value = ir.tensor(array, name=value.name)
    files.save(model, tmp_path)
    zeros = files.load(Bundle(tmp_path, large.manifest))
    assert ranges(zeros, ["logits"], rows, "minmax")["logits"] == (0, 0) != before


def test_one_file_is_refused(
    exporter: OnnxExporter, wide_bert: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_EXTERNAL", 1)
    with pytest.raises(InputError, match=r"over 2 GB has no \.ort form .* export without"):
        exporter.lower(wide_bert, Spec(Shapes(), options={"format": "ort"}), tmp_path / "ort")
    assert not (tmp_path / "ort").exists()
