"""Store biases, norms and scales in half precision, widened again when the graph is loaded.

Beside int8 matrices these float32 vectors are a per cent or more of the file. onnxruntime folds a
Cast of a constant while it loads, so that the same graph runs, as fast; its values are rounded to
half precision (relative 5e-4).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.passes.graph import initializer

SMALLEST = 64  # elements: below, the Cast costs as much as it saves
ERROR = 1e-3  # relative, of values that are not small beside the others; int8 rounds to 4e-3


def apply(model: ir.Model, chosen: Callable[[str], bool]) -> int:
    """Halve the vectors that only nodes of ``chosen`` modules read; return how many."""
    count = 0
    for value in list(model.graph.initializers.values()):
        users = value.consumers()
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or not users:
            continue
        if value.is_graph_output() or not all(chosen(_module(node)) for node in users):
            continue
        array = value.const_value.numpy()
        if array.ndim == 1 and array.size >= SMALLEST and _fits(array):
            _halve(model, value, array, f"widen.{count}")
            count += 1
    return count


def _fits(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        error = np.abs(array.astype(np.float16).astype(np.float32) - array)
    return bool((error <= ERROR * np.maximum(np.abs(array), np.abs(array).mean())).all())


def _halve(model: ir.Model, value: ir.Value, array: np.ndarray, name: str) -> None:
    users = list(value.uses())
    half = initializer(model, f"{value.name}.half", array.astype(np.float16))
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=name)
    model.graph.insert_before(model.graph[0], cast)
    for node, index in users:
        node.replace_input_with(index, cast.outputs[0])


def _module(node: ir.Node) -> str:
    return (node.name or "").rpartition("/")[0]
