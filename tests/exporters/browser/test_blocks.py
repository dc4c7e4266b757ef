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


DTYPES = {"int4-weights": "q4", "int4-weights-fp16": "q4f16"}


@pytest.fixture(scope="module")
def made(exporter: BrowserExporter, text_fp32: Bundle, bundles: Path) -> dict[str, Bundle]:
    """A tiny model's weights are small; here the smallest of them is packed too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (blocks, dynamic):
            patch.setattr(module, "SMALLEST_BYTES", 0)
        return {
            dtype: exporter.compress(text_fp32, Plan(precision), (), bundles / dtype)
            for precision, dtype in DTYPES.items()
        }


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_a_text_model_loads_in_both_engines(
    exporter: BrowserExporter, made: dict[str, Bundle], intents: Any, dtype: str
) -> None:
    """On WebAssembly, which has every kernel; a GPU's half precision is not everywhere."""
    bundle = made[dtype]
    assert bundle.manifest.model_files == (f"onnx/model_{dtype}.onnx",)
    ops = exporter.inspect(bundle)["ops"]
    assert ops["com.microsoft.MatMulNBits"] > 10
    assert "com.microsoft.GatherBlockQuantized" not in ops
    rows = [{"text": row["text"]} for row in intents.test_rows[:12]]
    session = exporter.open(bundle, Runtime(options={"device": "wasm"}))
    logits = np.concatenate([session.run(bundle.encode([row]))["logits"] for row in rows])
    session.close()
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    said = transformers_js(bundle, rows, device="wasm")
    np.testing.assert_allclose(said.scores, exp / exp.sum(-1, keepdims=True), atol=1e-3)


def test_half_precision_saves_a_part_of_the_download(made: dict[str, Bundle]) -> None:
    assert made["q4f16"].size_bytes < 0.8 * made["q4"].size_bytes
