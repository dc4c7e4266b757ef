"""Each pass changes the graph as it says and leaves the numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgekd_exporters.onnx.passes import (
    constant_reshape,
    fuse_attention,
    half_vectors,
    residual_sum,
    tidy,
    trim_positions,
)
from edgekd_exporters.onnx.passes.graph import initializer

from edgekd.bundle import Bundle


def load(bundle: Bundle) -> ir.Model:
    return ir.load(bundle.path / "model.onnx")


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def run(model: ir.Model, feeds: dict[str, Any]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options).run(None, feeds)


def test_residual_sum_feeds_every_norm(bert_fp32: Bundle) -> None:
    model = load(bert_fp32)
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    feeds = {value.producer().op_type for node in norms if (value := node.inputs[0])}  # type: ignore[union-attr]
    assert len(norms) == 5 and feeds == {"Sum"}
    assert residual_sum.apply(model) == 0


def test_runtime_then_keeps_the_vectorised_norm(bert_fp32: Bundle, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(bert_fp32.path / "model.onnx"), options)
    assert count(ir.load(options.optimized_model_filepath), "SkipLayerNormalization") == 0


def test_shapes_need_no_arithmetic(bert_fp32: Bundle) -> None:
    model = load(bert_fp32)
    shapes = [node.inputs[1] for node in model.graph if node.op_type == "Reshape"]
    assert shapes and all(value is not None and value.const_value for value in shapes)
    assert count(model, "Concat") == 0 and count(model, "Shape") == 1  # for the position ids


@pytest.mark.parametrize(
    ("before", "after", "sizes"),
    [
        (["b", "s", 384], ["b", "s", 12, 32], [0, 0, 12, 32]),
        (["b", "s", 12, 32], ["b", "s", 384], [0, 0, 384]),
        (["b", 12, "s", 32], ["m", "s", 32], [-1, -1, 32]),
        (["b", "s"], ["b", "t"], [0, -1]),
        ([2, 6], [3, 4], [3, 4]),
    ],
)
def test_constant_shapes(before: list[Any], after: list[Any], sizes: list[int]) -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g")
    x = ir.val("x", ir.DataType.FLOAT, before)
    target = ir.val("shape", ir.DataType.INT64, [len(after)])
    node = ir.node("Reshape", [x, target])
    node.outputs[0].shape = ir.Shape(after)
    graph.inputs.extend([x, target])
    graph.append(node)
    done = constant_reshape.apply(ir.Model(graph, ir_version=10))
    if sizes.count(-1) > 1:
        assert done == 0
    else:
        value = node.inputs[1]
        assert done == 1 and value is not None and value.const_value is not None
        assert value.const_value.numpy().tolist() == sizes


def test_reshape_to_the_same_shape_goes() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["b", 4])
    target = ir.val("shape", ir.DataType.INT64, [2])
    same = ir.node("Reshape", [x, target])
    same.outputs[0].shape = ir.Shape(["b", 4])
    last = ir.node("Relu", same.outputs)
    graph = ir.Graph([x, target], last.outputs, nodes=[same, last], name="g")
    assert constant_reshape.apply(ir.Model(graph, ir_version=10)) == 1
    assert [node.op_type for node in graph] == ["Relu"] and last.inputs[0] is x


def test_positions_beyond_the_longest_input_go(bert_fp32: Bundle) -> None:
    model = load(bert_fp32)
    tables = [
        node.inputs[0].shape.numpy()[0]  # type: ignore[union-attr]
        for node in model.graph
        if "position_embeddings" in (node.name or "") and node.op_type == "Gather"
    ]
    assert tables == [32]  # of 64: the preprocessor cuts at 32 tokens
    _, inputs, outputs = bert_fp32.golden()
    assert trim_positions.apply(model, 40) == 0
    assert trim_positions.apply(model, 12) == 1
    np.testing.assert_array_equal(run(model, inputs)[0], outputs["logits"])


@pytest.mark.parametrize("name", ["bert_fp32", "vit_fp32"])
def test_attention_fuses_into_one_node(name: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(name)
    model = load(bundle)
    assert fuse_attention.apply(model) == 2 == count(model, "MultiHeadAttention")
    _, inputs, outputs = bundle.golden()
    np.testing.assert_allclose(run(model, inputs)[0], outputs["logits"], rtol=1e-4, atol=1e-5)


def test_vectors_are_stored_in_half_and_widened_on_load(
    bert_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_vectors, "SMALLEST", 16)
    kept = "bert.embeddings.LayerNorm"
    feeds = bert_fp32.golden()[1]
    model = load(bert_fp32)
    before = run(model, feeds)[0]
    halved = half_vectors.apply(model, lambda module: module != kept)
    tidy.apply(model)
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=1e-2, atol=1e-3)
    stored = [v.dtype for v in model.graph.initializers.values()]
    assert halved and stored.count(ir.DataType.FLOAT16) == halved
    assert sum((node.name or "").startswith("widen") for node in model.graph) == halved
    left = {
        node.name
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and value.shape.rank() == 1
        and value.shape.numpy()[0] >= half_vectors.SMALLEST
        for node in value.consumers()
    }
    assert f"{kept}/LayerNormalization" in left
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    data = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(data, options)
    assert not any(n.name.startswith("widen") for n in ir.load(tmp_path / "optimized.onnx").graph)


def test_a_vector_that_half_precision_cannot_hold_stays() -> None:
    x = ir.Value(name="x", shape=ir.Shape([1, 64]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20})
    model = ir.Model(graph, ir_version=10)
    large = initializer(model, "large", np.full(64, 1e6, np.float32))
    add = ir.node("Add", [x, large])
    graph.append(add)
    graph.outputs.append(add.outputs[0])
    assert half_vectors.apply(model, lambda module: True) == 0


def test_another_softmax_is_left_alone() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["b", 4])
    node = ir.node("Softmax", [x])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="g")
    assert fuse_attention.apply(ir.Model(graph, ir_version=10)) == 0
