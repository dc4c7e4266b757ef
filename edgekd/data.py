"""Read labelled and unlabelled rows from wherever a user keeps them.

A source is a file (CSV, TSV, JSON Lines, Parquet), a folder with one sub-folder per class, a
Hugging Face data set (``id``, ``id:split`` or a saved folder) or ``builtin:digits/train``.
Every source ends as the same canonical rows: ``text`` (and ``text_pair``), ``image``, or
``audio`` with its ``sampling_rate``; and ``label``, which is always a class name or absent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import blocks, media, sources
from edgekd.errors import InputError, nearest
from edgekd.preprocess import Row
from edgekd.tasks import Task

OVERLAP_LIMIT = 0.02  # of the test rows


def read_rows(
    source: str | Path,
    task: Task,
    columns: Mapping[str, str] | None = None,
    *,
    labelled: bool = True,
) -> list[dict[str, Any]]:
    """Read every row of ``source``; ``columns`` maps a role (``text``, ``label``) to a column.

    Of rows that are not ``labelled`` no truth is read, even where there is one. Raises
    :class:`InputError` naming the file and line for a missing file, a missing column, an empty
    cell or an unreadable row.
    """
    labelled = labelled or task.over_vocabulary  # whose truth is the text
    records, where = sources.records(str(source), task)
    folder = Path(source).expanduser().parent
    if not records:
        raise InputError(f"{where} has no rows; a header alone or an empty file is no data")
    mapping = _columns(records, task, dict(columns or {}), where, labelled)
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        row = {role: record.get(column) for role, column in mapping.items()}
        for role, value in row.items():
            if _is_empty(value):
                raise InputError(
                    f"{where}, row {number}: the column '{mapping[role]}' is empty (or -1, no"
                    " label); fill it, drop the row, or use another split"
                )
        for role in ("text", "text_pair", "label"):
            if role in row:
                row[role] = _words(row[role], f"{where}, row {number}, column '{mapping[role]}'")
        for role in ("tokens", "tags", "labels"):
            if role in row:
                place = f"{where}, row {number}, column '{mapping[role]}'"
                row[role] = _list(row[role], place, role)
        if "answers" in row:
            row["answers"] = _answers(row["answers"], f"{where}, row {number}")
        if "image" in row:
            row["image"] = media.pixels(media.located(row["image"], folder), where, number)
        if "audio" in row:
            heard = media.sound(media.located(row["audio"], folder), where, number)
            row["audio"], row["sampling_rate"] = heard
        rows.append(row)
    return rows


def _is_empty(value: Any) -> bool:
    """Nothing, white space, or the NaN by which tables write a missing cell."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def _words(value: Any, where: str) -> str:
    """A text or a class name; numbers and truth values are taken as they are written."""
    if not isinstance(value, str | int | float):
        raise InputError(f"{where}: a {type(value).__name__}, not a text; write it as one string")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not valid Unicode ({error.reason}); mend the text") from error
    return str(value)


# Cells that were meant as a list and are none. Tokens may be brackets and commas, a tag may be a
# comma, alone or behind a sign ("$," of the German STTS).
_NO_LIST = {
    "tokens": re.compile(r"\s*\[\s*[\"']"),
    "tags": re.compile(r"\s*\[|.*\w[,;](\s|$)", re.DOTALL),
    "labels": re.compile(r"\s*\[|.*[,;]", re.DOTALL),
}


_YES_OR_NO = {"0", "1", "0.0", "1.0", "False", "True", "false", "true"}


def _list(value: Any, where: str, role: str) -> list[str]:
    """A list of words or tags; in a CSV file they stand in one cell."""
    if isinstance(value, str):
        value = _cell(value, where, role)
    if not isinstance(value, list | tuple | np.ndarray):
        raise InputError(f"{where}: a {type(value).__name__}, not a list of words")
    found = [_words(item, where) for item in value]
    if role == "labels" and set(found) <= _YES_OR_NO and len(found) > len(set(found)):
        raise InputError(
            f"{where}: {' '.join(found)} looks like a yes or no for each label; write the names or"
            " positions of those that hold"
        )
    return found


def _cell(value: str, where: str, role: str) -> list[Any]:
    """The list in a cell: JSON, or words separated by spaces."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    # A text may be "[1]", which is one word.
    if isinstance(found, list) and (role != "tokens" or {type(word) for word in found} == {str}):
        return found
    if _NO_LIST[role].match(value):
        raise InputError(
            f"{where}: {value[:40]!r} is neither a JSON list nor {role} separated by spaces; write"
            ' ["one", "two"] in the cell, or: one two'
        )
    return value.split()


def _answers(value: Any, where: str) -> list[list[Any]]:
    """Answers as [text, begin or None]: from SQuAD's columns, a list of texts, or one text."""
    if isinstance(value, str) and value.lstrip()[:1] in "{[":  # JSON in one cell
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{where}: the answers are not JSON ({error})") from error
    if isinstance(value, Mapping):
        texts, begins = value.get("text") or (), value.get("answer_start")
        found = [[text, int(begin)] for text, begin in zip(texts, begins or (), strict=False)]
        found = found or [[text, None] for text in texts]
    else:
        found = [[text, None] for text in ([value] if isinstance(value, str) else value)]
    if not found or not all(isinstance(text, str) and text for text, _ in found):
        raise InputError(f"{where}: no answer; a question without one cannot be learned here")
    return found


def content_key(row: Row) -> bytes:
    """What makes two rows the same example: case-folded, space-squeezed text, pixels, samples."""
    digest = hashlib.blake2b(digest_size=16)
    if row.get("tokens") is not None:
        digest.update("\0".join(row["tokens"]).casefold().encode())
    for role in ("text", "text_pair"):
        if row.get(role) is not None:
            digest.update(" ".join(str(row[role]).casefold().split()).encode() + b"\0")
    if "image" in row:
        image = np.asarray(row["image"])
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    if "audio" in row:
        samples = np.ascontiguousarray(row["audio"], np.float32)
        digest.update(f"{row.get('sampling_rate')}".encode() + b"\0" + samples.tobytes())
    return digest.digest()


@dataclass(frozen=True)
class Overlap:
    """Test rows that also stand in the training data."""

    test_rows: int  # how many test rows stand in the training data, or a part of them does
    dropped: int  # how many training rows were dropped for it
    share: float  # of the test set


_ANSWERS = ("label", "labels", "tags")


def _each(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def name_labels(rows: list[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Name integer labels and tags by position, where the classes have other names.

    Raises :class:`InputError` for a label that is neither a name nor a position.
    """
    given = [{role: row[role] for role in _ANSWERS if row.get(role) is not None} for row in rows]
    found = {name for answers in given for value in answers.values() for name in _each(value)}
    if not labels or found <= set(labels):
        return rows
    positions = {name for name in found if name.isdigit() and int(name) < len(labels)}
    if positions == found:
        names = {label: labels[int(label)] for label in found}
        return [
            row
            | {
                role: names[value] if isinstance(value, str) else [names[name] for name in value]
                for role, value in answers.items()
            }
            for row, answers in zip(rows, given, strict=True)
        ]
    stranger = min(found - set(labels), key=lambda name: (name in positions, name))
    raise InputError(
        f"the data has the label '{stranger}', which the model does not know"
        f"{nearest(stranger, list(labels))}; its {len(labels)} labels are"
        f" {', '.join(labels[:6])}{', …' if len(labels) > 6 else ''}; rename or drop its rows, or fit"
        " a model on them (teacher.base)"
    )


def drop_overlap(
    train: list[dict[str, Any]],
    test: Sequence[Row],
    *,
    allow: bool,
    what: str = "training",
    running: bool = False,
) -> tuple[list[dict[str, Any]], Overlap]:
    """Drop from ``train`` what also stands in ``test``; above 2 % of the test set, refuse.

    ``what`` names the rows in messages: training, selection, unlabelled. Blocks of ``running`` text
    are compared as the texts that they are cut from: no run of the test text stays in training.
    """
    if not train or not test:
        return list(train), Overlap(0, 0, 0.0)
    keys, theirs = ([content_key(row) for row in rows] for rows in (train, test))
    both = set(keys) & set(theirs)
    mine, shared = (np.array([key in both for key in found], float) for found in (keys, theirs))
    if running:  # of each row the share, where it is in part the same
        runs = blocks.shared_runs(train, test)
        mine, shared = (np.maximum(*pair) for pair in zip((mine, shared), runs, strict=True))
    kept = [row for row, share in zip(train, mine, strict=True) if not share]
    # A row counts as one, running text by its length.
    sizes = [len(row["text"]) for row in test] if running else None
    share = float(np.average(shared, weights=sizes))
    overlap = Overlap(int((shared > 0).sum()), len(train) - len(kept), share)
    if overlap.share > OVERLAP_LIMIT and not allow:
        much = f"{overlap.test_rows} of {len(test)} test rows ({overlap.share:.1%}) also stand"
        if running:
            much = f"{overlap.share:.1%} of the test text also stands"
        raise InputError(
            f"{much} in the {what} data; above {OVERLAP_LIMIT:.0%} no result can be trusted. Split the"
            " data again, or say 'allow_overlap: true' under data: to drop it there and go on"
        )
    return kept, overlap


def hold_out(
    rows: Sequence[dict[str, Any]], fraction: float, group: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split off about ``fraction`` of the rows by content, so equal rows stay together.

    So do rows that are the same in the columns ``group``; the fraction is then of such groups.
    """
    kept: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for row in rows:
        value = int.from_bytes(group_key(row, group)[:8], "big") / 2**64
        (held if value < fraction else kept).append(row)
    return kept, held


def group_key(row: Row, group: Sequence[str]) -> bytes:
    """What is the same for all rows of a group; without one every row is its own."""
    return content_key({role: row[role] for role in group} if group else row)


def check_classes(rows: Sequence[Row], labels: Sequence[str], where: str) -> None:
    """Every class must have a training row; raise :class:`InputError` naming the empty ones."""
    counts = Counter(row["label"] for row in rows)
    empty = [label for label in labels if not counts[label]]
    if empty:
        raise InputError(
            f"{where} has no row of the class {', '.join(map(repr, empty[:5]))}"
            f"{f' and {len(empty) - 5} more' if len(empty) > 5 else ''}; add examples, or say"
            " 'allow_empty_classes: true' under data:"
        )


def _columns(
    records: Sequence[Mapping[str, Any]],
    task: Task,
    given: dict[str, str],
    where: str,
    labelled: bool,
) -> dict[str, str]:
    """Decide which column plays which role."""
    found = list(records[0])
    mapping: dict[str, str] = {}
    roles = [*task.default_columns, *(["text_pair"] if "text" in task.default_columns else [])]
    for role, column in given.items():
        if role == "label" and "label" not in roles:  # whatever the task calls its truth
            role = task.answer
        if role not in roles:
            raise InputError(f"{task.name} has no '{role}' column; it has {', '.join(roles)}")
        if role == task.answer and not labelled:
            continue
        if column not in found:
            raise InputError(
                f"{where} has no column '{column}'{nearest(column, found)}; it has"
                f" {', '.join(map(str, found))}"
            )
        mapping[role] = column
    for role, candidates in task.default_columns.items():
        if role in mapping or (role == task.answer and not labelled):
            continue
        match = next((name for name in candidates if name in found), None)
        if match is None and role == task.answer and not task.needs_answers:
            continue
        if match is None:
            raise InputError(
                f"{where} has no {role} column (looked for {', '.join(candidates)}); it has"
                f" {', '.join(map(str, found))}; name the right one ('{role}: COLUMN' under data: in a"
                " recipe)"
            )
        mapping[role] = match
    return mapping
