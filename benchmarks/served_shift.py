"""Does the shift warning stay silent where nothing has shifted, and speak where something has?

    python benchmarks/served_shift.py TEACHER --train train.csv --test test.csv --other snips.jsonl

The teacher's features are computed once. In each of 100 draws one random half of the training
data is taken as served and compared with the other half: a warning there is a false one. Then the
test data and another data set are compared with the training data. Everything goes through the
functions that `edgekd run` uses; the table and every p-value are kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import models, tasks
from edgekd.data import read_rows
from edgekd.evaluate.shift import ALPHA, PERMUTATIONS, Shift, energy_test
from edgekd.pipeline.shift import ROWS, features

OUT = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True, help="rows of another domain")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    task = tasks.get("text-classification")
    teacher = models.load(given.teacher, task)
    sources = {"train": given.train, "test": given.test, "other": given.other}
    found = {
        name: features(teacher, read_rows(path, task, labelled=False))
        for name, path in sources.items()
    }
    rows = [
        row("a random half of the training data", halves(found["train"], given.draws)),
        row(f"{given.test.parent.name}/{given.test.name}", against(found, "test", 20)),
        row(f"{given.other.parent.name}/{given.other.name}", against(found, "other", 20)),
    ]
    document = {
        "schema": "edgekd.benchmark.served-shift/1",
        "teacher": Path(given.teacher).name,
        "alpha": ALPHA,
        "permutations": PERMUTATIONS,
        "rows_per_side": ROWS,
        "rows": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2)
    (given.out / "served_shift.json").write_text(f"{text}\n", encoding="utf-8")
    (given.out / "served_shift.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def halves(features: np.ndarray, draws: int) -> list[Shift]:
    """One half against the other, by lot; at most ``ROWS`` of each, as a run compares."""
    tests = []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(features))
        left, right = np.array_split(features[order], 2)
        tests.append(energy_test(left[:ROWS], right[:ROWS], seed=seed))
    return tests


def against(found: dict[str, np.ndarray], name: str, draws: int) -> list[Shift]:
    """``name`` against the training data; ``ROWS`` of each by lot."""
    tests = []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        sides = [generator.permutation(found[side])[:ROWS] for side in ("train", name)]
        tests.append(energy_test(sides[0], sides[1], seed=seed))
    return tests


def row(served: str, tests: list[Shift]) -> dict[str, Any]:
    return {
        "served": served,
        "draws": len(tests),
        "warnings": sum(test.found for test in tests),
        "statistic": float(np.median([test.statistic for test in tests])),
        "p_values": [test.p_value for test in tests],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| served | draws | warnings | median energy coefficient | median p |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['served']} | {r['draws']} | {r['warnings']} | {r['statistic']:.4f} |"
        f" {np.median(r['p_values']):.3f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
