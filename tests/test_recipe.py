"""A recipe says what it means, and a wrong one says what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.quantities import parse_bytes, parse_factor, parse_milliseconds, parse_share

Write = Callable[..., Path]
VALID: dict[str, Any] = {
    "task": "text-classification",
    "teacher": "somewhere/teacher",
    "data": {"train": "train.csv", "test": "test.csv"},
}


def test_short_forms_and_defaults(write_recipe: Write) -> None:
    found = recipes.load(write_recipe(**VALID, targets="onnx", profiles="host"))
    assert found.teacher.model == "somewhere/teacher"
    assert list(found.targets) == ["onnx"]
    assert found.profiles == ["host"]
    assert found.distill.control is True
    listed = recipes.load(write_recipe(**VALID, targets=["onnx", "coreml"]))
    assert list(listed.targets) == ["onnx", "coreml"]
    assert recipes.load(write_recipe(**VALID, targets={"onnx": None})).targets == found.targets


def test_the_examples_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_ASSETS", "/assets")
    files = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
    loaded = {file.stem: recipes.load(file) for file in files}
    assert {"digits", "banking77"} <= loaded.keys()
    assert loaded["banking77"].data.test == "/assets/data/banking77/test.csv"


def test_an_unset_variable_is_named(write_recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKD_ASSETS", raising=False)
    with pytest.raises(InputError, match="EDGEKD_ASSETS to the folder that holds data/"):
        recipes.load(write_recipe(**{**VALID, "teacher": "${EDGEKD_ASSETS}/t"}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"studnt": {}}, "unknown key 'studnt' (did you mean 'student'?)"),
        ({"distill": {"temprature": 2}}, "'distill.temprature' (did you mean 'temperature'?)"),
        ({"targets": {"onnx": {"precision": []}}}, "(did you mean 'precisions'?)"),
        ({"task": "text-clasification"}, "(did you mean 'text-classification'?)"),
        ({"name": "../up"}, "name: "),
        ({"teacher": {}}, "exactly one of model"),
        ({"teacher": {"model": "a", "base": "b"}}, "exactly one of model"),
        ({"data": {"train": "a.csv"}}, "the key 'data.test' is missing"),
        ({"student": {"layers": []}}, "layers is empty"),
        ({"student": {"layers": [-1]}}, "student.layers.0"),
        ({"student": {"params": "lots"}}, "neither a share nor a number"),
        ({"student": {"params": "120%"}}, "write it as 12% or 2M"),
        ({"student": {"params": "12%", "size_mb": 4}}, "give one of params and size_mb"),
        ({"student": {"params": "12%", "heads": 2}}, "has the shape chosen; drop it, or heads"),
        ({"student": {"size_mb": 4, "model": "x"}}, "has the shape chosen; drop it, or model"),
        ({"student": {"hidden_size": 8, "model": "x"}}, "drop it, or model"),
        ({"student": {"layers": [0], "model": "m"}}, "give one of layers"),
        ({"distill": {"epochs": 0}}, "distill.epochs"),
        ({"distill": {"epochs": "ten"}}, "(got 'ten')"),
        ({"distill": {"batch_size": -1}}, "distill.batch_size"),
        ({"distill": {"learning_rate": 0}}, "distill.learning_rate"),
        ({"distill": {"learning_rate": float("nan")}}, "distill.learning_rate"),
        ({"distill": {"learning_rate": float("inf")}}, "distill.learning_rate"),
        ({"distill": {"temperature": -2}}, "distill.temperature"),
        ({"distill": {"warmup": 1.5}}, "distill.warmup"),
        ({"distill": {"soft_weight": 0}}, "nothing would be learned"),
        ({"distill": {"batch_size": 8, "gradient_accumulation": 3}}, "3 equal parts"),
        (
            {"distill": {"batch_size": 4, "gradient_accumulation": 4, "subword_dropout": 0.1}},
            "each row is computed alone",
        ),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"targets": {"onnx": {"batch": 0}}}, "targets.onnx.batch"),
        ({"targets": {"onnx": {"lengths": [-4]}}}, "targets.onnx.lengths.0"),
        ({"targets": [{"onnx": {}}, "onnx"], "data": None}, "data: "),
        ({"budget": {"retained": "x%"}}, "write it as 98.5%"),
        ({"budget": {"retained": -1}}, "budget.retained"),
        ({"budget": {"size": "6 XB"}}, "write it as 6 MB"),
        ({"budget": {"size": "1.2.3 MB"}}, "write it as 6 MB"),
        ({"budget": {"size": 0}}, "budget.size"),
        ({"budget": {"latency": "5 minutes"}}, "write it as 5 ms"),
        ({"budget": {"speedup": "fast"}}, "write it as 5x"),
        ({"budget": {"memory": "-5 MB"}}, "write it as 6 MB"),
    ],
)
def test_each_fault_is_one_line_with_its_place(
    write_recipe: Write, values: dict[str, Any], message: str
) -> None:
    path = write_recipe(**{**VALID, **values})
    with pytest.raises(InputError) as error:
        recipes.load(path)
    text = str(error.value)
    assert message in text
    assert text.startswith(str(path))
    assert "\n" not in text


def test_a_length_beyond_what_the_student_reads(write_recipe: Write) -> None:
    data = {**VALID["data"], "max_length": 32}
    with pytest.raises(InputError, match=r"length 64, data\.max_length cuts at 32"):
        recipes.load(write_recipe(**{**VALID, "data": data}, targets={"onnx": {"lengths": [64]}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty or not a mapping"),
        (b"- a\n", "empty or not a mapping"),
        (b"a: [1\nb: 2", "line 2: not valid YAML"),
        (b"a:\n\tb: 2", "line 2: not valid YAML"),
        (b"\xff\xfe\x00a", "not valid YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        recipes.load(file)
    with pytest.raises(InputError, match="no recipe file"):
        recipes.load(tmp_path)


def test_units() -> None:
    assert parse_bytes("6 MB") == 6_000_000
    assert parse_bytes("6MiB") == 6 * 2**20
    assert parse_bytes(512) == 512
    assert parse_share("98.5%") == pytest.approx(0.985)
    assert parse_share(0.985) == 0.985
    assert parse_milliseconds("0.5 s") == 500
    assert parse_milliseconds("5") == 5
    assert parse_factor("5x") == parse_factor("5×") == parse_factor(5) == 5


@given(st.integers(0, 10**6), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_sizes_scale_with_their_unit(count: int, unit: str) -> None:
    one = parse_bytes(f"1 {unit}")
    assert parse_bytes(f"{count} {unit}") == count * one
