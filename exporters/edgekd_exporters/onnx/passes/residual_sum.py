"""Write the addition before a LayerNormalization as ``Sum``.

ONNX Runtime fuses ``Add`` + ``LayerNormalization`` into SkipLayerNormalization when it loads a
graph, and that CPU kernel is scalar: several times slower than the two vectorised nodes.
``Sum`` of two tensors is the same arithmetic on the same kernel as ``Add``, and is left alone.
"""

from __future__ import annotations

import onnx_ir as ir


def apply(model: ir.Model) -> int:
    """Replace each addition of two activations that feeds a LayerNormalization."""
    count = 0
    for norm in list(model.graph):
        total = norm.inputs[0] if norm.op_type == "LayerNormalization" else None
        add = total.producer() if total is not None else None
        if add is None or add.op_type != "Add":
            continue
        if any(value is None or value.const_value is not None for value in add.inputs):
            continue
        both = ir.node("Sum", list(add.inputs), name=add.name)
        both.outputs[0].shape, both.outputs[0].type = add.outputs[0].shape, add.outputs[0].type
        model.graph.insert_before(add, both)
        ir.convenience.replace_all_uses_with(add.outputs[0], both.outputs[0])
        model.graph.remove(add, safe=True)
        count += 1
    return count
