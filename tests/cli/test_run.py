"""``run``, ``distill`` and ``label`` on a small text task, and what they answer to bad input."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.signals import SignalStore
from tests.conftest import write_csv

Cli = Callable[..., Any]


@pytest.fixture
def recipe_of(
    write_recipe: Callable[..., Path], bert_dir: Path, intents: Any
) -> Callable[..., Path]:
    """``recipe_of(data={…}, …)`` is a recipe for the intents with some values replaced."""

    def make(**values: Any) -> Path:
        data = {"train": str(intents.train), "test": str(intents.test), **values.pop("data", {})}
        whole = {
            "task": "text-classification",
            "teacher": str(bert_dir),
            "student": {"layers": [1], "vocabulary": "trim"},
            "distill": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3},
            "targets": ["onnx"],
            "profiles": [],
        }
        return write_recipe(data=data, **{**whole, **values})

    return make


def test_a_text_task_from_recipe_to_verdict(
    edgekd: Cli, recipe_of: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = recipe_of(budget={"retained": "50%", "size": "1 MB"})
    answer = edgekd("run", recipe, "--out", out, "--json", "-")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document == json.loads((out / "report.json").read_text())
    assert document["verdict"]["status"] == "passed"
    sizes = {row["id"]: row["params"] for row in document["models"]}
    assert sizes["student"] == sizes["student-no-kd"] < sizes["teacher"]
    assert "passed" in answer.err and "report.html" in answer.err
    # A line that nothing measured is no failure, and with --strict no success either.
    unchecked = recipe_of(budget={"latency": "1 ms"})
    assert edgekd("run", unchecked, "--out", out, "--strict").code == 3
    missed = recipe_of(budget={"size": "1 kB"})
    assert edgekd("run", missed, "--out", out).code == 1
    assert edgekd("report", out, "--json", tmp_path / "again.json").code == 0
    assert json.loads((tmp_path / "again.json").read_text())["verdict"]["status"] == "failed"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def bad_data(name: str, intents: Any, folder: Path) -> dict[str, Any]:
    """The ``data`` section of a recipe with one thing wrong."""
    train, test = rows_of(intents.train), rows_of(intents.test)
    turned = {"card": "0", "money": "2", "größe": "1"}
    made: dict[str, Any] = {
        "missing": {"train": "nowhere.csv"},
        "column": {"label": "lable"},
        "empty class": {"train": [row for row in train if row["label"] != "größe"]},
        "overlap": {"train": [*train, *test[:2]]},
        "stranger": {"train": [*train, {"text": "z", "label": "other"}]},
        "order": {"labels": ["money", "card", "größe"]},
        "numbers in another order": {
            "train": [{**row, "label": turned[row["label"]]} for row in train],
            "test": [{**row, "label": turned[row["label"]]} for row in test],
        },
        "chance": {
            "test": [{**row, "label": train[(5 * i) // 3]["label"]} for i, row in enumerate(test)]
        },
    }[name]
    return {
        role: write_rows(folder / f"{role}.csv", value)
        if isinstance(value, list) and isinstance(value[0], dict)
        else value
        for role, value in made.items()
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "nowhere.csv does not exist"),
        ("column", "no column 'lable' (did you mean 'label'?)"),
        ("empty class", "no row of the class 'größe'; add examples, or say 'allow_empty_classes"),
        ("overlap", "2 of 48 test rows (4.2%) also stand in the training data"),
        ("stranger", "the label 'other', which the "),
        ("order", "position 0 is 'money' here and 'card' there"),
        ("numbers in another order", "the labels are in another order than the teacher's"),
        ("chance", "is not fine-tuned for this task or these labels"),
    ],
)
def test_bad_data_is_one_line_and_harms_nothing(
    edgekd: Cli,
    recipe_of: Callable[..., Path],
    intents: Any,
    tmp_path: Path,
    name: str,
    message: str,
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "report.json").write_text("of an earlier run")
    recipe = recipe_of(data=bad_data(name, intents, tmp_path))
    answer = edgekd("run", recipe, "--out", out)
    assert answer.code == 2
    said = [line for line in answer.err.splitlines() if line.startswith("edgekd: ")]
    assert len(said) == 1 and message in said[0], answer.err
    assert answer.err.splitlines()[-1] == said[0]
    assert (out / "report.json").read_text() == "of an earlier run"


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"studnt": {}}, 2, "did you mean 'student'"),
        ({"student": {"layers": [9]}}, 2, "names layer 9, but the teacher has 2 (0 to 1)"),
        ({"teacher": "/no/such/teacher"}, 2, "/no/such/teacher does not exist"),
        ({"teacher": "nobody/no-such-teacher"}, 4, "check the id and the network"),
        ({"teacher": {"config": {"model_type": "bert"}}}, 2, "set teacher.base"),
        ({"targets": {"onnx": {"lengths": [64]}}}, 2, "more than the 48 tokens"),
        ({"student": {"config": {"model_type": "brt"}}}, 2, "did you mean 'bert'"),
    ],
)
def test_bad_recipes(
    edgekd: Cli,
    recipe_of: Callable[..., Path],
    tmp_path: Path,
    values: dict[str, Any],
    code: int,
    message: str,
) -> None:
    answer = edgekd("run", recipe_of(**values), "--out", tmp_path / "run")
    assert answer.code == code
    assert message in answer.err.splitlines()[-1]
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_run_directory_that_is_a_file(
    edgekd: Cli, recipe_of: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        answer = edgekd("run", recipe_of(), "--out", out)
        assert (answer.code, "cannot write to the run directory" in answer.err) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"


def test_distill_alone(edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    long = ({"text": f"my card {i} " * 30, "label": "card"} for i in range(9))
    train = write_csv(tmp_path / "train.csv", [*intents.train_rows, *long])
    given = ["--train", train, "--test", intents.test, "--out", tmp_path / "run"]
    quick = ["--layers", "0", "--epochs", 1, "--no-control"]
    answer = edgekd("distill", bert_dir, *given, *quick, "--json", tmp_path / "said.json")
    assert answer.code == 0, answer.err
    assert re.search(r"^student +[\d,]+ parameters  accuracy [01]\.", answer.out, re.MULTILINE)
    document = json.loads((tmp_path / "said.json").read_text())
    (warning,) = document["warnings"]
    assert "of the training rows are longer than the teacher reads: cut off" in warning
    assert f"note: {warning}" in answer.out
    assert document["schema"] == "edgekd.distill/1"
    assert [row["id"] for row in document["models"]] == ["teacher", "student"]
    assert (Path(document["student"]) / "model.safetensors").is_file()
    wrong = edgekd("distill", bert_dir, *given, "--layers", "0;1")
    assert wrong.code == 2 and "write numbers with commas" in wrong.err
    wrong = edgekd("distill", bert_dir, *given, "--temperature", 0)
    assert wrong.code == 2 and "distill.temperature" in wrong.err


def test_label_alone(edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    given = [bert_dir, "--data", intents.test, "--out", tmp_path / "store", "--json", "-"]
    first, second = (edgekd("label", *given) for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert json.loads(first.out)["labelled"] == 48
    assert json.loads(second.out)["labelled"] == 0
    assert json.loads(second.out)["stored"] == 48
    assert SignalStore.open(tmp_path / "store").spec.fields["logits"].dtype == "float16"
    wrong = edgekd("label", *given, "--dtype", "int8")
    assert wrong.code == 2 and "float16 or float32" in wrong.err
    (tmp_path / "file").write_text("mine")
    wrong = edgekd("label", bert_dir, "--data", intents.test, "--out", tmp_path / "file")
    assert wrong.code == 2 and (tmp_path / "file").read_text() == "mine", wrong.err
