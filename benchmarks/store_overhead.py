"""What reading the store costs a training, beside no teacher and a teacher in the loop.

    python benchmarks/store_overhead.py [--rounds 8] [--steps 20]

Banking77's student in short fresh trainings of the same rows and steps, in turn: on hard labels
alone; on signals from the store; with the teacher run on every batch. What is compared is the median
step of a kind (the first of each training are left out), once in wall time and
once in processor time, which other work on the machine moves less. Exit code 1 where the store costs
more than 1.10 times the training without a teacher.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from banking77 import TASK, Banking77
from machine import machine_line

from edgekd import infer
from edgekd.bench import environment
from edgekd.distill import trainer, transfer
from edgekd.distill.examples import Examples
from edgekd.sections import Distill

OUT = Path(__file__).parent / "results"
KINDS = {
    "labels": "no teacher",
    "store": "signals from the store",
    "loop": "the teacher in the loop",
}
CLOCKS = ("wall", "processor")
WARM_UP = 3  # steps of each training
BOUND = 1.10


def ticking(examples: Examples) -> list[tuple[float, float]]:
    """Wall and processor time whenever a batch is asked for, which is once a step."""
    ticks: list[tuple[float, float]] = []
    collate = examples.collate

    def asked(*rows: Sequence[int]) -> Any:
        ticks.append((time.perf_counter(), time.process_time()))
        return collate(*rows)

    examples.collate = asked  # type: ignore[method-assign]
    return ticks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4000)  # in four shards
    given = parser.parse_args()
    bench = Banking77(given.rows)
    settings = Distill()
    taken: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        stored = bench.stored(Path(folder) / "store")

        def ask(indices: Any) -> dict[str, np.ndarray]:
            return infer.forward(bench.teacher, [bench.rows[i] for i in indices], TASK)

        for number in range(given.rounds):
            kinds = list(KINDS) if number % 2 else list(KINDS)[::-1]
            for kind in kinds:
                student = bench.student()
                signals = {"labels": None, "store": stored, "loop": ask}[kind]
                objective = (
                    transfer.hard_labels(TASK)
                    if signals is None
                    else bench.objective(student, settings)
                )
                examples = bench.examples(student, signals)
                ticks = ticking(examples)
                trainer.train(
                    student.model,
                    examples,
                    objective,
                    settings,
                    seed=number,
                    folder=Path(folder) / f"{kind}-{number}",
                    what=KINDS[kind],
                    steps=given.steps,
                )
                taken[kind].append(np.diff(np.array(ticks), axis=0)[WARM_UP:])
    return write({kind: np.concatenate(steps) for kind, steps in taken.items()}, given)


def write(taken: dict[str, np.ndarray], given: argparse.Namespace) -> int:
    """Keep the medians [wall, processor] and their ratios to no teacher; say whether they hold."""
    medians = {kind: np.median(steps, axis=0) for kind, steps in taken.items()}
    ratios = {kind: median / medians["labels"] for kind, median in medians.items()}
    document = {
        "schema": "edgekd.benchmark.store-overhead/1",
        "environment": environment.describe(),
        "rounds": given.rounds,
        "steps": given.steps,
        "rows": given.rows,
        "threads": torch.get_num_threads(),
        "bound": BOUND,
        "median_step": {
            k: dict(zip(CLOCKS, m.round(5).tolist(), strict=True)) for k, m in medians.items()
        },
        "ratio": {
            k: dict(zip(CLOCKS, r.round(4).tolist(), strict=True)) for k, r in ratios.items()
        },
        "all_steps": {k: steps.round(5).tolist() for k, steps in taken.items()},
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "store_overhead.json").write_text(json.dumps(document) + "\n")
    (OUT / "store_overhead.md").write_text(page(document))
    print(page(document))
    return int(ratios["store"][0] > BOUND)


def page(kept: Mapping[str, Any]) -> str:
    """The Markdown of ``store_overhead.json``."""
    medians, ratios = kept["median_step"], kept["ratio"]
    lines = [
        f"Banking77's student, batches of {Distill().batch_size}, {kept['rounds']} trainings of"
        f" {kept['steps']} steps of each kind in turn, {kept['threads']} thread(s); medians"
        " of a step.",
        "",
        machine_line([kept.get("environment")]),
        "",
        "| training | wall | ratio | processor | ratio |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {medians[k]['wall'] * 1000:.0f} ms | {ratios[k]['wall']:.3f}"
            f" | {medians[k]['processor'] * 1000:.0f} ms | {ratios[k]['processor']:.3f} |"
            for k, name in KINDS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
