from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime
from edgekd_exporters.onnx.passes import residual_sum

from edgekd.bundle import Bundle


def test_no_norm_is_fed_by_an_add(bert_fp32: Bundle) -> None:
    model = ir.load(bert_fp32.path / "model.onnx")
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    feeds = [value.producer().op_type for node in norms if (value := node.inputs[0])]  # type: ignore[union-attr]
    assert len(norms) == 5 and set(feeds) == {"Sum"}
    assert residual_sum.apply(model) == 0


def test_runtime_keeps_the_vectorised_norm(bert_fp32: Bundle, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(bert_fp32.path / "model.onnx"), options)
    optimized = ir.load(options.optimized_model_filepath)
    assert "SkipLayerNormalization" not in {node.op_type for node in optimized.graph}
