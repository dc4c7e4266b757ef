"""fp16 for GPU providers; inputs and outputs stay float32.

onnxruntime's CPU provider has few half-precision kernels and converts around the rest: the rung
halves the file there and runs slower, which the search measures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import onnx
import onnx_ir as ir

from edgekd_exporters.onnx.files import weights_folder
from edgekd_exporters.onnx.weights import weighted


def apply(model: ir.Model, chosen: Callable[[str], bool]) -> tuple[ir.Model, int]:
    """Return ``model`` in half precision but for the modules not ``chosen``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    items = list(weighted(model))
    kept = {item.module for item in items if not chosen(item.module)}
    blocked = [n.name for n in model.graph if (n.name or "").rpartition("/")[0] in kept]
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # the converter would round a kept weight that is listed there
    # Shapes are inferred while weights beside the file are still there: inference ends at 2 GB.
    proto = onnx.shape_inference.infer_shapes(proto)
    if folder := weights_folder(model):
        onnx.load_external_data_for_model(proto, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one line per weight that rounds to zero
        half = convert_float_to_float16(
            proto, keep_io_types=True, disable_shape_infer=True, node_block_list=blocked
        )
    return ir.from_proto(half), sum(item.module not in kept for item in items)
