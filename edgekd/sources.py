"""Raw records from wherever they lie: files, class folders, data sets, scikit-learn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import blocks
from edgekd.errors import InputError, MissingDependency
from edgekd.tasks import Task

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aif", ".aiff")


def records(source: str, task: Task) -> tuple[list[Mapping[str, Any]], str]:
    """Return raw records and a name for messages."""
    if source.startswith("builtin:"):
        return _builtin(source), source
    path = Path(source).expanduser()
    readers: dict[str, Callable[[Path], Iterable[Mapping[str, Any]]]] = {
        ".csv": lambda p: _csv(p, ","),
        ".tsv": lambda p: _csv(p, "\t"),
        ".txt": lambda p: blocks.read_text(p, whole=task.over_vocabulary),
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".parquet": _parquet,
    }
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "state.json").is_file():
            return _hub(source, None, saved=True), source
        return _folder_of_classes(
            path, "audio" if "audio" in task.default_columns else "image"
        ), source
    if path.suffix.lower() in readers:
        if not path.is_file():
            raise InputError(f"the data file {source} does not exist")
        try:
            return list(readers[path.suffix.lower()](path)), str(path)
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is not UTF-8 ({error}); save it as UTF-8") from error
        except (csv.Error, OSError) as error:
            raise InputError(f"{source} cannot be read: {error}") from error
    if path.exists():
        raise InputError(
            f"{source}: unknown kind of data file '{path.suffix}'; use .csv, .tsv, .jsonl, .parquet or .txt"
        )
    if source.count("/") > 1 or path.is_absolute() or source.startswith("."):
        raise InputError(f"the data {source} does not exist")
    name, _, split = source.partition(":")
    return _hub(name, split or None), source


def _csv(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(1 << 30)
    text = path.read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = list(reader.fieldnames or [])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns called '{twice}'; rename one of them")
    for record in reader:
        if None in record or None in record.values():
            raise InputError(
                f"{path}, line {reader.line_num}: the row does not have the {len(names)}"
                " columns of the header; quote texts that contain the delimiter"
            )
        yield record


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}, line {number}: not an object with columns")
            yield record


def _parquet(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow.parquet
    from pyarrow import ArrowInvalid

    try:
        table = pyarrow.parquet.read_table(path)
    except ArrowInvalid as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    names = _class_names(table.schema.metadata or {})
    records = table.to_pylist()
    for record in records:
        for column, classes in names.items():
            record[column] = _class_name(record.get(column), classes)
    return records


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The class names that the datasets library leaves in a Parquet file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError):
        return {}
    return {k: v["names"] for k, v in features.items() if isinstance(v, dict) and "names" in v}


def _folder_of_classes(path: Path, role: str) -> list[Mapping[str, Any]]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(
            f"{path} has no class folders; put the {role} files of each class in its own"
        )
    endings = AUDIO_ENDINGS if role == "audio" else IMAGE_ENDINGS
    records: list[Mapping[str, Any]] = []
    for folder in folders:
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in endings)
        if not files:
            raise InputError(
                f"the class folder {folder} holds no {role} file; add some or remove it"
            )
        records += [{role: str(file), "label": folder.name} for file in files]
    return records


def _hub(name: str, split: str | None, *, saved: bool = False) -> list[Mapping[str, Any]]:
    import datasets

    try:
        data = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        text = " ".join(str(error).split())[:160]
        if saved:
            raise InputError(f"the data set in {name} cannot be read: {text}") from error
        raise MissingDependency(
            f"cannot fetch the data set '{name}' ({text}); check the id and the network, or give a"
            " local file"
        ) from error
    if isinstance(data, dict):
        raise InputError(f"{name} has the splits {', '.join(data)}; say which one: {name}:SPLIT")
    for column, feature in data.features.items():
        if isinstance(feature, datasets.Audio):  # we decode, without the library's FFmpeg
            data = data.cast_column(column, datasets.Audio(decode=False))
    classes = {k: f.names for k, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
    return [
        {k: _class_name(v, classes[k]) if k in classes else v for k, v in record.items()}
        for record in data
    ]


def _class_name(value: Any, classes: Sequence[str]) -> Any:
    """The name of a class number; -1 is how the hub says that a split has no labels."""
    if not isinstance(value, int):
        return value
    return classes[value] if value >= 0 else None


def _builtin(source: str) -> list[Mapping[str, Any]]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 0..16, split once by a seed."""
    name, _, split = source.removeprefix("builtin:").partition("/")
    if name != "digits" or split not in ("train", "test"):
        raise InputError(f"unknown data '{source}'; there are builtin:digits/train and /test")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, targets = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(pixels, targets, test_size=0.25, stratify=targets, random_state=0)
    chosen = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    return [{"image": i, "label": str(t)} for i, t in zip(*chosen, strict=True)]
