from __future__ import annotations

from pathlib import Path

import pytest
from edgekd_exporters.onnx import OnnxExporter

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan, Spec, relative_error, verify
from edgekd.program import Program, Shapes


@pytest.fixture(scope="module")
def mobile_fp32(exporter: OnnxExporter, bert: Program, folder: Path) -> Bundle:
    spec = Spec(Shapes(1, (8,)), options={"format": "ort"})
    return exporter.lower(bert, spec, folder / "mobile")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ort_bundle_gives_the_same_outputs(
    exporter: OnnxExporter, mobile_fp32: Bundle, bert: Program, tmp_path: Path, precision: str
) -> None:
    bundle = mobile_fp32
    if precision != "fp32":
        bundle = exporter.compress(mobile_fp32, Plan(precision), (), tmp_path / precision)
    assert bundle.manifest.variant == f"{precision}-b1-l8-ort"
    assert bundle.manifest.model_files == ("model.ort",)
    assert bundle.size_bytes == (bundle.path / "model.ort").stat().st_size
    assert verify(exporter, bundle) < 1e-5
    feeds = bundle.encode([{"text": "my card was lost"}])
    found = exporter.open(bundle).run(feeds)["logits"]
    assert relative_error(found, bert.run(feeds)["logits"]) < (1e-5 if precision == "fp32" else 0.1)


def test_operator_list_names_the_kernels_and_no_path(mobile_fp32: Bundle) -> None:
    text = (mobile_fp32.path / "required_operators.config").read_text()
    assert "Softmax" in text and "LayerNormalization" in text
    assert str(mobile_fp32.path) not in text and "#" not in text
    assert "required_operators.config" in mobile_fp32.manifest.files


def test_check_says_whether_an_npu_would_take_it(
    exporter: OnnxExporter, mobile_fp32: Bundle
) -> None:
    notes = [finding.message for finding in exporter.check(mobile_fp32)]
    assert [note.partition(" provider")[0] for note in notes] == ["NNAPI", "Core ML"]
    assert all("nodes in" in note and "worth trying" in note for note in notes)


def test_unknown_options_are_refused(exporter: OnnxExporter, bert: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'fromat' \(did you mean 'format'\?\)"):
        exporter.lower(bert, Spec(Shapes(), options={"fromat": "ort"}), tmp_path / "a")
    with pytest.raises(InputError, match="not one of onnx, ort"):
        exporter.lower(bert, Spec(Shapes(), options={"format": "tflite"}), tmp_path / "b")
