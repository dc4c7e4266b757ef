"""Does the shift warning stay silent where nothing has shifted, and speak where something has?

    python benchmarks/served_shift.py TEACHER --train train.csv --test test.csv --other snips.jsonl

The teacher's features are computed once. In each of 100 draws one random half of the training
data is taken as served and compared with the other half: a warning there is a false one. Then the
test data and another data set are compared with the training data. Test data whose classes are
mixed in other proportions is a shift that the test may well see; a last row takes that away by
drawing the training rows in the test data's proportions. Everything goes through the functions that
`edgekd run` uses; the table and every p-value are kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
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

    def read(path: Path) -> list[dict[str, Any]]:
        return read_rows(path, task, labelled=path != given.other)

    found = {name: features(teacher, read(path)) for name, path in sources.items()}
    labels = {name: [r["label"] for r in read(sources[name])] for name in ("train", "test")}
    name = f"{given.test.parent.name}/{given.test.name}"
    alike = mixed_alike(labels["train"], labels["test"])
    rows = [
        row("a random half of the training data", halves(found["train"], given.draws)),
        row(name, against(found, "test", 20)),
        row(f"{name}, training rows drawn in its proportions", against(found, "test", 20, alike)),
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


def against(
    found: dict[str, np.ndarray], name: str, draws: int, chances: np.ndarray | None = None
) -> list[Shift]:
    """``name`` against the training data; at most ``ROWS`` of each by lot."""
    tests = []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        train = found["train"][generator.choice(len(found["train"]), ROWS, False, chances)]
        tests.append(energy_test(train, generator.permutation(found[name])[:ROWS], seed=seed))
    return tests


def mixed_alike(train: list[str], test: list[str]) -> np.ndarray:
    """Chances of the training rows that mix their classes as the test data does."""
    ours, theirs = Counter(train), Counter(test)
    chances = np.array([theirs[label] / ours[label] for label in train])
    return chances / chances.sum()


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
