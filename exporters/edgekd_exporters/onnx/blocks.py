"""Weights of 4 or 8 bits in blocks along the inputs, one scale each; activations stay float.

``com.microsoft.MatMulNBits`` multiplies without unpacking the weight, its activations rounded to
int8 block by block (accuracy level 4); ``GatherBlockQuantized`` looks rows up the same way. Fine
scales make these the most accurate rungs for their size; whether they are fast depends on the
processor, so they are measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.passes.graph import initializer, replace
from edgekd_exporters.onnx.weights import SMALLEST_BYTES, Weighted, weighted

DOMAIN = "com.microsoft"
BLOCK = 32
_INT8_ACTIVATIONS = 4


def apply(model: ir.Model, chosen: Callable[[str], bool], bits: int, tables: bool = True) -> int:
    """Pack every linear and (with ``tables``) lookup node of a ``chosen`` module; return how many."""
    count = 0
    for item in list(weighted(model)):
        if not chosen(item.module) or item.weight.nbytes < SMALLEST_BYTES:
            continue
        if item.kind == "linear":
            _linear(model, item, bits)
        elif tables and item.kind == "table" and item.weight.shape[1] % 2 == 0:
            _table(model, item, bits)
        else:
            continue
        count += 1
    if count:
        model.opset_imports[DOMAIN] = 1
    return count


def pack(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round [n, k] in blocks of :data:`BLOCK` along k to unsigned integers around 2^(bits-1).

    Returns uint8 [n, blocks, BLOCK * bits / 8], low nibble first, and float32 scales
    [n, blocks]. The last block is filled up with zeros.
    """
    count, width = rows.shape
    blocks = -(-width // BLOCK)
    padded = np.zeros((count, blocks * BLOCK), np.float32)
    padded[:, :width] = rows
    padded = padded.reshape(count, blocks, BLOCK)
    middle = 2 ** (bits - 1)
    # The value of largest magnitude lands on -2^(bits-1), the one code without a twin.
    place = np.abs(padded).argmax(-1)[..., None]
    scale = np.take_along_axis(padded, place, -1)[..., 0] / -middle
    scale = np.where(np.abs(scale) > np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    codes = np.rint(padded / scale[..., None]).clip(-middle, middle - 1) + middle
    codes = codes.astype(np.uint8)
    return _nibbles(codes) if bits == 4 else codes, scale


def _nibbles(codes: np.ndarray) -> np.ndarray:
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _linear(model: ir.Model, item: Weighted, bits: int) -> None:
    node, name = item.node, item.node.name
    inputs, outputs = item.matrix.shape
    codes, scale = pack(np.ascontiguousarray(item.matrix.T), bits)
    product = ir.node(
        "MatMulNBits",
        [
            node.inputs[0],
            initializer(model, f"{item.name}.int{bits}", codes),
            initializer(model, f"{item.name}.scale", scale),
        ],
        {
            "K": inputs,
            "N": outputs,
            "bits": bits,
            "block_size": BLOCK,
            "accuracy_level": _INT8_ACTIVATIONS,
        },
        domain=DOMAIN,
        name=f"{name}NBits",
    )
    new = [product]
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        new.append(ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{name}.bias"))
    replace(model, node, new)


def _table(model: ir.Model, item: Weighted, bits: int) -> None:
    node, name = item.node, item.node.name
    codes, scale = pack(item.weight, bits)
    rows = codes.reshape(len(codes), -1)[:, : item.weight.shape[1] * bits // 8]
    lookup = ir.node(
        "GatherBlockQuantized",
        [
            initializer(model, f"{item.name}.int{bits}", np.ascontiguousarray(rows)),
            node.inputs[1],
            initializer(model, f"{item.name}.scale", scale),
        ],
        {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": bits},
        domain=DOMAIN,
        name=name,
    )
    replace(model, node, [lookup])
