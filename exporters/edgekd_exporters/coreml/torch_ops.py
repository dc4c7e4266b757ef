"""Torch ops that coremltools 9 cannot translate: a rule or another name for each.

An op that a newer coremltools knows by itself is left to it. Each entry says who needs it.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Add the missing ops to coremltools' public registry; a second call does nothing."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import (
        _TORCH_OPS_REGISTRY,
        register_torch_op,
    )

    known = _TORCH_OPS_REGISTRY.name_to_func_mapping
    for function, names in OPS.items():
        missing = [name for name in (function.__name__, *names) if name not in known]
        if missing:
            register_torch_op(function, torch_alias=list(names), override=True)


def rename(graph: Any) -> None:
    """Give ops another spelling of the same thing, in place, where only that is registrable."""
    import torch

    aten = torch.ops.aten
    # ModernBERT combines boolean masks with ``&``. The registry refuses names that end in "_".
    same = {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
    }
    for node in graph.graph.nodes:
        node.target = same.get(node.target, node.target)


def alias(context: Any, node: Any) -> None:
    """GPT-2 and Llama: ``aten.alias`` is its input under another name."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    context.add(mb.identity(x=_get_inputs(context, node)[0], name=node.name))


def new_ones(context: Any, node: Any) -> None:
    """Models that build a mask of their own: ``x.new_ones(shape, dtype=…)``."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import (
        NUM_TO_DTYPE_STRING,
        _get_inputs,
        _get_kwinputs,
    )

    shape = _get_inputs(context, node)[1]
    if isinstance(shape, list | tuple):
        shape = mb.concat(values=shape, axis=0) if shape else None
    elif shape.val is not None and not len(shape.val):
        shape = None
    ones = mb.const(val=1.0) if shape is None else mb.fill(shape=shape, value=1.0)
    dtype = _get_kwinputs(context, node, "dtype", default=[None])[0]
    kind = "fp32" if dtype is None else NUM_TO_DTYPE_STRING[dtype.val]
    context.add(mb.cast(x=ones, dtype=kind, name=node.name))


def where_scalarother(context: Any, node: Any) -> None:
    """Models that mask with ``torch.where(mask, x, number)``."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    cond, a, b = _get_inputs(context, node, expected=3)
    b = mb.cast(x=b, dtype="fp32" if a.dtype.__name__ == "fp32" else "int32")
    context.add(mb.select(cond=mb.cast(x=cond, dtype="bool"), a=a, b=b, name=node.name))


OPS: dict[Any, tuple[str, ...]] = {
    alias: (),
    new_ones: (),
    where_scalarother: ("where.scalarother",),
}
