"""The statistics of every printed number: percentiles, intervals, multiplicity.

Percentiles follow MLPerf LoadGen's early stopping (``early_stopping.cc``): a percentile is
printed only from the number of samples at which it can be told from a worse one. Intervals are
percentile bootstraps (Efron 1979) whose resampling unit is what repeats independently: the
process, never the iteration. Needs NumPy and SciPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CONFIDENCE = 0.95
_LEAST_CHUNKS = 8


@cache
def samples_needed(percentile: float, over: int = 1, confidence: float = 0.99) -> int:
    """The fewest samples from which ``percentile`` (0..1) may be estimated.

    The smallest n for which a system that meets the percentile with probability ``percentile``
    alone shows at most ``over`` samples beyond it with probability 1 - ``confidence`` or less.
    ``over=0`` can only bound the percentile, ``over=1`` is the first that estimates it: 64 for
    p90, 130 for p95, 662 for p99.
    """
    from scipy.stats import binom

    n = over + 1
    while binom.cdf(over, n, 1 - percentile) > 1 - confidence:
        n += 1
    return n


def percentile_bound(samples: np.ndarray, percentile: float, confidence: float = 0.99) -> float:
    """LoadGen's early-stopping estimate: with ``confidence``, the true percentile is below it.

    Raises ``ValueError`` with fewer samples than :func:`samples_needed`.
    """
    from scipy.stats import binom

    ordered = np.sort(samples)
    n = len(ordered)
    if n < samples_needed(percentile, confidence=confidence):
        raise ValueError(f"{n} samples cannot bound p{percentile * 100:g}")
    over = int(binom.ppf(1 - confidence, n, 1 - percentile))
    while binom.cdf(over, n, 1 - percentile) > 1 - confidence:
        over -= 1
    return float(ordered[n - over])


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in the unit of what was estimated."""

    value: float
    low: float
    high: float


def bootstrap_medians(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Medians of ``resamples`` resamples of ``values`` [n]: float64 [resamples]."""
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), (resamples, len(values)))
    return np.median(np.asarray(values, np.float64)[picks], axis=1)


def median_interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Median of independent values with its percentile-bootstrap interval."""
    array = np.asarray(values, np.float64)
    medians = bootstrap_medians(array, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(float(np.median(array)), float(low), float(high))


def rounds_interval(
    rounds: Sequence[np.ndarray], chunk: int, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Median of the per-process medians, by a two-stage bootstrap.

    ``rounds`` holds one process's samples each. Processes are resampled first, then within each
    the chunks of ``chunk`` consecutive samples (one pass over the rows), because neighbouring
    iterations repeat each other. With few processes the interval is still too narrow, never too
    wide: it says so by being printed beside their number.
    """
    medians = _round_medians(rounds, chunk, resamples, seed)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.median([np.median(r) for r in rounds])), float(low), float(high))


def ratio_interval(
    numerators: Sequence[np.ndarray],
    denominators: Sequence[np.ndarray],
    chunks: tuple[int, int],
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Ratio of two medians measured round by round together; rounds are resampled as pairs."""
    above = _round_medians(numerators, chunks[0], resamples, seed)
    below = _round_medians(denominators, chunks[1], resamples, seed)
    low, high = np.quantile(above / below, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = np.median([np.median(r) for r in numerators]) / np.median(
        [np.median(r) for r in denominators]
    )
    return Interval(float(value), float(low), float(high))


def _round_medians(
    rounds: Sequence[np.ndarray], chunk: int, resamples: int, seed: int
) -> np.ndarray:
    """Resampled medians of per-process medians: float64 [resamples].

    The choice of processes depends on the seed and their number alone, so two calls with the same
    seed resample the same rounds: what makes a ratio a paired one.
    """
    chosen = np.random.default_rng(seed).integers(0, len(rounds), (resamples, len(rounds)))
    within = np.random.default_rng([seed, 1, chunk])
    inner = np.stack([_chunk_medians(r, chunk, resamples, within) for r in rounds])
    return np.median(inner[chosen, np.arange(resamples)[:, None]], axis=1)


def _chunk_medians(
    samples: np.ndarray, chunk: int, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Medians of ``samples`` with whole chunks resampled: float64 [resamples].

    A block of fewer passes than ``_LEAST_CHUNKS`` is cut finer: one chunk alone has no spread.
    """
    count = max(len(samples) // chunk, min(len(samples), _LEAST_CHUNKS))
    size = min(chunk, len(samples) // count)
    chunks = np.asarray(samples[: count * size], np.float64).reshape(count, -1)
    medians = np.empty(resamples)
    batch = max(1, 2_000_000 // chunks.size)  # bounds the memory of one step to some 16 MB
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        picks = generator.integers(0, count, (size, count))
        medians[start : start + size] = np.median(chunks[picks].reshape(size, -1), axis=1)
    return medians


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979), by name."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    adjusted, running = {}, 0.0
    for rank, (name, p) in enumerate(ordered):
        running = max(running, min(1.0, p * (len(ordered) - rank)))
        adjusted[name] = running
    return adjusted


def robust_sd(values: Sequence[float] | np.ndarray) -> float:
    """Standard deviation from the interquartile range, so that one bad pair does not set it."""
    low, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.75])
    return float((high - low) / 1.3489795)


def latency_summary(samples: np.ndarray) -> dict[str, object]:
    """Percentiles in ms that the number of samples supports; the others are None, with why.

    ``p90_bound`` and its like are LoadGen's estimate: the true percentile lies below it with
    99 % confidence, if iterations were independent.
    """
    summary: dict[str, object] = {"samples": len(samples)}
    missing = {}
    for percent in (90, 95, 99):
        needed = samples_needed(percent / 100)
        enough = len(samples) >= needed
        summary[f"p{percent}"] = float(np.percentile(samples, percent)) if enough else None
        summary[f"p{percent}_bound"] = percentile_bound(samples, percent / 100) if enough else None
        if not enough:
            missing[f"p{percent}"] = f"needs {needed} samples, has {len(samples)}"
    summary["missing"] = missing
    return summary


def sign_test(values: Sequence[float] | np.ndarray, threshold: float) -> tuple[float, float]:
    """Exact one-sided p-values that the median of independent values is (above, below).

    Small ``above`` speaks for a median above ``threshold``. Nothing is assumed of the values'
    distribution, only that they are independent (:func:`runs_test`); at 8 values the p-values are
    as exact as at 800.
    """
    array = np.asarray(values, np.float64)
    over, under = int((array > threshold).sum()), int((array < threshold).sum())
    return at_least(over, len(array)), at_least(under, len(array))


def runs_test(values: Sequence[float] | np.ndarray) -> float:
    """Exact p-value that values in order change sides of their median as seldom as these did.

    Small where neighbours resemble each other, so that they are not independent (Wald and
    Wolfowitz 1940, one-sided). Values at the median are left out; 1 where one side is empty.
    """
    sides, above, below = _sides(values)
    if not above or not below:
        return 1.0
    runs = 1 + int((sides[1:] != sides[:-1]).sum())
    ways = 0
    for count in range(2, runs + 1):
        more, fewer = (count + 1) // 2, count // 2  # runs of the side that begins, of the other
        ways += math.comb(above - 1, more - 1) * math.comb(below - 1, fewer - 1)
        ways += math.comb(above - 1, fewer - 1) * math.comb(below - 1, more - 1)
    return ways / math.comb(above + below, above)


def runs_least(values: Sequence[float] | np.ndarray) -> float:
    """The least p-value that :func:`runs_test` could give for so many values in any order.

    8 values reach 2 / 70, 10 values 2 / 252: of fewer it cannot say that they depend.
    """
    _, above, below = _sides(values)
    return 2 / math.comb(above + below, above) if above and below else 1.0


def _sides(values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, int, int]:
    """Which values lie above their median, without those at it; how many do and do not."""
    array = np.asarray(values, np.float64)
    sides = (array > np.median(array))[array != np.median(array)]
    above = int(sides.sum())
    return sides, above, len(sides) - above


def change_point(
    values: Sequence[float] | np.ndarray, seed: int = 0, permutations: int = 2_000
) -> tuple[int, float]:
    """(where the level of ``values`` changes most, p-value that no order tells of a change).

    The split, with at least two values on each side, at which the scaled difference of the means
    is largest (CUSUM); its p-value is the share of orders of the same values with as large a one,
    so that it holds for any distribution, and one stray value is no change of level. Raises
    ``ValueError`` for fewer than four values.
    """
    array = np.asarray(values, np.float64)
    if len(array) < 4:
        raise ValueError(f"{len(array)} values have no level that could change")
    orders = np.random.default_rng(seed).permuted(
        np.tile(array - array.mean(), (permutations, 1)), axis=1
    )
    count = np.arange(2, len(array) - 1)
    scale = np.sqrt(count * (len(array) - count) / len(array))

    def splits(ordered: np.ndarray) -> np.ndarray:
        return np.abs(np.cumsum(ordered, axis=-1)[..., count - 1]) / scale

    observed = splits(array - array.mean())
    largest = splits(orders).max(axis=1) >= observed.max() * (1 - 1e-9)
    return int(count[observed.argmax()]), (1 + int(largest.sum())) / (1 + permutations)


@cache
def at_least(count: int, n: int) -> float:
    """P(at least ``count`` heads in ``n`` throws of a fair coin)."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, n, 0.5))


def order_interval(values: Sequence[float] | np.ndarray, error: float) -> tuple[float, float]:
    """Order statistics below and above the median, each wrong with probability <= ``error``.

    The whole line where so few values allow no such bound.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    rank = _rank(len(ordered), error)
    if rank < 0:
        return float("-inf"), float("inf")
    return float(ordered[rank]), float(ordered[len(ordered) - 1 - rank])


@cache
def _rank(n: int, error: float) -> int:
    """The largest order statistic, from 0, that exceeds a median with at most ``error``; or -1."""
    from scipy.stats import binom

    rank = int(binom.ppf(error, n, 0.5))
    while rank >= 0 and binom.cdf(rank, n, 0.5) > error:
        rank -= 1
    return rank
