from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.errors import InputError
from edgekd.report.document import SCHEMA, Bench, BundleRow, Document, Latency, Model, speedup


def test_a_document_reads_back_as_it_was_written(document: Document, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    document.write(file)
    assert Document.read(file) == document
    values = json.loads(file.read_text())
    assert next(iter(values)) == "schema" and values["schema"] == SCHEMA
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    "bench",
    [
        {"evidence": "measured"},
        {"evidence": "measured", "latency_ms": Latency(low=1, high=2)},
        {"evidence": "projected", "latency_ms": Latency(p50=1, low=1, high=2), "method": "m"},
        {"evidence": "projected", "latency_ms": Latency(low=1), "method": "m"},
        {"evidence": "projected", "latency_ms": Latency(low=1, high=2)},
        {"evidence": "guessed", "missing": "no reason"},
    ],
)
def test_a_latency_that_pretends_is_refused(bench: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Bench(profile="phone", **bench)


def test_what_is_missing_says_why() -> None:
    row = {"path": "b", "model": "student", "target": "t", "precision": "p", "variant": "p"}
    sizes = {"size_bytes": 1, "bundle_bytes": 1, "evidence": "measured"}
    with pytest.raises(ValidationError, match="no metrics and no reason"):
        BundleRow.model_validate(row | sizes)
    assert BundleRow.model_validate(row | sizes | {"missing": "no labels"}).metrics == {}


@pytest.mark.parametrize("values", [{"parms": 1}, {"ece": float("nan")}])
def test_misspelt_and_absent_numbers_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Model.model_validate({"id": "student", "params": 1, "size_bytes": 1} | values)


def test_speedup_compares_like_with_like(document: Document) -> None:
    student = document.bundle("bundles/onnx-int8")
    assert student is not None
    measured, projected = student.bench
    assert speedup(document, student, measured) == pytest.approx(8.3 / 1.41)
    assert speedup(document, student, projected) is None
    for change in ({"threads": 2}, {"runtime": "another 1.0"}, {"profile": "browser"}):
        assert speedup(document, student, measured.model_copy(update=change)) is None
    elsewhere = student.model_copy(update={"target": "coreml"})
    assert speedup(document, elsewhere, measured) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing; `edgekd run RECIPE` writes it"),
        ("{", "is not JSON"),
        ("[]", "has schema None"),
        ('{"schema": "edgekd.report/9"}', "has schema 'edgekd.report/9'"),
        (json.dumps({"schema": SCHEMA, "name": 1}), "name: Input should be a valid string"),
    ],
)
def test_another_file_is_refused_in_one_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "report.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as error:
        Document.read(file)
    assert message in str(error.value) and "\n" not in str(error.value)
