"""The k likeliest classes of a distribution, and the mass of all others.

A next-token distribution over a vocabulary V is V numbers per position; its k likeliest entries
and the rest's mass say nearly all of it. Dropping the rest would teach the student that
everything else is impossible, so its mass is kept: the distribution over k + 1 events is then
exact. Softening changes that mass in a way it does not determine, so it is kept at three
temperatures and interpolated between them (:func:`edgekd.distill.losses.topk.softened_kl_topk`).
"""

from __future__ import annotations

import numpy as np

from edgekd.errors import InputError
from edgekd.signals.store import Field

REST_TEMPERATURES = (1.0, 2.0, 4.0)


def topk_fields(k: int, classes: int, *, ragged: bool) -> dict[str, Field]:
    """Return the store's fields for :func:`topk` of ``classes`` classes."""
    lead: tuple[int | None, ...] = (None,) if ragged else ()
    return {
        "indices": Field("uint16" if classes <= 2**16 else "int32", (*lead, k)),
        "values": Field("float16", (*lead, k)),
        "rest": Field("float16", (*lead, len(REST_TEMPERATURES))),
    }


def topk(logits: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Reduce logits [..., classes] to ``indices``, ``values`` [..., k] and ``rest`` [..., 3].

    ``values`` are log-probabilities at T = 1, likeliest first. ``rest[..., i]`` is
    log(sum over the other classes of p ** (1 / T)) at the i-th of ``REST_TEMPERATURES``.
    Raises :class:`InputError` where k is not in 1 … classes − 1.
    """
    classes = logits.shape[-1]
    if not 0 < k < classes:
        raise InputError(f"top-k needs 0 < k < {classes} classes, not k = {k}; keep dense logits")
    values = logits.astype(np.float32)
    values = values - values.max(-1, keepdims=True)
    values -= np.log(np.exp(values).sum(-1, keepdims=True))
    indices = np.argpartition(-values, k - 1, axis=-1)[..., :k]
    order = np.argsort(-np.take_along_axis(values, indices, -1), axis=-1, kind="stable")
    indices = np.take_along_axis(indices, order, -1)
    others = values.copy()
    np.put_along_axis(others, indices, -np.inf, -1)
    top = np.maximum(others.max(-1, keepdims=True), np.finfo(np.float32).min)
    rest = [np.log(np.exp((others - top) / t).sum(-1)) + top[..., 0] / t for t in REST_TEMPERATURES]
    return {
        "indices": indices,
        # fp16 ends at −65,504, and a mass of exp(−60,000) is none.
        "values": np.maximum(np.take_along_axis(values, indices, -1), -60000),
        "rest": np.maximum(np.stack(rest, -1), -60000).astype(np.float32),
    }
