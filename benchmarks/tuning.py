"""Fifty settings on banking77, found by two processes in one study, and what they are worth.

    python benchmarks/tuning.py --out FOLDER [--trials 50] [--rows 1000] [--epochs 3]

Two `edgekd tune` processes join one study; the teacher is run once over each row, by whichever
comes first, and no trial asks it again. Then the recipe's own setting and the chosen one are
trained alike on all rows, with the same seeds, and scored on the test rows, which took no part. A
killed run goes on; the table goes to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgekd import data, pipeline, recipe, tasks
from edgekd.evaluate.seeds import gain
from edgekd.signals.store import SignalStore

RESULTS = Path(__file__).parent / "results"
ASSETS = Path(os.environ.get("EDGEKD_ASSETS", Path(__file__).parents[2] / "shared"))
TASK = "text-classification"
PROCESSES = 2
RECIPE: dict[str, Any] = {
    "name": "banking77-tuned",
    "task": TASK,
    "teacher": str(ASSETS / "models/banking77-minilm-l6"),
    "data": {
        "train": str(ASSETS / "data/banking77/train.csv"),
        "test": str(ASSETS / "data/banking77/test.csv"),
        "label": "category",
    },
    "student": {"layers": [0, 5], "vocabulary": "trim"},
    "targets": {},
    "profiles": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1000, help="training rows of a trial")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial, at most")
    parser.add_argument("--budget", type=int, default=3, help="epochs of the two trainings after")
    parser.add_argument("--seeds", type=int, default=2, help="of these two trainings")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    values = {**RECIPE, "distill": {"epochs": given.budget, "control": False}}
    tune = {"trials": given.trials, "rows": given.rows, "epochs": given.epochs}
    file = out / "recipe.yaml"
    file.write_text(yaml.safe_dump({**values, "tune": tune}), encoding="utf-8")

    searched = out / "search"
    seconds = join(file, searched, out)
    record = json.loads((out / "tune-0.json").read_text(encoding="utf-8"))
    chosen = yaml.safe_load((searched / "tune/chosen.yaml").read_text(encoding="utf-8"))
    folders = {"own": out / "own", "chosen": out / "chosen"}
    for name, changes in (("own", {}), ("chosen", chosen)):
        setting = {**values, "seeds": given.seeds}
        distill = {**setting["distill"], **changes.get("distill", {}), "epochs": given.budget}
        setting |= {**changes, "distill": distill}
        pipeline.distill(recipe.validate(setting, name), out, folders[name])
    document = {
        "schema": "edgekd.benchmark.tuning/1",
        "budget": {k: getattr(given, k) for k in ("trials", "rows", "epochs", "budget", "seeds")},
        "search_seconds": seconds,
        "teacher": asked(searched, out),
        "chosen": chosen,
        "trials": record["trials"],
        "test": compare(folders, given.seeds),
    }
    (RESULTS / "tuning.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "tuning.md").write_text(table(document), encoding="utf-8")
    print(table(document))


def join(file: Path, searched: Path, out: Path) -> float:
    """Two processes on one study; the seconds that they took together on the clock."""
    kept = out / "seconds"
    if kept.is_file():
        return float(kept.read_text())
    started = time.monotonic()
    command = [sys.executable, "-m", "edgekd", "tune", str(file), "--out", str(searched)]
    workers = []
    for nth in range(PROCESSES):
        log = (out / f"tune-{nth}.log").open("w")
        found = ["--json", str(out / f"tune-{nth}.json")]
        workers.append(subprocess.Popen([*command, *found], stdout=log, stderr=log))
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"edgekd tune ended with {codes}; see {out}/tune-*.log")
    kept.write_text(str(round(time.monotonic() - started, 1)))
    return float(kept.read_text())


def asked(searched: Path, out: Path) -> dict[str, int]:
    """Rows of the data, answers that the stores hold, and processes that ran the teacher."""
    rows = json.loads((searched / "stages/data.json").read_text())["result"]["rows"]
    stores = sorted((searched / "signals").glob("*/store.json"))
    logs = [log.read_text(encoding="utf-8") for log in out.glob("tune-*.log")]
    return {
        "rows": rows["train"] + rows["test"],
        "answers": sum(len(SignalStore.open(store.parent)) for store in stores),
        "processes": sum("label train" in log for log in logs),
    }


def compare(folders: dict[str, Path], seeds: int) -> dict[str, Any]:
    """Test accuracy of both settings, and the difference with its interval."""
    task = tasks.get(TASK)
    labels = json.loads((folders["own"] / "stages/data.json").read_text())["result"]["labels"]
    rows = data.read_rows(RECIPE["data"]["test"], task, {"label": "category"})
    references = task.references(rows, labels)
    metric = task.metrics(labels)[0]
    decoded = {
        name: [task.decode(_outputs(folder, nth), labels) for nth in range(seeds)]
        for name, folder in folders.items()
    }
    found = gain(metric, decoded["chosen"], decoded["own"], references)
    means = {
        n: float(np.mean([metric(d, references) for d in each])) for n, each in decoded.items()
    }
    return {**means, "difference": found.value, "ci": [found.ci_low, found.ci_high]}


def _outputs(folder: Path, nth: int) -> dict[str, np.ndarray]:
    where = folder / (f"seeds/student-{nth}" if nth else "student")
    return dict(np.load(where / "test-outputs.npz"))


def table(document: dict[str, Any]) -> str:
    test, low, high = document["test"], *document["test"]["ci"]
    states = Counter(trial["state"] for trial in document["trials"])
    budget, teacher = document["budget"], document["teacher"]
    values = json.dumps(document["chosen"])
    return (
        "| setting | test accuracy |\n|---|---|\n"
        f"| the recipe's own | {test['own']:.4f} |\n| chosen | {test['chosen']:.4f} |\n\n"
        f"Chosen minus own: {test['difference']:+.4f} (95 %: {low:+.4f} to {high:+.4f}), each"
        f" trained {budget['budget']} epochs on all rows with {budget['seeds']} seed(s). Search:"
        f" {dict(states)} trials of at most {budget['epochs']} epochs on {budget['rows']:,} rows by"
        f" {PROCESSES} processes in {document['search_seconds'] / 60:.0f} min. The teacher answered"
        f" {teacher['answers']:,} times for {teacher['rows']:,} rows, in {teacher['processes']}"
        f" process. Chosen: {values}\n"
    )


if __name__ == "__main__":
    main()
