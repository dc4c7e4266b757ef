"""Read a layer's queries, keys and values from a model as it runs, for relation losses.

Forward hooks, removed when the context ends: the model's class, weights and outputs are never
touched, so nothing of it can reach an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgekd.errors import InputError

# Names that transformers gives to the three projections, and to one that makes all three.
_TRIPLES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
_FUSED = ("Wqkv", "c_attn", "qkv")


@contextmanager
def queries_keys_values(model: nn.Module, *layers: int) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that returns the last forward's [batch, positions, 3 per layer, width].

    ``layers`` count the model's attention blocks, from the end where negative; the last one alone
    by default. All heads are joined, as the projections give them. Raises :class:`InputError` for
    a model whose projections are not found or not equally wide, and for a layer that it does not
    have.
    """
    blocks = attention_blocks(model)
    layers = layers or (-1,)
    for layer in layers:
        if not -len(blocks) <= layer < len(blocks):
            raise InputError(
                f"{type(model).__name__} has {len(blocks)} attention layers with known query, key"
                f" and value projections; layer {layer} is not one of them"
            )
    chosen = [blocks[layer] for layer in layers]
    seen: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[module] = output

    read_from = {part for block in chosen for part in block}
    handles = [part.register_forward_hook(remember) for part in read_from]

    def read() -> Tensor:
        if len(seen) < len(read_from):
            raise RuntimeError("no forward has run since the taps were set")
        parts: list[Tensor] = []
        for block in chosen:
            said = [seen[part] for part in block]
            parts += said[0].chunk(3, -1) if len(said) == 1 else said
        if len({part.shape for part in parts}) > 1:
            raise InputError(
                f"{type(model).__name__} shares keys among queries, so its queries, keys and values"
                " are not equally wide; use the hidden or the logit losses"
            )
        return torch.stack(parts, 2)

    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def attention_blocks(model: nn.Module) -> list[tuple[nn.Module, ...]]:
    """The projections of every attention block in the order of the layers: three, or one fused."""
    blocks: list[tuple[nn.Module, ...]] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in (*_TRIPLES, *((name,) for name in _FUSED)):
            if all(name in children for name in names):
                blocks.append(tuple(children[name] for name in names))
                break
    return blocks
