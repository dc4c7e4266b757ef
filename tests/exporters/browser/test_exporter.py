"""The folder, its numbers in Chromium, and what transformers.js and the page make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.browser.chromium import Chromium
from edgekd_exporters.browser.folder import FAMILIES, copy_site
from edgekd_exporters.browser.packages import TRANSFORMERS, installed
from edgekd_exporters.browser.second_check import transformers_js
from edgekd_exporters.browser.serve import Server
from edgekd_exporters.browser.session import BrowserSession
from edgekd_exporters.onnx.passes import half_vectors

from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency
from edgekd.exporter import Plan, Runtime, verify

pytestmark = pytest.mark.browser


def natively(bundle: Bundle, rows: list[Any]) -> np.ndarray:
    """Logits of onnxruntime on this machine, from the same file, one row at a time."""
    file = bundle.path / bundle.manifest.model_files[0]
    native = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([native.run(["logits"], bundle.encode([row]))[0] for row in rows])


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_the_folder_is_what_transformers_js_looks_for(
    text_fp32: Bundle, text_int8: Bundle, image_fp32: Bundle
) -> None:
    for bundle, model, dtype in (
        (text_fp32, "onnx/model.onnx", "fp32"),
        (text_int8, "onnx/model_quantized.onnx", "q8"),
        (image_fp32, "onnx/model.onnx", "fp32"),
    ):
        assert bundle.manifest.model_files == (model,)
        config = json.loads((bundle.path / "config.json").read_text(encoding="utf-8"))
        assert config["transformers.js_config"]["dtype"] == dtype
        labels = [config["id2label"][str(i)] for i in range(len(bundle.manifest.labels))]
        assert tuple(labels) == bundle.manifest.labels
        bundle.check_files()
    assert json.loads((text_int8.path / "config.json").read_text())["model_type"] == "bert"
    assert json.loads((image_fp32.path / "config.json").read_text())["model_type"] == "vit"


def test_chromium_gives_the_numbers_of_onnxruntime(
    text_int8: Bundle, session: BrowserSession, intents: Any
) -> None:
    rows = intents.test_rows
    expected = natively(text_int8, rows)
    found = session.run_many([text_int8.encode([row]) for row in rows])
    logits = np.concatenate([outputs["logits"] for outputs in found])
    assert (logits.argmax(-1) == expected.argmax(-1)).all()
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_names_and_vectors_are_as_small_as_in_an_onnx_bundle(
    exporter: BrowserExporter, text_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And onnxruntime-web widens half-precision vectors as onnxruntime does."""
    monkeypatch.setattr(half_vectors, "SMALLEST", 16)
    made = exporter.compress(text_fp32, Plan("int8"), (), tmp_path / "int8")
    file = made.path / made.manifest.model_files[0]
    stored = ir.load(file).graph.initializers
    assert max(map(len, stored)) <= 4
    assert [value.dtype for value in stored.values()].count(ir.DataType.FLOAT16) > 10
    native = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    _, inputs, outputs = made.golden()  # said by Chromium, in one batch
    np.testing.assert_allclose(outputs["logits"], native.run(["logits"], inputs)[0], atol=1e-3)


def test_transformers_js_says_the_same(
    text_int8: Bundle, session: BrowserSession, intents: Any
) -> None:
    rows = [{"text": row["text"]} for row in intents.test_rows[:24]] + [{"text": "Größe? ÉÉÉ 🙂"}]
    said = transformers_js(text_int8, rows)
    logits = [session.run(text_int8.encode([row]))["logits"] for row in rows]
    expected = softmax(np.concatenate(logits))
    assert said.labels == tuple(text_int8.manifest.labels[i] for i in expected.argmax(-1))
    np.testing.assert_allclose(said.scores, expected, atol=1e-4)


def test_transformers_js_reads_grey_images(image_fp32: Bundle) -> None:
    rows, _, outputs = image_fp32.golden()
    said = transformers_js(image_fp32, rows)
    assert said.device == "wasm"  # the folder's own
    np.testing.assert_allclose(said.scores, softmax(outputs["logits"]), atol=1e-5)
    assert said.labels == tuple(image_fp32.manifest.labels[i] for i in said.scores.argmax(1))


def test_what_transformers_js_cannot_take_is_told(text_int8: Bundle) -> None:
    with pytest.raises(InputError, match="text_pair"):
        transformers_js(text_int8, [{"text": "a", "text_pair": "b"}])


def test_a_person_can_open_the_page_and_type(text_int8: Bundle, tmp_path: Path) -> None:
    """From a folder that any web server can show: nothing but its own files is asked for."""
    copy_site(text_int8, tmp_path / "site")
    text = "where is my visa"
    expected = text_int8.manifest.labels[int(natively(text_int8, [{"text": text}]).argmax())]
    with Server({"/": tmp_path / "site"}) as server:
        browser = Chromium(server.url)
        try:
            found = browser.call(TYPE, text)
        finally:
            browser.close()
    assert found["label"] == expected
    assert found["state"].endswith("ms in this browser (the first time takes longest)")
    with pytest.raises(InputError, match="exists already"):
        copy_site(text_int8, tmp_path / "site")


TYPE = """async (text) => {
  const until = async (ready) => { while (!ready()) await new Promise((r) => setTimeout(r, 20)); };
  const field = document.getElementById("text"), labels = document.getElementById("labels");
  await until(() => !field.hidden);
  field.value = text;
  field.dispatchEvent(new Event("input"));
  await until(() => labels.children.length);
  const state = document.getElementById("state").textContent;
  return {label: labels.querySelector("b").textContent, state};
}"""


def test_figures_and_lint(exporter: BrowserExporter, text_fp32: Bundle, text_int8: Bundle) -> None:
    figures = exporter.inspect(text_fp32)
    files = ("onnx/model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json")
    expected = sum((text_fp32.path / name).stat().st_size for name in files)
    assert figures["download_bytes"] == expected
    assert exporter.inspect(text_int8)["int8_weight_bytes"] > 0
    assert exporter.inspect(text_int8)["macs"] == figures["macs"] > 0
    assert exporter.check(text_fp32) == exporter.check(text_int8) == []
    assert {group.name for group in exporter.groups(text_fp32)} >= {"classifier"}


def test_lint_finds_what_is_wrong(
    exporter: BrowserExporter, text_fp32: Bundle, copied: Callable[[Path], Path]
) -> None:
    folder = copied(text_fp32.path)
    bundle = Bundle.open(folder)
    shapes = {**bundle.manifest.runtime, "lengths": [32], "shapes": "b1-l32"}
    fixed = replace(bundle, manifest=replace(bundle.manifest, runtime=shapes))
    assert [f.level for f in exporter.check(fixed)] == ["warning"]
    half = replace(bundle, manifest=replace(bundle.manifest, precision="fp16"))
    assert {f.level for f in exporter.check(half)} == {"error", "warning"}  # config says fp32
    _add_custom_operator(folder / "onnx/model.onnx")
    assert "ai.onnx.contrib" in exporter.check(bundle)[0].message
    (folder / "onnx/model.onnx").write_bytes(b"no model")
    assert [f.level for f in exporter.check(bundle)] == ["error"]
    (folder / "tokenizer.json").unlink()
    assert [f.where for f in exporter.check(bundle)] == ["tokenizer.json"]


def _add_custom_operator(file: Path) -> None:
    import onnx

    model = onnx.load(file)
    name = model.graph.input[0].name
    model.graph.node.append(
        onnx.helper.make_node("BertTokenizer", [name], ["tokens"], domain="ai.onnx.contrib")
    )
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.contrib", 1))
    onnx.save(model, file)


def test_webgpu_without_a_gpu_gives_the_same_numbers(image_fp32: Bundle) -> None:
    """Through Chromium's software adapter: WebGPU's kernels, and nothing about its speed."""
    runtime = Runtime(options={"device": "webgpu-software", "time_limit": 120})
    session = BrowserSession(image_fp32, runtime)
    try:
        _, inputs, outputs = image_fp32.golden()
        found = session.run(inputs)["logits"]
        assert session.kind == "reference"
    finally:
        session.close()
    np.testing.assert_allclose(found, outputs["logits"], atol=1e-3)


def test_transformers_js_computes_on_the_device_of_the_session(image_fp32: Bundle) -> None:
    rows, _, outputs = image_fp32.golden()
    said = transformers_js(image_fp32, rows[:2], device="webgpu-software", time_limit=120)
    assert said.device == "webgpu-software"
    np.testing.assert_allclose(said.scores, softmax(outputs["logits"][:2]), atol=1e-3)
    with pytest.raises(InputError, match="device='gpu' is not one of wasm, webgpu"):
        transformers_js(image_fp32, rows[:2], device="gpu")


def test_half_precision_asks_for_webgpu_in_a_session_and_in_transformers_js(
    exporter: BrowserExporter, image_fp32: Bundle, tmp_path: Path
) -> None:
    """As its folder says; where there is no GPU, nothing else computes in its place.

    It is made and verified everywhere, on the device that every browser has.
    """
    half = exporter.compress(image_fp32, Plan("fp16"), (), tmp_path / "fp16")
    assert verify(exporter, half) <= half.manifest.tolerance
    rows, _, _ = half.golden()

    def in_session() -> str:
        session = exporter.open(half)
        session.close()
        return str(session.describe()["device"])

    for device in (in_session, lambda: transformers_js(half, rows[:2]).device):
        try:
            assert device() == "webgpu"
        except MissingDependency as told:
            assert "no WebGPU adapter" in str(told)


def test_a_plan_that_cannot_be_is_refused(
    exporter: BrowserExporter, text_fp32: Bundle, text_int8: Bundle, tmp_path: Path
) -> None:
    for plan, source, why in (
        (Plan("int7"), text_fp32, "did you mean"),
        (Plan("int8"), text_int8, "compress the fp32 bundle"),
        (Plan("int8-static"), text_fp32, "calibration rows"),
        (Plan("int8", {"bert.encoder.layer.9": "fp32"}), text_fp32, "which the model lacks"),
    ):
        with pytest.raises(InputError, match=why):
            exporter.compress(source, plan, (), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_families_are_those_of_the_pinned_transformers_js() -> None:
    import re

    source = (installed() / TRANSFORMERS / "dist/transformers.web.js").read_text(encoding="utf-8")
    for task, mapping in (
        ("text-classification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
        ("image-classification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
    ):
        table = source.split(f"var {mapping} =")[1].split("]);")[0]
        assert sorted(re.findall(r'\["([^"]+)",', table)) == sorted(FAMILIES[task])
