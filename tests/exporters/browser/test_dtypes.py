"""One folder with several models: each dtype by its name, in the session and in transformers.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.browser.second_check import transformers_js

from edgekd import profiles
from edgekd.bench.measure import measure
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan, Runtime, verify

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def several(
    exporter: BrowserExporter, text_int8: Bundle, text_fp32: Bundle, bundles: Path
) -> Bundle:
    return exporter.combine([text_int8, text_fp32], bundles / "several")


def test_the_first_is_the_folders_own(
    exporter: BrowserExporter, several: Bundle, text_int8: Bundle
) -> None:
    assert several.size_bytes == text_int8.size_bytes
    assert sorted(file.name for file in (several.path / "onnx").iterdir()) == [
        "model.onnx",
        "model_quantized.onnx",
    ]
    assert several.manifest.variant == "int8+fp32"
    several.check_files()
    assert not [f for f in exporter.check(several) if f.level == "error"]
    assert verify(exporter, several) <= several.manifest.tolerance


def test_a_budget_is_checked_on_the_dtype_that_runs(
    exporter: BrowserExporter, several: Bundle, text_fp32: Bundle, intents: Any
) -> None:
    profile = profiles.load("browser")
    runtime = profile.runtime.model_copy(update={"options": {"dtype": "fp32"}})
    asked = profile.model_copy(update={"runtime": runtime})
    found = measure(
        several.path, asked, intents.test_rows[:2], rounds=1, seconds=0.01, memory=False,
        settings=False,
    )  # fmt: skip
    assert found.session["model"] == "onnx/model.onnx"
    assert found.exact["size_bytes"] == text_fp32.size_bytes > several.size_bytes
    assert found.exact["ops"] == exporter.inspect(text_fp32)["ops"]
    assert exporter.opened(several, Runtime(options={"dtype": "fp32"})).manifest.precision == "fp32"
    assert exporter.opened(several, Runtime()) == several


def test_every_setting_names_the_dtype_that_ran(several: Bundle, intents: Any) -> None:
    """The table over threads and devices may ask for another model than the profile does."""
    profile = profiles.load("browser")
    asked = [profile.runtime.model_copy(update={"options": {"dtype": d}}) for d in ("fp32", "q4")]
    also = profile.model_copy(update={"also": tuple(asked)})
    found = measure(several.path, also, intents.test_rows[:2], rounds=1, seconds=0.01, memory=False)
    assert [row.dtype for row in found.settings] == ["q8", "fp32", "q4"]
    own, other, absent = found.settings
    assert own.download_bytes and other.download_bytes and other.p50_ms
    assert other.download_bytes > own.download_bytes
    assert absent.p50_ms is None and absent.missing == "this bundle has no q4"


def test_a_session_and_transformers_js_open_the_dtype_that_is_asked_for(
    exporter: BrowserExporter, several: Bundle, text_fp32: Bundle, intents: Any
) -> None:
    rows = [{"text": row["text"]} for row in intents.test_rows[:6]]
    feeds = [text_fp32.encode([row]) for row in rows]
    logits = {}
    for dtype in ("q8", "fp32"):
        session = exporter.open(several, Runtime(options={"dtype": dtype}))
        logits[dtype] = np.concatenate([session.run(feed)["logits"] for feed in feeds])
        session.close()
    alone = exporter.open(text_fp32)
    expected = np.concatenate([alone.run(feed)["logits"] for feed in feeds])
    alone.close()
    np.testing.assert_array_equal(logits["fp32"], expected)
    assert np.abs(logits["q8"] - expected).max() > 1e-4
    said = transformers_js(several, rows, dtype="fp32")
    exp = np.exp(expected - expected.max(-1, keepdims=True))
    np.testing.assert_allclose(said.scores, exp / exp.sum(-1, keepdims=True), atol=1e-5)


def test_what_is_not_there_is_told(
    exporter: BrowserExporter, several: Bundle, text_int8: Bundle, text_fp32: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"no dtype 'q4', only q8, fp32; .* int8,fp32,int4-weights$"
    ):
        exporter.open(several, Runtime(options={"dtype": "q4"}))
    other = exporter.compress(text_fp32, Plan("int8-full"), (), tmp_path / "full")
    with pytest.raises(InputError, match="int8 and int8-full are both dtype q8"):
        exporter.combine([text_int8, other], tmp_path / "x")
    assert not (tmp_path / "x").exists()
