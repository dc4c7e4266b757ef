"""Do two processes train what one trains? Banking77's student, its loss at every step.

    python benchmarks/two_processes.py [--steps 200] [--batch 16]

The same training twice, with `processes: 1` and `processes: 2`: fp32, no dropout, one seed, the same
global batch, signals from one store. Exit code 1 where a loss differs by more than 1e-4 of itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from banking77 import Banking77
from machine import machine_line

from edgekd.bench import environment
from edgekd.distill import trainer
from edgekd.sections import Distill

OUT = Path(__file__).parent / "results"
BOUND = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rows", type=int, default=1610)  # no multiple of the batch
    given = parser.parse_args()
    bench = Banking77(given.rows)
    losses, seconds, weights = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        signals = bench.stored(Path(folder) / "store")
        for count in (1, 2):
            settings = Distill(batch_size=given.batch, hard_weight=0.1, processes=count)
            student = bench.student(dropout=False)
            started = time.monotonic()
            outcome = trainer.train(
                student.model,
                bench.examples(student, signals),
                bench.objective(student, settings),
                settings,
                seed=0,
                folder=Path(folder) / str(count),
                what=f"in {count}",
                steps=given.steps,
            )
            seconds[count] = round(time.monotonic() - started, 1)
            losses[count] = [point["loss"] for point in outcome.history]
            weights[count] = torch.cat([p.detach().ravel() for p in student.model.parameters()])
    one, two = np.array(losses[1]), np.array(losses[2])
    difference = np.abs(two - one) / np.abs(one)
    moved = torch.norm(weights[1] - weights[2]) / torch.norm(weights[1])
    document = {
        "schema": "edgekd.benchmark.two-processes/1",
        "environment": environment.describe(),
        "steps": given.steps,
        "points": len(one),
        "batch": given.batch,
        "rows": given.rows,
        "largest_relative_difference": float(difference.max()),
        "median_relative_difference": float(np.median(difference)),
        "weights_relative_difference": float(moved),
        "bound": BOUND,
        "seconds": {str(count): value for count, value in seconds.items()},
        "losses": {str(count): values for count, values in losses.items()},
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "two_processes.json").write_text(json.dumps(document, indent=1) + "\n")
    (OUT / "two_processes.md").write_text(page(document))
    print(page(document))
    return int(difference.max() > BOUND)


def page(kept: Mapping[str, Any]) -> str:
    """The Markdown of ``two_processes.json``."""
    seconds, losses = kept["seconds"], kept["losses"]
    lines = [
        f"Banking77's student, {kept['steps']} steps of {kept['batch']} rows, fp32, no dropout;"
        f" {kept['points']} losses compared.",
        "",
        machine_line([kept.get("environment")]),
        "",
        "| processes | first loss | last loss | seconds, start included |",
        "|---|---|---|---|",
        *(f"| {n} | {losses[n][0]:.6f} | {losses[n][-1]:.6f} | {seconds[n]} |" for n in losses),
        "",
        f"Largest relative difference {kept['largest_relative_difference']:.1e} (median"
        f" {kept['median_relative_difference']:.1e}, bound {kept['bound']:g}); weights at the end"
        f" differ by {kept['weights_relative_difference']:.1e} of their norm.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
