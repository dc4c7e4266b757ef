"""Compute one position where only one is read.

A classifier on token 0 (BERT's pooler, ViT's class token) throws away every other position of
the last layer. Here ``select(x, dim, 0)`` is pushed up through that layer: the additions, the
norms, the feed-forward matrices, the attention's output projection and its query side then
handle a single position; only keys and values still see every token. Each output element is the
same sum of the same terms, so the result is exact up to the order of additions.

A node is narrowed only if *every* reader of it wants index 0 of the same dimension and its
operator has a rule below; anything else stops the push there, so an unknown graph stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

aten = torch.ops.aten

# (argument, its dimension to narrow); a dimension of None: the argument is read in full.
Demand = tuple[Node, int | None]
# Given a node and the dimension wanted of its result, what it wants of its arguments; None
# where the operator mixes that dimension.
Rule = Callable[[Node, int], list[Demand] | None]


def apply(program: ExportedProgram) -> int:
    """Narrow ``program``'s graph in place; return how many linear operators now do less."""
    graph = program.graph_module.graph
    wanted = _wanted(list(graph.nodes))
    saved = sum(node.target is aten.linear.default for node in wanted)
    if not saved:
        return 0
    slices: dict[tuple[Node, int], Node] = {}
    for node in list(graph.nodes):
        if node not in wanted:
            continue
        for argument, dim in _demands(node, wanted[node]) or []:
            if dim is not None and argument not in wanted:
                narrow = _slice(node, argument, dim, slices)
                node.replace_input_with(argument, narrow)
        _fix_sizes(node, wanted[node])
        _refresh(node)
    graph.eliminate_dead_code()
    graph.lint()
    program.graph_module.recompile()
    return saved


def _wanted(nodes: Sequence[Node]) -> dict[Node, int]:
    """Nodes of whose result every reader wants only index 0, with the dimension."""
    wanted: dict[Node, int] = {}
    for node in reversed(nodes):
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        dims = {_dimension_read(user, node, wanted) for user in node.users if _reads(user)}
        if len(dims) != 1 or None in dims:
            continue
        (dim,) = dims
        assert dim is not None
        if _demands(node, dim) is not None:
            wanted[node] = dim
    return wanted


def _dimension_read(user: Node, node: Node, wanted: dict[Node, int]) -> int | None:
    """The dimension of ``node`` of which ``user`` reads index 0 alone; None: reads it all."""
    if user.target is aten.select.int and user.args[2] == 0:
        return _positive(user.args[1], node)
    if user not in wanted:
        return None
    dims = {dim for argument, dim in _demands(user, wanted[user]) or [] if argument is node}
    return dims.pop() if len(dims) == 1 else None


def _reads(user: Node) -> bool:
    return user.target is not aten._assert_tensor_metadata.default


def _slice(node: Node, argument: Node, dim: int, slices: dict[tuple[Node, int], Node]) -> Node:
    """``argument[..., 0:1, ...]``, once per argument and dimension."""
    if (argument, dim) not in slices:
        with node.graph.inserting_before(node):
            narrow = node.graph.call_function(aten.slice.Tensor, (argument, dim, 0, 1))
        narrow.meta = dict(node.meta)
        _refresh(narrow)
        slices[argument, dim] = narrow
    return slices[argument, dim]


def _refresh(node: Node) -> None:
    """Recompute a node's example value from its arguments' ones, by shape alone."""
    args = torch.fx.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = torch.fx.map_arg(node.kwargs, lambda n: n.meta["val"])
    first = next(n.meta["val"] for n in node.all_input_nodes if hasattr(n.meta["val"], "fake_mode"))
    assert callable(node.target)
    with first.fake_mode:
        node.meta["val"] = node.target(*args, **kwargs)


def _fix_sizes(node: Node, dim: int) -> None:
    """A shape written out in a narrowed node says 1 where it said the length."""
    if node.target in _RESHAPES or node.target is aten.expand.default:
        sizes = list(node.args[1])  # type: ignore[arg-type]
        sizes[dim] = 1
        node.args = (node.args[0], sizes, *node.args[2:])


def _demands(node: Node, dim: int) -> list[Demand] | None:
    rule = _RULES.get(node.target)
    return rule(node, dim) if rule else None


def _shape(node: Node) -> Sequence[Any]:
    return node.meta["val"].shape


def _positive(dim: Any, node: Node) -> int:
    return dim % len(_shape(node))


def _tensors(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]


def _aligned(argument: Node, dim: int, rank: int) -> int | None:
    """The dimension of a broadcast argument under ``dim`` of a result of ``rank``."""
    own = dim - rank + len(_shape(argument))
    return None if own < 0 or _size([_shape(argument)[own]]) == (1, ()) else own


def _pointwise(node: Node, dim: int) -> list[Demand]:
    return [(n, _aligned(n, dim, len(_shape(node)))) for n in _tensors(node)]


def _linear(node: Node, dim: int) -> list[Demand] | None:
    if dim == len(_shape(node)) - 1:
        return None
    return [(node.args[0], dim)]  # type: ignore[list-item]


def _layer_norm(node: Node, dim: int) -> list[Demand] | None:
    normalized: Any = node.args[1]
    if dim >= len(_shape(node)) - len(normalized):
        return None
    return [(node.args[0], dim)]  # type: ignore[list-item]


def _softmax(node: Node, dim: int) -> list[Demand] | None:
    return None if dim == _positive(node.args[1], node) else [(node.args[0], dim)]  # type: ignore[list-item]


def _matmul(node: Node, dim: int) -> list[Demand] | None:
    """Rows of the left operand give rows of the product; the right one is needed in full."""
    left, right = node.args[0], node.args[1]
    assert isinstance(left, Node) and isinstance(right, Node)
    rank = len(_shape(node))
    if dim != rank - 2 or len(_shape(left)) < 2 or left is right:
        return None
    return [(left, len(_shape(left)) - 2), (right, None)]


def _attention(node: Node, dim: int) -> list[Demand] | None:
    """One query against every key: the mask keeps its row, keys and values stay whole."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    if dim != len(_shape(node)) - 2 or given.get("is_causal") or given.get("dropout_p"):
        return None
    query, mask = given["query"], given.get("attn_mask")
    assert isinstance(query, Node)
    if query in (given["key"], given["value"]):
        return None
    demands: list[Demand] = [(query, dim)]
    if isinstance(mask, Node):
        demands.append((mask, _aligned(mask, dim, len(_shape(node)))))
    return demands


def _transpose(node: Node, dim: int) -> list[Demand]:
    source, first, second = node.args
    assert isinstance(source, Node)
    a, b = _positive(first, source), _positive(second, source)
    return [(source, {a: b, b: a}.get(dim, dim))]


def _permute(node: Node, dim: int) -> list[Demand]:
    source, order = node.args
    assert isinstance(source, Node)
    return [(source, _positive(order[dim], source))]  # type: ignore[index]


def _reshape(node: Node, dim: int) -> list[Demand] | None:
    """The source dimension with the same size, the same product before it and after it."""
    source = node.args[0]
    assert isinstance(source, Node)
    new, old = _shape(node), _shape(source)
    for own in range(len(old)):
        parts = ((new[:dim], old[:own]), ([new[dim]], [old[own]]), (new[dim + 1 :], old[own + 1 :]))
        if all(_size(after) == _size(before) for after, before in parts):
            return [(source, own)]
    return None


def _size(shape: Sequence[Any]) -> tuple[int, tuple[str, ...]]:
    """The product of dimensions as (integer factor, sorted symbolic factors)."""
    factor, symbols = 1, []
    for size in shape:
        if isinstance(size, int):
            factor *= size
        else:
            symbols.append(str(size))
    return factor, tuple(sorted(symbols))


def _slice_other(node: Node, dim: int) -> list[Demand] | None:
    sliced = _positive(node.args[1] if len(node.args) > 1 else 0, node)
    return None if sliced == dim else [(node.args[0], dim)]  # type: ignore[list-item]


def _expand(node: Node, dim: int) -> list[Demand]:
    source = node.args[0]
    assert isinstance(source, Node)
    return [(source, _aligned(source, dim, len(_shape(node))))]


_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
            aten.gelu.default, aten.relu.default, aten.silu.default, aten.tanh.default,
            aten.sigmoid.default, aten.neg.default, aten.dropout.default, aten.clone.default,
            aten.contiguous.default, aten.alias.default, aten.to.dtype, aten._to_copy.default,
        ),
        _pointwise,
    ),
    **dict.fromkeys(_RESHAPES, _reshape),
    aten.linear.default: _linear,
    aten.layer_norm.default: _layer_norm,
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice_other,
    aten.expand.default: _expand,
}  # fmt: skip
