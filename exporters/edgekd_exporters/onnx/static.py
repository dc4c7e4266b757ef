"""int8 with activation ranges from calibration rows, in QDQ form.

The right form for convolutions, whose dynamic int8 has no kernel. onnxruntime's quantizer places
the QuantizeLinear/DequantizeLinear pairs: per-channel int8 weights, uint8 activations; the pairs
fuse into integer kernels when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgekd_exporters.onnx.calibrate import Method, ranges
from edgekd_exporters.onnx.files import hold_weights
from edgekd_exporters.onnx.weights import weighted

# Beside an int8 convolution these stay in integers; around a matrix product they would only add
# conversions, and a transformer that cuts its image up with one convolution has many of those.
_BESIDE_CONVOLUTIONS = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool",
                        "Relu", "Resize")  # fmt: skip


def apply(
    model: ir.Model,
    chosen: Callable[[str], bool],
    rows: Sequence[Mapping[str, np.ndarray]],
    method: Method,
    bits: int,
) -> tuple[ir.Model, int]:
    """Return ``model`` with every matrix and convolution of a ``chosen`` module in int8.

    ``rows`` are encoded inputs, one example each. The second value counts the weighted nodes
    quantized.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    items = [item for item in weighted(model) if item.kind != "table"]
    taken = [item for item in items if chosen(item.module)]
    if not taken:
        return model, 0
    kept = {item.module for item in items} - {item.module for item in taken}
    nodes = [item.node for item in taken]
    nodes += _beside([item.node for item in taken if item.kind == "conv"], kept)
    activations = {name for node in nodes for name in _activations(node)}
    found = ranges(model, sorted(activations), rows, method)
    nodes = [node for node in nodes if _activations(node) <= set(found)]  # no index arithmetic
    options: dict[str, Any] = {
        "DefaultTensorType": onnx.TensorProto.FLOAT,
        "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
    }
    hold_weights(model)  # the quantizer reads them; it infers the shapes itself
    quantizer = QDQQuantizer(
        ir.to_proto(model),
        per_channel=True,
        reduce_range=bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, dict(found)),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options=options,
    )
    quantizer.quantize_model()
    return ir.from_proto(quantizer.model.model), len(taken)


def _beside(convolutions: Sequence[ir.Node], kept: Collection[str]) -> list[ir.Node]:
    """What stays in integers: reached from a convolution through such nodes alone."""
    found: dict[ir.Node, None] = {}
    edge = list(convolutions)
    while edge:
        node = edge.pop()
        new = [
            other
            for other in (*node.predecessors(), *node.successors())
            if other.op_type in _BESIDE_CONVOLUTIONS
            and other not in found
            and (other.name or "").rpartition("/")[0] not in kept
        ]
        found |= dict.fromkeys(new)
        edge += new
    return list(found)


def _activations(node: ir.Node) -> set[str]:
    values = (*node.inputs, *node.outputs)
    return {v.name for v in values if v is not None and v.name and v.const_value is None}
