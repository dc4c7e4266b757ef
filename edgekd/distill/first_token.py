"""Train without computing what no loss reads.

A classifier on the first token (BERT's pooler, ViT's class token) throws away every other position
of its last layer, and their gradients are zero. While the model trains, that layer computes
queries, output projection and feed-forward for the first positions alone; keys and values still
see all of them. Every number that is left is the same sum of the same terms. In a two-layer student
the last layer is half of the work, so this saves about two fifths of a step.

``passes/select_first_token.py`` does the same to an exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgekd.distill.student.layers import layer_list
from edgekd.errors import InputError

MOST = 2  # positions that a head may read: AST averages its two special tokens
TOLERANCE = 1e-5  # of the outputs: sums of fewer terms may be ordered otherwise


@contextmanager
def first_positions(
    model: nn.Module, feeds: Mapping[str, Tensor], read: Callable[[Any], Mapping[str, Tensor]]
) -> Iterator[int]:
    """Within the context ``model`` computes only the positions of its last layer that are read.

    ``feeds`` is a batch of two positions or more on which this is tried: only where all that
    ``read`` takes from the model's outputs stays the same is it kept. Yields the number of
    positions computed, 0 where the model reads all of them or its family is not known here.
    """
    found = _last_layer(model)
    training = model.training
    model.eval()
    try:
        kept = 0
        if found is not None:
            layer, narrowed = found
            with torch.no_grad():
                whole = read(model(**feeds))
                for count in range(1, MOST + 1):
                    layer.forward = narrowed(layer, count)
                    if _same(whole, model, feeds, read):
                        kept = count
                        break
                    del layer.forward
    finally:
        model.train(training)
    try:
        yield kept
    finally:
        if kept:
            del layer.forward


def _same(
    whole: Mapping[str, Tensor],
    model: nn.Module,
    feeds: Mapping[str, Tensor],
    read: Callable[[Any], Mapping[str, Tensor]],
) -> bool:
    try:
        part = read(model(**feeds))
    except (RuntimeError, IndexError):  # a head that wants every position
        return False
    return all(
        part[name].shape == value.shape
        and torch.allclose(part[name], value, rtol=TOLERANCE, atol=TOLERANCE)
        for name, value in whole.items()
    )


def _last_layer(model: nn.Module) -> tuple[Any, Callable[[Any, int], Callable[..., Tensor]]] | None:
    """The model's last layer and what narrows it, where its layout is one of two known ones."""
    try:
        path, _ = layer_list(model)
    except InputError:
        return None
    layer: Any = model.get_submodule(path)[-1]  # type: ignore[index]
    attention = getattr(layer, "attention", None)
    inner = getattr(attention, "self", None)
    if all(hasattr(inner, name) for name in ("query", "key", "value", "attention_head_size")):
        known = hasattr(layer, "feed_forward_chunk") and not getattr(layer, "is_decoder", False)
        return (layer, _post_norm) if known else None
    parts = ("layernorm_before", "layernorm_after", "mlp", "dropout")
    if hasattr(attention, "q_proj") and all(hasattr(layer, name) for name in parts):
        return layer, _pre_norm
    return None


def _post_norm(layer: Any, count: int) -> Callable[..., Tensor]:
    """BERT's layer: residual, then norm, both inside the ``output`` modules."""
    attention, inner = layer.attention, layer.attention.self

    def forward(hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        first = hidden[:, :count]
        projected = inner.query(first), inner.key(hidden), inner.value(hidden)
        rate = inner.dropout.p if inner.training else 0.0
        mixed = _attend(inner, projected, attention_mask, inner.attention_head_size, rate)
        return layer.feed_forward_chunk(attention.output(mixed, first))

    return forward


def _pre_norm(layer: Any, count: int) -> Callable[..., Tensor]:
    """ViT's layer: norm, then residual."""
    attention = layer.attention

    def forward(hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        normed = layer.layernorm_before(hidden)
        projected = (
            attention.q_proj(normed[:, :count]),
            attention.k_proj(normed),
            attention.v_proj(normed),
        )
        rate = attention.attention_dropout if attention.training else 0.0
        mixed = _attend(attention, projected, attention_mask, attention.head_dim, rate)
        first = hidden[:, :count] + layer.dropout(attention.o_proj(mixed))
        return first + layer.dropout(layer.mlp(layer.layernorm_after(first)))

    return forward


def _attend(
    module: Any, projected: tuple[Tensor, ...], mask: Tensor | None, head: int, rate: float
) -> Tensor:
    """The family's own attention of few queries [batch, count, width] on all keys."""
    query, key, value = (p.unflatten(-1, (-1, head)).transpose(1, 2) for p in projected)
    if mask is not None:
        mask = mask[..., : query.shape[2], :]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, _eager)
    mixed, _ = attend(module, query, key, value, mask, dropout=rate, scaling=module.scaling)
    return mixed.flatten(2)


def _eager(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(-1, -2) * scaling
    weights = (scores if mask is None else scores + mask).softmax(-1)
    weights = nn.functional.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2), weights
