"""Rows come out canonical from every kind of source, and a bad source names its fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import data, tasks
from edgekd.errors import InputError, MissingDependency

TEXT = tasks.get("text-classification")
IMAGE = tasks.get("image-classification")
ROWS = [
    {"text": "Grüße, 世界", "label": "a"},
    {"text": 'a "quoted", comma\nand line', "label": "b"},
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def as_csv(path: Path) -> str:
    body = '\ufefftext,label\n"Grüße, 世界",a\n"a ""quoted"", comma\nand line",b\n'
    return write(path / "x.csv", body)


def as_tsv(path: Path) -> str:
    return write(
        path / "x.tsv", 'text\tlabel\nGrüße, 世界\ta\n"a ""quoted"", comma\nand line"\tb\n'
    )


def as_jsonl(path: Path) -> str:
    return write(path / "x.jsonl", "\n\n".join(json.dumps(row) for row in ROWS) + "\n")


def as_parquet(path: Path) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path / "x.parquet")
    return str(path / "x.parquet")


def as_coded_parquet(path: Path) -> str:
    """Class numbers, with the names in the metadata, as the datasets library writes them."""
    import datasets

    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    values = [{**row, "label": "ab".index(row["label"])} for row in ROWS]
    table = datasets.Dataset.from_list(values, features=datasets.Features(features))
    table.to_parquet(path / "y.parquet")
    return str(path / "y.parquet")


def as_saved_dataset(path: Path) -> str:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(path / "saved")
    return str(path / "saved")


@pytest.mark.parametrize(
    "source", [as_csv, as_tsv, as_jsonl, as_parquet, as_coded_parquet, as_saved_dataset]
)
def test_every_source_gives_the_same_rows(source: Callable[[Path], str], tmp_path: Path) -> None:
    assert data.read_rows(source(tmp_path), TEXT) == ROWS


def test_columns_by_name_by_role_and_without_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "review,second,stars\ngood,really,5\n")
    named = {"text": "review", "text_pair": "second", "label": "stars"}
    assert data.read_rows(source, TEXT, named) == [
        {"text": "good", "text_pair": "really", "label": "5"}
    ]
    assert data.read_rows(source, TEXT, {"text": "review"}, labelled=False) == [{"text": "good"}]


def test_a_truth_that_is_not_asked_for_is_not_read_even_where_the_recipe_names_it(
    tmp_path: Path,
) -> None:
    source = write(tmp_path / "x.csv", "text,category\ngood,praise\nbad,\n")
    columns = {"label": "category"}
    rows = [{"text": "good"}, {"text": "bad"}]
    assert data.read_rows(source, TEXT, columns, labelled=False) == rows
    with pytest.raises(InputError, match="row 2: the column 'category' is empty"):
        data.read_rows(source, TEXT, columns)
    story = tasks.get("text-generation")  # whose truth is the text
    assert data.read_rows(source, story, {"label": "text"}, labelled=False) == rows


@pytest.mark.parametrize(
    ("role", "cell", "expected"),
    [
        ("labels", "joy anger", ["joy", "anger"]),
        ("labels", '["joy", "quiet anger, held back"]', ["joy", "quiet anger, held back"]),
        ("labels", " [] ", []),
        ("labels", "[1, 0]", ["1", "0"]),
        ("tags", "B-PER , $, O", ["B-PER", ",", "$,", "O"]),
        ("tags", "[3, 0]", ["3", "0"]),
        ("tokens", "well , then , go", ["well", ",", "then", ",", "go"]),
        ("tokens", "[1]", ["[1]"]),
        ("tokens", "[ see Grey, 1999 ]", ["[", "see", "Grey,", "1999", "]"]),
        ("tokens", '["New York", "now"]', ["New York", "now"]),
        ("labels", "sports, politics", None),
        ("labels", "sports;politics", None),
        ("labels", "['joy', 'anger']", None),  # as Python prints it
        ("labels", '["joy", "anger"', None),
        ("tags", "B-PER, O", None),
        ("tags", "[0 1]", None),
        ("tokens", "['New', 'York']", None),
    ],
)
def test_a_list_in_a_cell_is_json_or_words(
    tmp_path: Path, role: str, cell: str, expected: list[str] | None
) -> None:
    name = "text-classification/multi-label" if role == "labels" else "token-classification"
    task = tasks.get(name)
    record = dict.fromkeys(task.default_columns, "one") | {role: cell}
    source = write(tmp_path / "x.jsonl", json.dumps(record))
    if expected is not None:
        assert data.read_rows(source, task)[0][role] == expected
        return
    with pytest.raises(InputError, match=f"row 1, column '{role}': .* neither a JSON list nor"):
        data.read_rows(source, task)


@pytest.mark.parametrize("cell", [[1, 0, 1], [True, False, True], "[0.0, 0.0, 1.0]", "1 0 1"])
def test_a_yes_or_no_for_each_label_is_no_list_of_them(tmp_path: Path, cell: Any) -> None:
    task = tasks.get("text-classification/multi-label")
    source = write(tmp_path / "x.jsonl", json.dumps({"text": "one", "labels": cell}))
    with pytest.raises(
        InputError, match=r"row 1, column 'labels': [01TrueFals. ]+ looks like a yes or no"
    ):
        data.read_rows(source, task)
    source = write(tmp_path / "y.jsonl", json.dumps({"text": "one", "labels": [1, 0]}))
    assert data.read_rows(source, task)[0]["labels"] == ["1", "0"]  # both classes


def test_images_from_folders_arrays_and_bytes(tmp_path: Path) -> None:
    import io

    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png")
    for name in ("cat", "dög"):
        (tmp_path / "images" / name).mkdir(parents=True)
        write(tmp_path / "images" / name / "1.PNG", picture.getvalue())
    rows = data.read_rows(tmp_path / "images", IMAGE)
    assert [row["label"] for row in rows] == ["cat", "dög"]
    np.testing.assert_array_equal(rows[0]["image"], pixels)

    record = {"image": {"bytes": picture.getvalue(), "path": None}, "label": "cat"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "i.parquet")
    (row,) = data.read_rows(tmp_path / "i.parquet", IMAGE)
    np.testing.assert_array_equal(row["image"], pixels)


def test_digits_are_split_once_for_all() -> None:
    train = data.read_rows("builtin:digits/train", IMAGE)
    test = data.read_rows("builtin:digits/test", IMAGE)
    assert (len(train), len(test)) == (1347, 450)
    assert {row["label"] for row in test} == set("0123456789")
    assert train[0]["image"].shape == (8, 8) and train[0]["image"].dtype == np.uint8
    assert not {data.content_key(r) for r in train} & {data.content_key(r) for r in test}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "has no rows"),
        ("x.csv", "text,label\n", "has no rows"),
        ("x.csv", "txt,lbl\na,b\n", "no text column .* it has txt, lbl"),
        ("x.csv", "text,label\nonly one\n", "line 2: .* 2 columns"),
        ("x.csv", "text,label\na,b,c\n", "line 2: .* 2 columns"),
        ("x.csv", "text,text,label\na,b,c\n", "two columns called 'text'"),
        ("x.csv", "text,label\na,b\n ,b\n", "row 2: the column 'text' is empty"),
        ("x.csv", "text,label\na,\n", "row 1: the column 'label' is empty"),
        ("x.csv", "text,label\nfo\xe9,b\n".encode("latin1"), "not UTF-8 .* save it as UTF-8"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), "not UTF-8"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', "line 2: not JSON"),
        ("x.jsonl", '["a"]\n', "line 1: not an object"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{"text": "c"}\n', "row 2: the column 'label'"),
        ("x.jsonl", '{"text": ["a", "b"], "label": "b"}\n', "row 1, column 'text': a list"),
        ("x.jsonl", '{"text": NaN, "label": "b"}\n', "row 1: the column 'text' is empty"),
        ("x.jsonl", '{"text": "a\\ud800", "label": "b"}\n', "not valid Unicode"),
        ("x.parquet", b"PAR1 garbage", "not a readable Parquet file"),
        ("x.parquet", b"", "not a readable Parquet file"),
        ("x.json", "{}", "unknown kind of data file '.json'"),
    ],
)
def test_a_bad_file_is_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as error:
        data.read_rows(source, TEXT)
    assert source in str(error.value)
    assert "\n" not in str(error.value)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source in ("nowhere.csv", "/no/such/folder", "./nowhere", "builtin:mnist/train"):
        with pytest.raises(InputError, match=r"does not exist|there are builtin:digits"):
            data.read_rows(source, TEXT)
    with pytest.raises(MissingDependency, match="check the id and the network"):
        data.read_rows("no_such_data_set", TEXT)
    with pytest.raises(InputError, match="no class folders"):
        data.read_rows(tmp_path, IMAGE)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        data.read_rows(tmp_path, IMAGE)
    write(tmp_path / "cat" / "1.png", b"not a picture")
    with pytest.raises(InputError, match="row 1: not a readable image"):
        data.read_rows(tmp_path, IMAGE)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    source = as_csv(tmp_path)
    with pytest.raises(InputError, match=r"no column 'lable' \(did you mean 'label'\?\)"):
        data.read_rows(source, TEXT, {"label": "lable"})
    with pytest.raises(InputError, match="has no 'image' column"):
        data.read_rows(source, TEXT, {"image": "text"})


@pytest.mark.parametrize("text", ["nul \0 inside", "x" * 100_000, "🙂" * 50])
def test_odd_but_valid_texts_pass_unharmed(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "x.jsonl", json.dumps({"text": text, "label": "größe"}))
    assert data.read_rows(source, TEXT) == [{"text": text, "label": "größe"}]


texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=30)


@given(texts, texts)
def test_what_is_dropped_is_what_both_hold(train: list[str], test: list[str]) -> None:
    train_rows: list[dict[str, Any]] = [{"text": text} for text in train]
    test_rows = [{"text": text} for text in test]
    kept, overlap = data.drop_overlap(train_rows, test_rows, allow=True)
    keys = {data.content_key(row) for row in test_rows}
    assert kept == [row for row in train_rows if data.content_key(row) not in keys]
    assert overlap.dropped == len(train) - len(kept)
    assert (overlap.share > 0) == (overlap.dropped > 0)
    assert 0 <= overlap.share <= 1


def test_overlap_above_two_percent_is_refused() -> None:
    test = [{"text": f"row {i}"} for i in range(100)]
    train = [{"text": f"other {i}"} for i in range(5)]
    twins = [{"text": " ROW   3"}, {"text": "row 4"}]  # case and spaces make no other example
    kept, overlap = data.drop_overlap([*train, *twins], test, allow=False)
    assert kept == train
    assert (overlap.test_rows, overlap.dropped, overlap.share) == (2, 2, 0.02)
    with pytest.raises(InputError, match=r"3 of 100 test rows \(3.0%\)"):
        data.drop_overlap([*train, *twins, {"text": "row 5"}], test, allow=False)


@given(st.lists(st.text(max_size=5), max_size=60), st.floats(0.05, 0.95))
def test_holding_out_splits_by_content(values: list[str], fraction: float) -> None:
    rows: list[dict[str, Any]] = [{"text": value} for value in values]
    kept, held = data.hold_out(rows, fraction)
    assert len(kept) + len(held) == len(rows)
    assert not {data.content_key(r) for r in kept} & {data.content_key(r) for r in held}
    assert data.hold_out(rows[::-1], fraction)[1] == held[::-1]


def test_what_is_scored_together_is_held_out_together() -> None:
    rows = [{"text": f"query {i // 10}", "text_pair": f"passage {i}"} for i in range(2000)]
    kept, held = data.hold_out(rows, 0.1, ("text",))
    assert not {row["text"] for row in kept} & {row["text"] for row in held}
    assert len(held) % 10 == 0 and 100 <= len(held) <= 300  # a tenth of the 200 queries
    scattered = data.hold_out(rows, 0.1)
    assert {row["text"] for row in scattered[0]} & {row["text"] for row in scattered[1]}


def test_running_text_is_compared_wherever_its_blocks_begin() -> None:
    words = [f"word{i * 7919 % 10007}" for i in range(1400)]

    def blocks_of(chosen: list[str], size: int = 10) -> list[dict[str, Any]]:
        return [{"text": " ".join(chosen[i : i + size])} for i in range(0, len(chosen), size)]

    test, other = blocks_of(words[:200]), words[400:]
    moved = blocks_of(["One", "line", "more", *words[:200], *other])
    assert data.drop_overlap(moved, test, allow=False)[1].share == 0  # block by block
    with pytest.raises(InputError, match=r"100\.0% of the test text also stands in the training"):
        data.drop_overlap(moved, test, allow=False, running=True)
    kept, overlap = data.drop_overlap(moved, test, allow=True, running=True)
    assert (overlap.test_rows, overlap.dropped, overlap.share) == (20, 21, 1)
    assert kept == moved[21:]
    # A quotation of some words is none, and short texts are the same as a whole.
    quoted = blocks_of([*words[:10], *other])
    assert data.drop_overlap(quoted[1:], test, allow=False, running=True)[0] == quoted[1:]
    share = data.drop_overlap(quoted, test, allow=True, running=True)[1].share
    assert share == len(test[0]["text"]) / sum(len(row["text"]) for row in test)
    # A share of the text: a short row counts for little.
    short = [{"text": "Yes."}, *test]
    found = data.drop_overlap(
        [{"text": "yes."}, *blocks_of(other)], short, allow=False, running=True
    )
    assert 0 < found[1].share < 0.003 and found[1].test_rows == 1


def test_an_empty_class_is_named() -> None:
    rows = [{"label": "a"}]
    data.check_classes(rows, ["a"], "train.csv")
    with pytest.raises(InputError, match=r"train.csv has no row of the class 'b', 'c'"):
        data.check_classes(rows, ["a", "b", "c"], "train.csv")
