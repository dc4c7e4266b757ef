"""Give every Reshape a constant shape where its sizes are copies of the input's.

torch writes ``Reshape(x, Concat(Shape(ids)[0], Shape(ids)[1], -1, 32))``. ONNX says the same with
``[0, 0, 12, 32]``: 0 copies the input's size at that place, and one -1 is inferred. The shape
arithmetic disappears, and shapes can be inferred from the file alone. A Reshape to the shape
that its input has is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir


def apply(model: ir.Model) -> int:
    """Rewrite the Reshape nodes whose result's shape is known; needs torch's shapes."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None:
            continue
        if len(before) == len(after) and all(map(_same, before, after)):
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            model.graph.remove(node, safe=True)
            count += 1
            continue
        sizes = _constant(list(before), list(after))
        old = node.inputs[1]
        if sizes is None or (old is not None and old.const_value is not None):
            continue
        name = f"shape.{'_'.join(map(str, sizes))}"
        shape = model.graph.initializers.get(name)
        if shape is None:
            array = np.array(sizes, np.int64)
            shape = ir.val(name, ir.DataType.INT64, [len(sizes)], const_value=ir.tensor(array))
            model.graph.register_initializer(shape)
        node.replace_input_with(1, shape)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        count += 1
    return count


def _constant(before: Sequence[object], after: Sequence[object]) -> list[int] | None:
    """``after`` written with 0 for a copied size and -1 for at most one other symbol."""
    sizes = []
    for place, size in enumerate(after):
        if isinstance(size, int):
            if size == 0:
                return None
            sizes.append(size)
        elif place < len(before) and _same(before[place], size):
            sizes.append(0)
        else:
            sizes.append(-1)
    return sizes if sizes.count(-1) <= 1 else None


def _same(left: object, right: object) -> bool:
    """Equal numbers, or equal named dimensions; an unnamed one equals nothing."""
    return left == right and (isinstance(left, int) or getattr(left, "value", None) is not None)
