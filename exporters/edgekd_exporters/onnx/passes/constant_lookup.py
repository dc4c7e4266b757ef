"""Look up at export what every input looks up alike.

A text without a pair has token type 0 everywhere, and torch still writes the lookup: zeros are
gathered, expanded to the batch and looked up in a table of two rows. The row it finds is constant.
It is added to the table of positions, which is looked up for every token anyway, so that the
table, the lookup and one addition disappear.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.passes.graph import constant, initializer

_KEEPS_VALUES = ("Expand", "GatherElements", "Gather", "Reshape", "Slice", "Unsqueeze", "Identity")


def apply(model: ir.Model) -> int:
    """Fold lookups at one constant index into the other table of the same sum; needs shapes."""
    count = 0
    for gather in list(model.graph):
        table = _table(gather)
        index = _uniform(gather.inputs[1]) if table is not None else None
        if table is None or index is None:
            continue
        users = gather.outputs[0].consumers()
        add = users[0] if len(users) == 1 and users[0].op_type == "Add" else None
        other = _other(add, gather.outputs[0]) if add is not None else None
        if (
            add is None
            or other is None
            or other.shape is None
            or other.shape != add.outputs[0].shape
        ):
            continue  # the lookup gives the sum its shape
        target = _lookup_beside(add, other)
        rows = _table(target) if target is not None else None
        if target is None or rows is None or rows.shape[1] != table.shape[1]:
            continue
        name = f"{target.name}.with_constant"
        target.replace_input_with(0, initializer(model, name, rows + table[index]))
        ir.convenience.replace_all_uses_with(add.outputs[0], other)
        model.graph.remove(add, safe=True)
        count += 1
    return count


def _table(node: ir.Node) -> np.ndarray | None:
    """The constant float table whose rows ``node`` looks up and nothing else reads."""
    if node.op_type != "Gather" or ("axis" in node.attributes and node.attributes["axis"].as_int()):
        return None
    table = constant(node.inputs[0])
    alone = node.inputs[0] is not None and len(node.inputs[0].uses()) == 1
    return (
        table
        if table is not None and table.ndim == 2 and table.dtype == np.float32 and alone
        else None
    )


def _uniform(value: ir.Value | None) -> int | None:
    """The one number that ``value`` holds everywhere, if it is that of a constant."""
    while value is not None:
        array = constant(value)
        if array is not None:
            same = array.size and (array == array.flat[0]).all()
            return int(array.flat[0]) if same else None
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _KEEPS_VALUES else None
    return None


def _other(add: ir.Node, value: ir.Value) -> ir.Value | None:
    left, right = add.inputs
    return right if left is value else left


def _lookup_beside(add: ir.Node, other: ir.Value) -> ir.Node | None:
    """A lookup that is summed with ``add``: its other operand, or one added to its result."""
    candidates = [other]
    users = add.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add":
        candidates.append(_other(users[0], add.outputs[0]) or other)
    # The smaller table: adding a row to a vocabulary would change more numbers for nothing.
    found = [
        (t.size, p) for c in candidates if (p := c.producer()) and (t := _table(p)) is not None
    ]
    return min(found, key=lambda item: item[0])[1] if found else None
