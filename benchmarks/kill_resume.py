"""Kill a run with SIGKILL again and again; the report must end the same to the last digit.

    python benchmarks/kill_resume.py examples/digits.yaml --kills 5

Runs the recipe once undisturbed, then in a second directory, killed at moments spread over the
undisturbed run's duration, at least two of them inside training, and started again after each.
Exit 0 where ``metrics``, ``retained`` and ``agreement`` of every model and bundle are equal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIELDS = ("metrics", "metrics_ci", "retained", "retained_ci", "agreement")


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgekd", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True
    )


def stage(out: Path) -> str:
    """The stage that a run is in: the newest folder of unfinished work."""
    found = sorted((out / "partial").glob("*"), key=lambda p: p.stat().st_mtime)
    return found[-1].name.rsplit(".", 1)[0] if found else "between stages"


def in_training(out: Path) -> bool:
    """Whether a training has got as far as a checkpoint."""
    return any((out / "partial").glob("*/training/checkpoint-*/complete"))


def moments(out: Path, kills: int) -> list[tuple[str, float]]:
    """Stage and share of it at moments spread evenly over what the undisturbed run took."""
    stages = json.loads((out / "report.json").read_text())["stages"]
    total = sum(row["seconds"] for row in stages)
    found = []
    for number in range(kills):
        left = total * (number + 0.5) / kills
        for row in stages:
            if left <= row["seconds"]:
                found.append((row["name"], left / max(row["seconds"], 1e-9)))
                break
            left -= row["seconds"]
    return found


def reached(out: Path, name: str) -> bool:
    """Whether the run is in this stage, or past it."""
    return (
        bool(list((out / "partial").glob(f"{name}.*")))
        or (out / "stages" / f"{name}.json").is_file()
    )


def numbers(out: Path) -> dict[str, object]:
    document = json.loads((out / "report.json").read_text())
    rows = {row["id"]: row for row in document["models"]}
    rows |= {row["path"]: row for row in document["bundles"]}
    return {name: {field: row[field] for field in FIELDS} for name, row in rows.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="edgekd-kills-"))
    started = time.monotonic()
    if start(arguments.recipe, root / "calm").wait():
        print("the undisturbed run failed")
        return 1
    duration = time.monotonic() - started
    print(f"undisturbed: {duration:.0f} s", flush=True)
    out, inside = root / "killed", 0
    seconds = {
        row["name"]: row["seconds"]
        for row in json.loads((root / "calm" / "report.json").read_text())["stages"]
    }
    for number, (name, share) in enumerate(moments(root / "calm", arguments.kills), 1):
        process = start(arguments.recipe, out)
        while process.poll() is None and not reached(out, name):
            time.sleep(0.02)
        begun = time.monotonic()
        # A machine that became faster must not let the stage end first: half of its time at most.
        while process.poll() is None and time.monotonic() - begun < share * seconds[name] / 2:
            time.sleep(0.02)
        if process.poll() is not None:
            print(f"kill {number}: the run was already over", flush=True)
            break
        inside += in_training(out)
        where, note = stage(out), " (inside training)" if in_training(out) else ""
        process.kill()
        process.wait()
        print(f"kill {number}: aimed at {share:.0%} of {name}, hit {where}{note}", flush=True)
    if start(arguments.recipe, out).wait():
        print("the killed run did not end well")
        return 1
    calm, killed = numbers(root / "calm"), numbers(out)
    shutil.rmtree(root)
    for name, row in calm.items():
        print(f"{name}: {'equal' if killed.get(name) == row else f'{row} != {killed.get(name)}'}")
    print(f"{inside} kills inside training; {'equal' if calm == killed else 'NOT equal'}")
    return 0 if calm == killed and inside >= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
