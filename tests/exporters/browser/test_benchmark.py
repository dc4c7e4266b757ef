"""``benchmarks/browser_banking77.py`` ends with 1 where the runtimes are too far apart."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekd.bundle import Bundle

ROOT = Path(__file__).parents[3]
FILE = ROOT / "benchmarks" / "browser_banking77.py"
AGREE = {"onnxruntime": 0.996, "transformers.js": 1.0}
ACCURACY = {"chromium": 0.9, "onnxruntime": 0.902, "transformers.js": 0.9}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("browser_banking77", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("accuracy", "same", "line"),
    [
        ({}, {}, None),
        ({"onnxruntime": 0.9031}, {}, "onnxruntime's accuracy is 0.31 points off"),
        ({}, {"onnxruntime": 0.9949}, "onnxruntime has Chromium's label on 99.49% < 99.5%"),
        ({}, {"transformers.js": 0.9989}, "transformers.js has Chromium's label on 99.89% < 99.9%"),
    ],
)
def test_each_limit(
    benchmark: ModuleType, accuracy: dict[str, float], same: dict[str, float], line: str | None
) -> None:
    found = {"accuracy": ACCURACY | accuracy, "same_label_as_chromium": AGREE | same}
    assert benchmark.failures({"int8": found}) == ([f"int8: {line}"] if line else [])


def test_the_results_that_are_kept_meet_them(benchmark: ModuleType) -> None:
    kept = json.loads((ROOT / "benchmarks/results/browser_banking77.json").read_text("utf-8"))
    assert benchmark.failures(kept["bundles"]) == []


@pytest.mark.browser
def test_a_run_ends_with_its_verdict(
    benchmark: ModuleType,
    bert_dir: Path,
    text_fp32: Bundle,
    intents: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "results.json"
    command = [str(FILE), str(bert_dir), "--data", str(intents.test), "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", [*command, "--rounds", "1", "--out", str(out)])
    # The tests' own export of the same model, and few passes over few rows: nothing is timed here.
    monkeypatch.setattr(benchmark, "export", lambda *_: {"fp32": text_fp32})
    for name, few in (("THREADS", (1,)), ("WARM", 2), ("PASSES", 1), ("ROWS", 8)):
        monkeypatch.setattr(benchmark, name, few)
    monkeypatch.setattr(benchmark, "LIMITS", {"onnxruntime": (1.01, None)})
    assert benchmark.main() == 1
    assert "fp32: onnxruntime has Chromium's label on 100.00%" in capsys.readouterr().err
    document = json.loads(out.read_text(encoding="utf-8"))
    assert len(document["failures"]) == 1
    assert [row["evidence"] for row in document["latency"]] == ["measured"]
