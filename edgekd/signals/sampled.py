"""k classes of a distribution that stand for all of it: the likeliest for sure, others by draw.

A next-token distribution over a vocabulary V is V numbers per position, and its k likeliest
entries alone are a biased teacher, even with the mass of the rest: nothing says which of the rest
is likelier. So class i is kept with the probability π = min(1, p / τ), where τ makes exactly k
classes stay. Those above τ are certain; each other one that is drawn stands for the mass τ. Then
Σ (p / π) · f over what is kept has the mean Σ p · f for any f (a loss, a gradient), the weights
sum to 1, and of all unbiased samples of k none has less variance on average (Cohen, Duffield,
Kaplan, Lund & Thorup, "Stream sampling for variance-optimal estimation of subset sums",
arXiv:0803.0473; for distillation with replacement: Anshumann et al., arXiv:2503.16870).

The draw is systematic, down the classes from the likeliest, so each stretch of them gets the
share it should have. It needs one random number per position, made of the row's content alone:
labelled again, a row is stored as the same bytes.
"""

from __future__ import annotations

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd.signals.keys import key
from edgekd.signals.store import Field

PARTITION_TEMPERATURES = (2.0, 4.0)
LEAST = -700.0  # a log-probability that counts as none: it fits float16, and its exp float64


def sampled_fields(k: int, classes: int, *, ragged: bool) -> dict[str, Field]:
    """Return the store's fields for :func:`sample` of ``classes`` classes."""
    lead: tuple[int | None, ...] = (None,) if ragged else ()
    return {
        "indices": Field("uint16" if classes <= 2**16 else "int32", (*lead, k)),
        "values": Field("float16", (*lead, k)),
        "threshold": Field("float16", (*lead, 1)),
        "partition": Field("float16", (*lead, len(PARTITION_TEMPERATURES))),
    }


def draws(row: Row, places: int) -> np.ndarray:
    """One number between 0 and 1 for each place of a row, of its content: float64 [places].

    They keep a distance of 2**-33 from 0 and 1, so no rounding can decide how many are kept.
    """
    generator = np.random.default_rng(int.from_bytes(key(row), "little"))
    return (generator.integers(0, 2**32, places) + 0.5) / 2**32


def sample(logits: np.ndarray, k: int, draw: np.ndarray) -> dict[str, np.ndarray]:
    """Reduce logits [places, classes] to k classes of each place, likeliest first.

    ``draw`` [places] has a number between 0 and 1 for each. ``indices`` [places, k] are the
    classes, ``values`` [places, k] their log-probabilities and ``threshold`` [places, 1] is log τ:
    a class was kept with the log-probability min(0, value − threshold). ``partition`` [places, 2]
    is log Σ p ** (1 / T) over all classes at ``PARTITION_TEMPERATURES``; at T = 1 it is 0. All but
    the indices are float64. Where k is all classes, nothing is left to chance.
    Raises :class:`InputError` where k is not in 1 … classes.
    """
    classes = logits.shape[-1]
    if not 0 < k <= classes:
        raise InputError(
            f"a sample of {classes} classes has 1 to {classes} of them, not {k}; ask for fewer or"
            " keep dense logits"
        )
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    values -= np.log(np.exp(values).sum(-1, keepdims=True))
    values = np.maximum(values, LEAST)
    partition = [np.log(np.exp(values / t).sum(-1)) for t in PARTITION_TEMPERATURES]
    order = np.argsort(-values, axis=-1, kind="stable")
    values = np.take_along_axis(values, order, -1)
    mass = np.exp(values)
    threshold = _threshold(mass, k)
    reached = np.minimum(np.cumsum(np.minimum(mass / threshold, 1), -1), k)
    reached[:, -1] = k
    # Points lie at draw, draw + 1, …: a class is kept where its stretch holds one.
    points = np.ceil(reached - draw[:, None])
    kept = np.diff(points, axis=-1, prepend=0) > 0
    return {
        "indices": order[kept].reshape(-1, k),
        "values": values[kept].reshape(-1, k),
        "threshold": np.log(threshold),
        "partition": np.stack(partition, -1),
    }


def _threshold(mass: np.ndarray, k: int) -> np.ndarray:
    """τ [places, 1] of masses in falling order, with Σ min(1, mass / τ) = k.

    With the first n certain, the others share k − n; the least n is taken for which none of the
    others would be more than certain.
    """
    beyond = mass[:, k:].sum(-1, keepdims=True)
    left = np.cumsum(mass[:, k - 1 :: -1], -1)[:, ::-1] + beyond  # mass from the n-th on
    shared = left / (k - np.arange(k))
    first = (mass[:, :k] <= shared).argmax(-1)[:, None]
    return np.take_along_axis(shared, first, -1)
