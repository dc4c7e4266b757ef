"""Weights of four bits, and four bits beside half precision: transformers.js's smallest dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.browser.second_check import transformers_js
from edgekd_exporters.onnx import blocks, dynamic

from edgekd.bundle import Bundle
from edgekd.exporter import Plan, Runtime

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("precision", "dtype"), [("int4-weights", "q4"), ("int4-weights-fp16", "q4f16")]
)
def test_a_text_model_loads_in_both_engines(
    exporter: BrowserExporter,
    text_fp32: Bundle,
    intents: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    dtype: str,
) -> None:
    """On WebAssembly, which has every kernel; a GPU's half precision is not everywhere."""
    for module in (blocks, dynamic):
        monkeypatch.setattr(module, "SMALLEST_BYTES", 0)
    made = exporter.compress(text_fp32, Plan(precision), (), tmp_path / "out")
    assert made.manifest.model_files == (f"onnx/model_{dtype}.onnx",)
    ops = exporter.inspect(made)["ops"]
    assert ops["com.microsoft.MatMulNBits"] > 10
    assert "com.microsoft.GatherBlockQuantized" not in ops
    rows = [{"text": row["text"]} for row in intents.test_rows[:12]]
    session = exporter.open(made, Runtime(options={"device": "wasm"}))
    logits = np.concatenate([session.run(made.encode([row]))["logits"] for row in rows])
    session.close()
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    said = transformers_js(made, rows, device="wasm")
    np.testing.assert_allclose(said.scores, exp / exp.sum(-1, keepdims=True), atol=1e-3)


def test_half_precision_saves_a_part_of_the_download(
    exporter: BrowserExporter, text_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocks, dynamic):
        monkeypatch.setattr(module, "SMALLEST_BYTES", 0)
    sizes = [
        exporter.compress(text_fp32, Plan(precision), (), tmp_path / precision).size_bytes
        for precision in ("int4-weights", "int4-weights-fp16")
    ]
    assert sizes[1] < 0.8 * sizes[0]
