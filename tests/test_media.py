"""Sounds from folders, tables and data sets end as the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekd import data, tasks
from edgekd.errors import InputError
from edgekd.signals.keys import key

TASK = tasks.get("audio-classification")
CLIPS = {"yes": np.linspace(-0.5, 0.5, 900), "no": np.sin(np.arange(700))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, samples in CLIPS.items():
        (tmp_path / "set" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "set" / label / "0.wav", samples, 8000)
    return tmp_path / "set"


def test_a_folder_a_table_and_a_data_set_read_the_same(folder: Path, tmp_path: Path) -> None:
    from datasets import Audio, Dataset

    expected = data.read_rows(folder, TASK)
    assert [row["label"] for row in expected] == ["no", "yes"]
    assert {row["sampling_rate"] for row in expected} == {8000}
    table = tmp_path / "rows.csv"  # paths are meant from the table's folder
    table.write_text("file,label\nset/no/0.wav,no\nset/yes/0.wav,yes\n")
    paths = [str(folder / label / "0.wav") for label in ("no", "yes")]
    saved = Dataset.from_dict({"audio": paths, "label": ["no", "yes"]})
    saved.cast_column("audio", Audio()).save_to_disk(str(tmp_path / "saved"))
    for source in (table, tmp_path / "saved"):
        found = data.read_rows(source, TASK)
        assert list(map(key, found)) == list(map(key, expected))
        assert list(map(data.content_key, found)) == list(map(data.content_key, expected))


def test_sounds_are_told_apart_by_their_samples(folder: Path) -> None:
    first, second = data.read_rows(folder, TASK)
    assert data.content_key(first) != data.content_key(second) and key(first) != key(second)
    kept, overlap = data.drop_overlap([first, second], [{**first, "label": "yes"}], allow=True)
    assert kept == [second] and overlap.test_rows == 1


def test_what_cannot_be_heard_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "yes" / "1.wav").write_text("not a sound")
    with pytest.raises(InputError, match=r"row 3: cannot read the sound .*1\.wav"):
        data.read_rows(folder, TASK)
    (tmp_path / "empty" / "yes").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no audio file"):
        data.read_rows(tmp_path / "empty", TASK)
    (tmp_path / "rows.jsonl").write_text('{"audio": 7, "label": "yes"}\n')
    with pytest.raises(InputError, match="a int is no sound"):
        data.read_rows(tmp_path / "rows.jsonl", TASK)
