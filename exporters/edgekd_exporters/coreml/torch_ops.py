"""Torch ops that coremltools 9 cannot translate: a rule or another name for each.

An op that a newer coremltools knows by itself is left to it. Each entry says who needs it.
"""

from __future__ import annotations

import math
from typing import Any

# DeBERTa fills masked scores with the lowest float32, in fp16 minus infinity: a row of nothing
# else becomes NaN. What is filled in, unlike what is added, may be any number below all scores.
_LOWEST, _FILL = -1e30, -4e4


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
    """Give ops another spelling of the same thing, in place: one that converts, or survives fp16."""
    import torch

    aten = torch.ops.aten
    # Masks combined with ``&`` and ``|`` (ModernBERT, Funnel). The registry refuses names that
    # end in "_", and coremltools knows no bitwise "or".
    same = {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.logical_or.default,
        aten.bitwise_or.Tensor: aten.logical_or.default,
    }
    for node in graph.graph.nodes:
        boolean = getattr(node.meta.get("val"), "dtype", None) == torch.bool
        node.target = same.get(node.target, node.target) if boolean else node.target
        if node.target is aten.masked_fill.Scalar:
            x, mask, value = node.args
            if isinstance(value, float) and -math.inf < value <= _LOWEST:
                node.args = (x, mask, _FILL)


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
