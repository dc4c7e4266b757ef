"""What both peers' scripts share: their arguments, and a list of what they made.

An artifact that a peer cannot make is part of the result: its error is recorded, and the next one
is tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import encode
import numpy as np
import onnx
import rows


@dataclass(frozen=True)
class Job:
    """What a peer's script is asked to do.

    ``calibration`` is not padded: an export writes padding's mask as minus infinity, and a range
    that ends there is useless. The calibrators that count histograms want inputs of one shape:
    ``even`` has the texts cut to their median length, without the shorter ones.
    """

    student: Path
    task: str
    test: list[dict[str, np.ndarray]]
    calibration: list[dict[str, np.ndarray]]
    even: list[dict[str, np.ndarray]]
    out: Path
    only: tuple[str, ...]  # recipes; all of them where empty


def arguments(description: str) -> Job:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("student", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="raw test rows (.npz)")
    parser.add_argument("--calibration", type=Path, required=True, help="raw training rows (.npz)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=())
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    raw = rows.read(asked.calibration)
    calibration = encode.encode(asked.student, raw)
    return Job(
        student=asked.student,
        task=asked.task,
        test=encode.encode(asked.student, rows.read(asked.rows)),
        calibration=calibration,
        even=encode.of_one_length(asked.student, raw) if "text" in raw[0] else calibration,
        out=asked.out,
        only=tuple(asked.only),
    )


def produce(job: Job, recipes: Mapping[str, Callable[[Path], Path]]) -> None:
    """Run every recipe (scratch folder -> ONNX file); write the artifacts and ``made.json``.

    ``feeds.npz`` holds the test rows as the peer encodes them.
    """
    made: list[dict[str, Any]] = []
    for name, recipe in recipes.items():
        if job.only and name not in job.only:
            continue
        scratch = job.out / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        entry: dict[str, Any] = {"name": name, "file": None, "error": None}
        try:
            file = recipe(scratch)
            target = job.out / f"{name}.onnx"
            # One file, so that a peer's weights beside the graph are counted with it.
            onnx.save(onnx.load(file), target)
            entry["file"] = target.name
        except Exception as error:  # whatever a peer raises is what its user would see
            traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            entry["error"] = f"{type(error).__name__}: {first}"
        entry["seconds"] = round(time.perf_counter() - start, 2)
        made.append(entry)
    shutil.rmtree(job.out / "scratch")
    rows.write(job.out / "feeds.npz", job.test)
    partial = job.out / "made.json.part"
    partial.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    partial.replace(job.out / "made.json")


def fitting(
    feeds: Sequence[Mapping[str, np.ndarray]], inputs: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Only the inputs that the graph declares."""
    return [{name: feed[name] for name in inputs} for feed in feeds]


def inputs(file: Path) -> list[str]:
    graph = onnx.load(file, load_external_data=False).graph
    stored = {value.name for value in graph.initializer}
    return [value.name for value in graph.input if value.name not in stored]
