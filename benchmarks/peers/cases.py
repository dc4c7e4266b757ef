"""The students that are compared, and the rows that go with them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import audio, data, tasks
from edgekd.errors import InputError

HELD_OUT = 0.1  # of the training rows, to choose a precision on and to calibrate with
CALIBRATION = 128  # rows


@dataclass(frozen=True)
class Case:
    name: str
    task: str
    student: Path
    train: str
    test: str


def known(name: str, runs: Sequence[Path]) -> Case:
    """A case by name, its student where ``edgekd run`` leaves it: the first found under ``runs``.

    Raises :class:`InputError` with the reason where the student or the data is not there.
    """
    shared = {"banking77": "text-classification", "fsdd": "audio-classification"}
    folders = [folder / name / "student" for folder in runs]
    student = next(filter(Path.is_dir, folders), None)
    if student is None:
        places = " or ".join(map(str, folders))
        raise InputError(f"no student in {places}; train it with examples/{name}.yaml")
    if name == "digits":
        image = "image-classification"
        return Case(name, image, student, "builtin:digits/train", "builtin:digits/test")
    if name not in shared:
        raise InputError(f"unknown case '{name}'; there are banking77, digits, fsdd and lengths")
    assets = os.environ.get("EDGEKD_ASSETS")
    if not assets:
        raise InputError("EDGEKD_ASSETS does not name the folder that holds data/")
    folder = Path(assets) / "data" / name
    ending = ".csv" if name == "banking77" else ""
    return Case(
        name, shared[name], student, str(folder / f"train{ending}"), str(folder / f"test{ending}")
    )


def read(case: Case, work: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Path]:
    """Test rows, held-out training rows, and those as a source that ``--select`` reads."""
    task = tasks.get(case.task)
    test = data.read_rows(case.test, task, {})
    train = data.drop_overlap(data.read_rows(case.train, task, {}), test, allow=True)[0]
    held = data.hold_out(train, HELD_OUT)[1]
    return test, held, _write(held, work)


def _write(rows: Sequence[dict[str, Any]], work: Path) -> Path:
    """Texts as a CSV file; images as PNG and sounds as WAV in one folder per class."""
    if "text" in rows[0]:
        file = work / "select.csv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return file
    folder = work / "select"
    for i, row in enumerate(rows):
        (folder / row["label"]).mkdir(parents=True, exist_ok=True)
        place = folder / row["label"] / f"{i:05}"
        if "image" in row:
            from PIL import Image

            Image.fromarray(row["image"]).save(place.with_suffix(".png"))
        else:
            audio.write(place.with_suffix(".wav"), row)
    return folder
