"""Does a model that says 90 % get 90 % right? Reliability in bins of equal mass.

Equal-mass bins, because with equal-width bins nearly all predictions of a good classifier fall
into the last one and the rest are noise (Nixon et al., 2019, "Measuring Calibration in Deep
Learning").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST = 20  # examples a bin needs before its accuracy says anything


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence: their mean confidence and the share that was right."""

    confidence: float
    accuracy: float
    count: int


def reliability(
    probabilities: np.ndarray, references: np.ndarray, bins: int = 15
) -> tuple[Bin, ...]:
    """Sort predictions by confidence into at most ``bins`` bins of equal mass.

    ``probabilities`` is float [examples, classes], ``references`` int [examples]. Equal
    confidences share a bin, so the result does not depend on the order of the examples.
    """
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == references
    bins = max(1, min(bins, len(confidence) // _LEAST))
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    index = np.searchsorted(edges, confidence, side="right")
    members = [index == b for b in range(bins)]
    return tuple(
        Bin(float(confidence[m].mean()), float(correct[m].mean()), int(m.sum()))
        for m in members
        if m.any()
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean gap between confidence and accuracy, weighted by examples: 0 is calibrated."""
    total = sum(b.count for b in bins)
    return sum(abs(b.confidence - b.accuracy) * b.count for b in bins) / total
