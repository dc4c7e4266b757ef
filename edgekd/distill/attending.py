"""How a model attends, seen on a few rows.

Attentions are made of the queries and keys that its projections give, which is what is stored of
a teacher. Rotary positions, relative biases and local windows come after the projections, so
whether that is the model's own attention is tried, never read off its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from edgekd.distill.losses.relation import later
from edgekd.distill.losses.taps import queries_keys_values
from edgekd.errors import InputError
from edgekd.infer import position_mask

TOLERANCE = 1e-3  # of a probability or a state; rounding stays far below, positions far above
_FLOOR = -1e30  # finite: a query without any key would be NaN, and its gradient too


def attention(qkv: Tensor, heads: int, mask: Tensor | None, *, back_only: bool = False) -> Tensor:
    """softmax(QKᵀ / √d) over the real keys: [batch, heads, positions, positions].

    ``qkv`` is [batch, positions, 3, width], ``mask`` [batch, positions]. With ``back_only`` a
    position sees itself and those before it.
    """
    query, key, _ = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.float().unbind(2)
    )
    scores: Tensor = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], _FLOOR)
    if back_only:
        scores = scores.masked_fill(later(scores), _FLOOR)
    return scores.softmax(-1)


def examine(
    model: Any,
    heads: int,
    feeds: Mapping[str, Tensor],
    *,
    attentions: bool = False,
    layers: Sequence[int] = (-1,),
) -> bool:
    """Return whether positions of ``model`` see only themselves and those before them.

    ``feeds`` is a batch whose longest row fills it. With ``attentions`` those of ``layers`` are
    compared with :func:`attention` of their projections. Raises :class:`InputError` where they
    differ, and for projections that are not found or not equally wide. The model is left as it was.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            with queries_keys_values(model, *layers) as read:
                whole = _states(model, feeds)
                qkv = read()
            back_only = _unmoved_by_the_last(model, feeds, whole)
            if attentions:
                mask = position_mask(feeds.get("attention_mask"), qkv)
                own = _own(model, feeds)
                for layer, part in zip(layers, qkv.split(3, 2), strict=True):
                    made = attention(part, heads, mask, back_only=back_only)
                    _compare(model, made, own[layer] if own else None, mask)
    finally:
        model.train(training)
    return back_only


def _states(model: Any, feeds: Mapping[str, Tensor]) -> Tensor:
    states: Tensor = model(**feeds, output_hidden_states=True).hidden_states[-1]
    return states


def _unmoved_by_the_last(model: Any, feeds: Mapping[str, Tensor], whole: Tensor) -> bool:
    """Whether all other positions stay as they are where the last token is left out."""
    ids = feeds.get("input_ids")
    if ids is None or ids.shape[1] < 2:
        return False
    shorter = {k: v[:, :-1] if v.shape[:2] == ids.shape else v for k, v in feeds.items()}
    return torch.allclose(whole[:, :-1], _states(model, shorter), atol=TOLERANCE, rtol=TOLERANCE)


def _own(model: Any, feeds: Mapping[str, Tensor]) -> Sequence[Tensor] | None:
    """Each layer's attention as the model says it; only the eager form says any."""
    with _eager(model):
        found: Sequence[Tensor] | None = model(**feeds, output_attentions=True).attentions
    return found


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _compare(model: Any, made: Tensor, own: Tensor | None, mask: Tensor | None) -> None:
    name, mend = type(model).__name__, "use relation_weight or hidden_weight"
    if own is None or own.shape != made.shape:
        raise InputError(
            f"{name} does not say where its layers look, position by position, so attention cannot"
            f" be transferred; {mend}"
        )
    apart = (made - own).abs()
    if mask is not None:  # nobody asks where padding looks
        apart = apart * mask.to(apart.dtype)[:, None, :, None]
    if not float(apart.max()) <= TOLERANCE:
        raise InputError(
            f"where a layer of {name} looks does not follow from its queries and keys alone"
            f" (rotary or relative positions, a window; up to {float(apart.max()):.2f} apart), so"
            f" attention cannot be transferred; {mend}"
        )
