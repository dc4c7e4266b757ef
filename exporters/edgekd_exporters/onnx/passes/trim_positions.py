"""Keep only the position embeddings that an input of the longest allowed length can reach.

BERT's table has 512 rows; a student that reads 64 tokens looks up the first 64 of them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.passes.graph import constant, initializer, producer


def apply(model: ir.Model, longest: int) -> int:
    """Cut tables that are looked up at constant positions, of which ``longest`` are read."""
    count = 0
    for gather in model.graph:
        table = constant(gather.inputs[0]) if gather.op_type == "Gather" else None
        cut = producer(gather.inputs[1], "Slice") if table is not None else None
        if table is None or cut is None or not _first_along_last(cut):
            continue
        positions = constant(cut.inputs[0])
        if positions is None or positions.shape[-1] <= longest:
            continue
        kept = positions[..., :longest]
        rows = int(kept.max()) + 1
        name = f"{gather.name}.first_{longest}"
        cut.replace_input_with(0, initializer(model, f"{name}.positions", kept))
        gather.replace_input_with(0, initializer(model, name, np.ascontiguousarray(table[:rows])))
        count += 1
    return count


def _first_along_last(cut: ir.Node) -> bool:
    """Whether ``cut`` takes ``[..., :n]``."""
    start, axes, steps = (constant(v) for v in (cut.inputs[1], *cut.inputs[3:5]))
    positions = constant(cut.inputs[0])
    if start is None or axes is None or steps is None or positions is None:
        return False
    last = axes.size == 1 and int(axes[0]) % positions.ndim == positions.ndim - 1
    return last and not start.any() and (steps == 1).all()
