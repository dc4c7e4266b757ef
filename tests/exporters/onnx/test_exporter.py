from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgekd_exporters.onnx import OnnxExporter

from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError
from edgekd.exporter import Plan, Runtime, Spec, get, relative_error, verify
from edgekd.program import Program, Shapes


def model_of(bundle: Bundle) -> ir.Model:
    return ir.load(bundle.path / bundle.manifest.model_files[0])


def ops(bundle: Bundle) -> set[str]:
    return {node.op_type for node in model_of(bundle).graph}


def test_registry_loads_it() -> None:
    assert type(get("onnx")) is OnnxExporter


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (1, 17), (3, 5), (5, 32)])
def test_dynamic_shapes_agree_with_torch(
    exporter: OnnxExporter, bert: Program, bert_fp32: Bundle, batch: int, length: int
) -> None:
    random = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 :] = 0
    feeds = {
        "input_ids": random.integers(0, 600, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, (batch, length)),
    }
    session = exporter.open(bert_fp32)
    assert relative_error(session.run(feeds)["logits"], bert.run(feeds)["logits"]) < 1e-5


def test_float_graph_is_portable_and_clean(bert_fp32: Bundle) -> None:
    model = model_of(bert_fp32)
    assert set(model.opset_imports) == {""}
    assert [value.name for value in model.graph.inputs] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert [str(d) for d in model.graph.inputs[0].shape or ()] == ["batch", "sequence"]
    assert not any(node.metadata_props for node in model.graph)
    assert not any(v.shape for n in model.graph for v in n.outputs if not v.is_graph_output())


def test_fixed_shapes(exporter: OnnxExporter, bert: Program, tmp_path: Path) -> None:
    bundle = exporter.lower(bert, Spec(Shapes(1, (8,))), tmp_path / "fixed")
    assert bundle.manifest.variant == "fp32-b1-l8"
    assert bundle.manifest.inputs[0].shape == (1, 8)
    assert bundle.encode([{"text": "my card"}])["input_ids"].shape == (1, 8)
    assert verify(exporter, bundle) < 1e-5


def test_image_model(exporter: OnnxExporter, vit_fp32: Bundle, tmp_path: Path) -> None:
    assert vit_fp32.manifest.provenance["relative_error"] < 1e-5
    small = exporter.compress(vit_fp32, Plan("int8"), (), tmp_path / "int8")
    assert "Conv" in ops(small) and "ConvInteger" not in ops(small)
    assert small.manifest.provenance["relative_error"] < 0.1


def test_int8_quantizes_matrices_and_tables(bert_fp32: Bundle, bert_int8: Bundle) -> None:
    assert bert_int8.manifest.precision == bert_int8.manifest.variant == "int8"
    assert 0 < bert_int8.manifest.provenance["relative_error"] < 0.1
    assert bert_int8.size_bytes < 0.5 * bert_fp32.size_bytes
    remaining = [n for n in model_of(bert_int8).graph if n.op_type in ("MatMul", "Gemm")]
    assert not any(value.const_value for node in remaining for value in node.inputs if value)


def test_groups_are_module_paths(exporter: OnnxExporter, bert: Program, bert_fp32: Bundle) -> None:
    groups = {group.name: group.weight_bytes for group in exporter.groups(bert_fp32)}
    modules = {name for name, _ in bert.module.named_modules()}
    assert {f"model.{name}" for name in groups} <= modules
    assert groups["bert.encoder.layer.0.attention.self.query"] == 32 * 32 * 4
    assert groups["classifier"] == 32 * 3 * 4


@pytest.mark.parametrize("name", ["bert.encoder.layer.1", "bert.encoder.layer.1.output.dense"])
def test_overrides_keep_groups_in_float(
    exporter: OnnxExporter, bert_fp32: Bundle, bert_int8: Bundle, tmp_path: Path, name: str
) -> None:
    mixed = exporter.compress(bert_fp32, Plan("int8", {name: "fp32"}), (), tmp_path / "mixed")
    kept = {group.name for group in exporter.groups(mixed)}
    before = {group.name for group in exporter.groups(bert_int8)}
    inside = {g.name for g in exporter.groups(bert_fp32) if f"{g.name}.".startswith(f"{name}.")}
    assert kept - before == inside


def test_inspect_counts_exactly(
    exporter: OnnxExporter, bert_fp32: Bundle, bert_int8: Bundle
) -> None:
    length, hidden = 32, 32  # the preprocessor's longest
    figures = exporter.inspect(bert_fp32)
    assert figures["length"] == length
    square = hidden * hidden
    first = length * (4 * square + 4 * square + 2 * length * hidden)
    # Of the last layer only keys and values are computed for every token.
    last = 2 * length * square + (2 * square + 4 * square + 2 * length * hidden)
    assert figures["macs"] == first + last + square + hidden * 3
    assert figures["quantize"] == figures["dequantize"] == figures["int8_weight_bytes"] == 0
    small = exporter.inspect(bert_int8)
    assert small["macs"] == figures["macs"]
    shorter = exporter.inspect(bert_fp32, 8)
    assert shorter["length"] == 8 and 4 * shorter["macs"] < figures["macs"] < 5 * shorter["macs"]
    assert small["quantize"] > 0 and small["int8_weight_bytes"] > 600 * hidden


def test_fused_attention_is_counted_as_its_products_are(
    exporter: OnnxExporter, bert_fp32: Bundle, tmp_path: Path
) -> None:
    fused = exporter.compress(bert_fp32, Plan("fp32-fused"), (), tmp_path / "fused")
    assert exporter.inspect(fused)["macs"] == exporter.inspect(bert_fp32)["macs"]


def test_check_is_silent_on_a_sound_bundle_and_loud_on_another(
    exporter: OnnxExporter, bert_int8: Bundle, tmp_path: Path
) -> None:
    assert not [f for f in exporter.check(bert_int8) if f.level == "error"]
    model = model_of(bert_int8)
    node = next(n for n in model.graph if n.op_type == "Softmax")
    model.graph.insert_after(node, ir.node("NoSuchOperator", node.outputs))
    ir.save(model, tmp_path / "model.onnx")
    found = exporter.check(Bundle(tmp_path, bert_int8.manifest))
    assert [f.level for f in found if f.level != "note"] == ["error"]


def test_session_needs_neither_torch_nor_transformers_nor_onnx(bert_int8: Bundle) -> None:
    script = """
import sys
from edgekd.bundle import Bundle
from edgekd.exporter import Runtime, get
bundle = Bundle.open(sys.argv[1])
session = get("onnx").open(bundle, Runtime(threads=2))
rows, _, outputs = bundle.golden()
found = session.run(bundle.encode(rows))["logits"]
assert abs(found - outputs["logits"]).max() < 1e-3
heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script, str(bert_int8.path)], check=True)


def test_session_describes_itself(exporter: OnnxExporter, bert_fp32: Bundle) -> None:
    session = exporter.open(bert_fp32, Runtime(threads=2, spinning=True))
    described = session.describe()
    assert described["runtime"] == "onnxruntime" and described["provider"].startswith("CPU")
    assert (described["threads"], described["spinning"]) == (2, True)
    session.close()


def test_bad_requests_say_what_is_wrong(
    exporter: OnnxExporter, bert: Program, bert_fp32: Bundle, bert_int8: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"unknown precision 'int9'.*int8"):
        exporter.compress(bert_fp32, Plan("int9"), (), out)
    with pytest.raises(InputError, match=r"'bert.encoder.layer.7'.*did you mean"):
        exporter.compress(bert_fp32, Plan("int8", {"bert.encoder.layer.7": "fp32"}), (), out)
    with pytest.raises(InputError, match="compress the fp32 bundle"):
        exporter.compress(bert_int8, Plan("int8"), (), out)
    with pytest.raises(InputError, match="opset from 18 to 23"):
        exporter.lower(bert, Spec(Shapes(), deployment="opset99"), out)
    assert not out.exists()


def test_truncated_model_is_one_clear_error(
    exporter: OnnxExporter, bert_fp32: Bundle, tmp_path: Path
) -> None:
    data = (bert_fp32.path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot load"):
        exporter.open(Bundle(tmp_path, bert_fp32.manifest))


def test_a_wrong_graph_does_not_leave(
    exporter: OnnxExporter, bert: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd_exporters.onnx import lower

    real = lower.lower

    def wrong(program: Program, spec: Spec) -> ir.Model:
        model = real(program, spec)
        node = next(n for n in model.graph if n.op_type == "Softmax")
        node.op_type = "Sigmoid"
        del node.attributes["axis"]
        return model

    monkeypatch.setattr(lower, "lower", wrong)
    with pytest.raises(VerificationError, match="'logits' differs"):
        exporter.lower(bert, Spec(Shapes()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
