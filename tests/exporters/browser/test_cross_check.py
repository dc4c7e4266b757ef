"""The rows of a session once more: in onnxruntime on this machine, and in transformers.js."""

from __future__ import annotations

from typing import Any

import pytest
from edgekd_exporters.browser import BrowserExporter, second_check

from edgekd import tasks
from edgekd.bundle import Bundle
from edgekd.errors import MissingDependency
from edgekd.evaluate.cross import compare
from edgekd.evaluate.run import predict
from edgekd.exporter import Runtime

pytestmark = pytest.mark.browser


def checks(exporter: BrowserExporter, bundle: Bundle, rows: list[Any]) -> list[dict[str, Any]]:
    task, labels = tasks.get(bundle.manifest.task), bundle.manifest.labels
    outputs, references = predict(bundle, rows), task.references(rows, labels)
    said = exporter.cross_check(bundle, rows, Runtime())
    return [compare(task, labels, outputs, references, opinion) for opinion in said]


def test_both_say_how_often_they_decide_the_same(
    exporter: BrowserExporter, text_int8: Bundle, intents: Any
) -> None:
    native, second = checks(exporter, text_int8, intents.test_rows)
    assert native["runtime"].startswith("onnxruntime 1.")
    assert second["runtime"].startswith("transformers.js ")
    for found in (native, second):
        assert found["rows"] == len(intents.test_rows)
        assert found["same"] == 1 and 0 <= found["largest_difference"] < 1e-3
    assert native["metric"] == second["metric"]


def test_what_cannot_be_asked_says_why(
    exporter: BrowserExporter,
    text_int8: Bundle,
    intents: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [{**row, "text_pair": "x"} for row in intents.test_rows[:4]]
    second = second_check.in_transformers_js(text_int8, pairs, Runtime())
    assert second.outputs is None and "a row has a text_pair" in (second.missing or "")

    def absent() -> None:
        raise MissingDependency("npm is not installed; run: apt-get install npm")

    monkeypatch.setattr(second_check.packages, "installed", absent)
    second = second_check.in_transformers_js(text_int8, intents.test_rows[:4], Runtime())
    assert second.outputs is None and "apt-get install npm" in (second.missing or "")
