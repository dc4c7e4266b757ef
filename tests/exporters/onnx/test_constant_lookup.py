"""A lookup that finds the same row for every input disappears into its neighbour's table."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgekd_exporters.onnx.passes import constant_lookup, short_names, tidy


def _value(name: str, array: np.ndarray) -> ir.Value:
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.val(name, dtype, array.shape, const_value=ir.tensor(array))


def embeddings(types: np.ndarray) -> ir.Model:
    """words[ids] + kinds[expanded types] + places[positions], as torch writes BERT's."""
    random = np.random.default_rng(0)
    tables = {
        name: _value(name, random.normal(size=(count, 8)).astype(np.float32))
        for name, count in {"words": 50, "kinds": 2, "places": 6}.items()
    }
    ids = ir.val("ids", ir.DataType.INT64, ["batch", 4])
    zeros, positions = _value("types", types), _value("positions", np.arange(4))
    shape = ir.node("Shape", [ids])
    expanded = ir.node("Expand", [zeros, shape.outputs[0]])
    words = ir.node("Gather", [tables["words"], ids], name="words/Gather")
    kinds = ir.node("Gather", [tables["kinds"], expanded.outputs[0]], name="kinds/Gather")
    places = ir.node("Gather", [tables["places"], positions], name="places/Gather")
    first = ir.node("Add", [words.outputs[0], kinds.outputs[0]])
    total = ir.node("Add", [first.outputs[0], places.outputs[0]])
    total.outputs[0].name, total.outputs[0].type = "sum", ir.TensorType(ir.DataType.FLOAT)
    for value in (words.outputs[0], first.outputs[0], total.outputs[0]):
        value.shape = ir.Shape(["batch", 4, 8])
    nodes = [shape, expanded, words, kinds, places, first, total]
    initializers = [*tables.values(), zeros, positions]
    graph = ir.Graph(
        [ids], total.outputs, nodes=nodes, initializers=initializers, name="g",
        opset_imports={"": 20},
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.random.default_rng(1).integers(0, 50, (3, 4))
    return session.run(["sum"], {"ids": ids})[0]


def test_a_constant_type_joins_the_positions() -> None:
    model = embeddings(np.zeros((1, 4), np.int64))
    expected = run(model)
    assert constant_lookup.apply(model) == 1
    tidy.apply(model)
    tables = sorted(v.const_value.shape[0] for v in model.graph.initializers.values()
                    if v.const_value is not None and v.const_value.dtype == ir.DataType.FLOAT)  # fmt: skip
    assert tables == [6, 50]
    assert [node.op_type for node in model.graph] == ["Gather", "Gather", "Add"]
    np.testing.assert_allclose(run(model), expected, rtol=1e-6, atol=1e-6)


def test_types_that_differ_stay() -> None:
    model = embeddings(np.array([[0, 0, 1, 1]]))
    expected = run(model)
    assert constant_lookup.apply(model) == 0
    np.testing.assert_array_equal(run(model), expected)


@pytest.mark.parametrize("name", ["_0", "0", "_"])
def test_short_names_collide_with_no_input(name: str) -> None:
    model = embeddings(np.zeros((1, 4), np.int64))
    expected = run(model)
    graph = model.graph
    before = [node.name for node in graph]
    count = short_names.apply(model)
    assert count == len(graph.initializers) + len(list(graph)) - 1
    assert [node.name for node in graph] == before
    np.testing.assert_array_equal(run(model), expected)
    graph.inputs[0].name = name
    short_names.apply(model)
    names = [v.name for v in (*graph.initializers.values(), *graph.inputs)]
    names += [value.name for node in graph for value in node.outputs]
    assert len(names) == len(set(names))
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
