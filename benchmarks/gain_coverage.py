"""How often the interval of a gain covers the true one, by seeds and by what training luck weighs.

    python benchmarks/gain_coverage.py

Errors are normal: one of the examples, which all seeds share, and one of each seed. The true gain
is 0. ``luck`` is the seeds' share of the variance of the mean. What is drawn goes through
``edgekd.evaluate.seeds.over_seeds``, as a run's does; ``plain`` is its interval without the stretch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgekd.evaluate import seeds

RESULTS = Path(__file__).parent / "results"
COUNTS, LUCK = (2, 3, 5), (0.0, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 1.0)
DRAWS, RESAMPLES = 4000, 2000


def coverage(count: int, luck: float) -> tuple[float, float]:
    """Share of intervals that hold 0: as reported, and before they are stretched."""
    random = np.random.default_rng((count, round(100 * luck)))
    held = plain = 0
    for _ in range(DRAWS):
        whole = random.normal(0, np.sqrt(1 - luck)) + random.normal(0, np.sqrt(luck * count), count)
        examples = random.normal(0, np.sqrt(1 - luck), RESAMPLES)
        drawn = whole[:, None] + examples
        found = seeds.over_seeds(whole, drawn, seed=int(random.integers(2**31)))
        stretch = seeds._stretch(float(examples.var()), float(whole.var(ddof=1)) / count, count)
        low, high = (
            found.value + (end - found.value) / stretch for end in (found.ci_low, found.ci_high)
        )
        held += found.ci_low <= 0 <= found.ci_high
        plain += low <= 0 <= high
    return held / DRAWS, plain / DRAWS


def main() -> None:
    rows = [
        {"seeds": count, "luck": luck, **dict(zip(("covered", "plain"), found, strict=True))}
        for count in COUNTS
        for luck in LUCK
        for found in [coverage(count, luck)]
    ]
    (RESULTS / "gain_coverage.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = ["| seeds | luck | covered | plain |", "|---|---|---|---|"]
    lines += [
        f"| {r['seeds']} | {r['luck']:.2f} | {r['covered']:.1%} | {r['plain']:.1%} |" for r in rows
    ]
    (RESULTS / "gain_coverage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
