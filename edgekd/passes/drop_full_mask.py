"""Drop an attention mask that hides nothing.

Vision models of transformers 5 hand attention a boolean mask built from constants that is true
everywhere. It costs a comparison, a selection and an addition per layer, and keeps runtimes from
their unmasked kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

aten = torch.ops.aten

# Operators that only repeat or rename elements: all true before means all true after.
_VIEWS = (aten.expand.default, aten.unsqueeze.default, aten.view.default, aten.slice.Tensor,
          aten.alias.default, aten.to.dtype)  # fmt: skip
_MASK = 3  # place of attn_mask among the arguments


def apply(program: ExportedProgram) -> int:
    """Remove all-true masks from ``program``'s attention in place; return how many."""
    graph = program.graph_module.graph
    count = 0
    for node in graph.nodes:
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        mask = node.args[_MASK] if len(node.args) > _MASK else node.kwargs.get("attn_mask")
        if not isinstance(mask, Node) or not _all_true(mask):
            continue
        if len(node.args) > _MASK:
            node.update_arg(_MASK, None)
        else:
            node.update_kwarg("attn_mask", None)
        count += 1
    if count:
        graph.eliminate_dead_code()
        program.graph_module.recompile()
    return count


def _all_true(mask: Node) -> bool:
    if mask.meta["val"].dtype != torch.bool:
        return False
    while mask.target in _VIEWS and isinstance(mask.args[0], Node):
        mask = mask.args[0]
    value = _constant(mask, {})
    return value is not None and value.dtype == torch.bool and bool(value.all())


def _constant(node: Node, known: dict[Node, Any]) -> torch.Tensor | None:
    """Evaluate ``node`` where nothing it is made of depends on an input or a symbolic size."""
    if node not in known:
        known[node] = None
        constant = node.op == "call_function" and callable(node.target)
        sources = [_constant(source, known) for source in node.all_input_nodes]
        if constant and all(source is not None for source in sources):
            args = torch.fx.map_arg(node.args, lambda n: known[n])
            kwargs = torch.fx.map_arg(node.kwargs, lambda n: known[n])
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]
