"""int8 with activation ranges taken at run time: needs no calibration rows.

Each matrix keeps one symmetric scale per output column; activations become uint8 with the range
of the tensor at hand. The nodes written (DynamicQuantizeLinear, MatMulInteger, Cast, Mul) are
standard ones that ONNX Runtime fuses into one kernel when it loads the graph. Lookup tables keep
one scale per column: embeddings have a few columns of large values, and a scale per row would
cost a second lookup and 4 bytes per piece of the vocabulary. Convolutions stay in float: ConvInteger has no kernel for these types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.passes.graph import initializer, replace
from edgekd_exporters.onnx.weights import SMALLEST_BYTES, Weighted, weighted


def apply(
    model: ir.Model,
    chosen: Callable[[str], bool],
    bits: int = 8,
    kinds: Collection[str] = ("linear", "table"),
) -> int:
    """Quantize the linear and lookup nodes of every ``chosen`` module; return how many.

    ``bits`` is the width of the matrices' weights: 7 where the processor's dot product
    saturates (see ``cpu.py``). Lookup tables are never multiplied in int8 and keep 8.
    """
    quantized: dict[int, ir.Node] = {}  # activation -> its DynamicQuantizeLinear
    count = 0
    for item in list(weighted(model)):
        if item.kind not in kinds or not chosen(item.module):
            continue
        if item.kind == "linear":
            _linear(model, item, bits, quantized)
        elif item.weight.nbytes >= SMALLEST_BYTES:
            _table(model, item)
        else:
            continue
        count += 1
    return count


def symmetric(weight: np.ndarray, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round ``weight`` to ``bits``-wide integers with one scale per slice along ``axis``.

    Returns int8 of the same shape and float32 scales with ``axis`` reduced to 1, such that
    ``integers * scales`` is within half a scale of ``weight``.
    """
    top = 2 ** (bits - 1) - 1
    peak = np.abs(weight).max(axis=axis, keepdims=True).astype(np.float32)
    normal = peak > top * np.finfo(np.float32).tiny  # smaller peaks are zeros to any use
    scale = np.where(normal, peak / np.float32(top), np.float32(1))
    return np.rint(weight / scale).clip(-top, top).astype(np.int8), scale


def _linear(model: ir.Model, item: Weighted, bits: int, quantized: dict[int, ir.Node]) -> None:
    node, name = item.node, item.node.name
    integers, scale = symmetric(np.ascontiguousarray(item.matrix), 0, bits)
    activation = node.inputs[0]
    new: list[ir.Node] = []
    if id(activation) not in quantized:
        quantize = ir.node("DynamicQuantizeLinear", [activation], num_outputs=3, name=f"{name}.q")
        quantized[id(activation)] = quantize
        new.append(quantize)
    values, step, zero = quantized[id(activation)].outputs
    weight = initializer(model, f"{item.name}.int8", integers)
    columns = initializer(model, f"{item.name}.scale", scale[0])
    product = ir.node("MatMulInteger", [values, weight, zero], name=f"{name}Integer")
    cast = ir.node("Cast", product.outputs, {"to": ir.DataType.FLOAT}, name=f"{name}.float")
    steps = ir.node("Mul", [step, columns], name=f"{name}.scales")
    scaled = ir.node("Mul", [cast.outputs[0], steps.outputs[0]], name=f"{name}.scaled")
    new += [product, cast, steps, scaled]
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        new.append(ir.node("Add", [scaled.outputs[0], node.inputs[2]], name=f"{name}.bias"))
    replace(model, node, new)


def _table(model: ir.Model, item: Weighted) -> None:
    node, name = item.node, item.node.name
    integers, scale = symmetric(item.weight, 0, 8)
    rows = ir.node(
        "Gather", [initializer(model, f"{item.name}.int8", integers), node.inputs[1]], name=name
    )
    columns = initializer(model, f"{item.name}.scale", scale[0])
    cast = ir.node("Cast", rows.outputs, {"to": ir.DataType.FLOAT}, name=f"{name}.float")
    scaled = ir.node("Mul", [cast.outputs[0], columns], name=f"{name}.scaled")
    replace(model, node, [rows, cast, scaled])
