"""Small questions about a graph that several passes ask."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes ``value``, if it is an ``op_type``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    """The one node that reads ``value``, if there is one and it is an ``op_type``."""
    users = value.consumers()
    if len(users) != 1 or users[0].op_type != op_type or value.is_graph_output():
        return None
    return users[0]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a constant value."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def ints(node: ir.Node, name: str) -> list[int]:
    """An integer-list attribute, empty where it is not set."""
    return list(node.attributes[name].as_ints()) if name in node.attributes else []


def initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """``array`` as an initializer called ``name``, registered once."""
    if name not in model.graph.initializers:
        value = ir.Value(
            name=name,
            const_value=ir.tensor(array, name=name),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        model.graph.register_initializer(value)
    return model.graph.initializers[name]


def replace(model: ir.Model, node: ir.Node, new: list[ir.Node]) -> None:
    """Put ``new`` in the place of ``node``; the last new node's output takes over its output."""
    old, value = node.outputs[0], new[-1].outputs[0]
    value.type, value.shape = old.type, old.shape
    model.graph.insert_before(node, new)
    # A graph output keeps its name.
    value.name, old.name = old.name, f"{old.name}.replaced"
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
