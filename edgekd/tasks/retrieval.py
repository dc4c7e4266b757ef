"""Retrieval metrics: is what belongs together near, and at the top?

MRR is the mean over queries of 1 / rank of the first relevant item; nDCG@10 (Järvelin and
Kekäläinen, 2002) discounts the gains 2^grade − 1 of the first ten by log2(1 + rank). Where scores
tie, the less relevant item stands first, so that a constant model earns nothing. A query without a
relevant item does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CUT = 10


def reciprocal_rank(scores: np.ndarray, grades: np.ndarray) -> float:
    """1 / rank of the first item with a grade above 0; NaN where there is none. Both [items]."""
    if not (grades > 0).any():
        return float("nan")
    best = scores[grades > 0].max()
    return 1.0 / (1 + int((scores > best).sum()) + int((scores[grades <= 0] == best).sum()))


def discounted_gain(scores: np.ndarray, grades: np.ndarray, cut: int = CUT) -> float:
    """nDCG of the first ``cut`` items; NaN where no item is relevant. Both arrays [items]."""
    ideal = np.sort(grades)[::-1][:cut]
    best = _gain(ideal)
    if not best:
        return float("nan")
    return _gain(grades[np.lexsort((grades, -scores))][:cut]) / best


def per_query(values: Sequence[float]) -> np.ndarray:
    """Statistics whose sums give the mean over the queries that count: float64 [queries, 2]."""
    found = np.asarray(values, np.float64)
    counted = ~np.isnan(found)
    return np.stack([np.where(counted, found, 0.0), counted.astype(np.float64)], 1)


def mean(sums: np.ndarray) -> np.ndarray:
    """The metric of :func:`per_query` sums: float64 [...]."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _gain(grades: np.ndarray) -> float:
    return float(((2.0**grades - 1) / np.log2(2 + np.arange(len(grades)))).sum())
