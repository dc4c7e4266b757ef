"""Do the rows that are served look like the rows that were trained on?

A two-sample test on a model's features: the energy distance between the two samples (Székely and
Rizzo, "Energy statistics", J. Stat. Plan. Inference 143, 2013), with a permutation p-value (Phipson
and Smyth, 2010), which is exact whatever the features are distributed like. Needs NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 999
ALPHA = 0.01  # of two samples from one source, one in a hundred is called different
_BATCH = 64  # permutations at a time: bounds the memory to a few MB


@dataclass(frozen=True)
class Shift:
    """``statistic`` is the energy coefficient: 0 for samples alike, 1 for samples worlds apart."""

    statistic: float
    p_value: float
    rows: tuple[int, int]  # of the two samples

    @property
    def found(self) -> bool:
        return self.p_value <= ALPHA


def energy_test(
    left: np.ndarray, right: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0
) -> Shift:
    """Test whether two samples of features, [n, width] and [m, width], have one distribution.

    The p-value is (1 + permutations at least as far apart) / (1 + permutations). Raises
    ``ValueError`` for fewer than two rows on a side or features that are not finite.
    """
    if min(len(left), len(right)) < 2:
        raise ValueError("two samples of at least two rows each are needed")
    pooled = np.concatenate([left, right]).astype(np.float64)
    if not np.isfinite(pooled).all():
        raise ValueError("the features are not finite")
    distances = pairwise(pooled, pooled)
    np.fill_diagonal(distances, 0.0)  # rounding leaves a trace there
    n, m = len(left), len(right)
    generator = np.random.default_rng(seed)
    observed, scale = _energy(distances, _weights(np.arange(n + m)[None], n))
    farther = 0
    for start in range(0, permutations, _BATCH):
        count = min(_BATCH, permutations - start)
        orders = np.stack([generator.permutation(n + m) for _ in range(count)])
        energies, _ = _energy(distances, _weights(orders, n))
        farther += int((energies >= observed[0] * (1 - 1e-12)).sum())
    coefficient = observed[0] / scale[0] if scale[0] else 0.0
    return Shift(float(coefficient), (1 + farther) / (1 + permutations), (n, m))


def nearest(among: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Distance of each of ``features`` to the nearest row of ``among``: float64 [rows]."""
    return pairwise(features.astype(np.float64), among.astype(np.float64)).min(axis=1)


def pairwise(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Euclidean distances: float64 [n, m]."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    return np.sqrt(np.maximum(squares, 0.0))


def _weights(orders: np.ndarray, n: int) -> np.ndarray:
    """1/n for the rows an order puts first, -1/m for the others: float64 [orders, n + m]."""
    values = np.where(np.arange(orders.shape[1]) < n, 1 / n, -1 / (orders.shape[1] - n))
    weights = np.empty(orders.shape)
    np.put_along_axis(weights, orders, np.broadcast_to(values, orders.shape), axis=1)
    return weights


def _energy(distances: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy distance of each split, and twice its mean distance between the two samples.

    2 E|X-Y| - E|X-X'| - E|Y-Y'| is -w' D w where w is +1/n on one sample and -1/m on the other.
    """
    first, second = np.maximum(weights, 0), np.maximum(-weights, 0)
    energy = -np.einsum("ij,ij->i", weights @ distances, weights)
    between = 2 * np.einsum("ij,ij->i", first @ distances, second)
    return energy, between
