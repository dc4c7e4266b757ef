"""Every rung of the ladder leaves a bundle that loads and says nearly what fp32 says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.onnx import OnnxExporter, files
from edgekd_exporters.onnx.blocks import BLOCK, pack
from edgekd_exporters.onnx.precisions import PRECISIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Exporter, Plan, Spec, verify
from edgekd.program import Program, Shapes

# Largest relative error of the logits of a random 64-wide BERT, with room to spare: a change of
# 5e-4 in its vectors moves what is rounded, and the error of int8-static between 0.08 and 0.16.
CLOSE = {
    "fp32-fused": 1e-5,
    "fp16": 5e-3,
    "fp16-fused": 5e-3,
    "int8-weights": 0.1,
    "int4-weights": 0.5,
}
SIGNATURE = {
    "fp32-fused": "MultiHeadAttention",
    "int8": "MatMulInteger",
    "int8-fused": "MultiHeadAttention",
    "int8-reduced": "MatMulInteger",
    "int8-static": "DequantizeLinear",
    "int8-static-percentile": "DequantizeLinear",
    "int8-static-entropy": "DequantizeLinear",
    "int8-weights": "MatMulNBits",
    "int4-weights": "MatMulNBits",
    "fp16": "Cast",
    "fp16-fused": "MultiHeadAttention",
}
ROWS = [{"text": text} for text in ("my card was lost", "how long does it take", "top up", "one")]


@pytest.fixture(scope="module")
def wide_fp32(exporter: OnnxExporter, wide_bert: Program, folder: Path) -> Bundle:
    return exporter.lower(wide_bert, Spec(Shapes()), folder / "wide")


def ops(bundle: Bundle) -> list[str]:
    return [node.op_type for node in ir.load(bundle.path / "model.onnx").graph]


def test_the_ladder_is_what_the_exporter_offers(exporter: OnnxExporter) -> None:
    assert exporter.precisions(Spec(Shapes())) == ("fp32", *SIGNATURE)
    assert set(exporter.tolerances) == set(PRECISIONS)


@pytest.mark.parametrize("precision", SIGNATURE)
def test_each_rung(
    exporter: OnnxExporter, wide_fp32: Bundle, tmp_path: Path, precision: str
) -> None:
    bundle = exporter.compress(wide_fp32, Plan(precision), ROWS, tmp_path / precision)
    assert SIGNATURE[precision] in ops(bundle)
    assert bundle.manifest.provenance["relative_error"] < CLOSE.get(precision, 0.25)
    assert verify(exporter, bundle) < 1e-5
    assert not [f for f in exporter.check(bundle) if f.level == "error"]
    figures = exporter.inspect(bundle)
    assert figures["macs"] > 0
    if PRECISIONS[precision].kind in ("dynamic", "static", "blocks"):
        assert figures["int8_weight_bytes"] > 0.6 * figures["weight_bytes"]
    if PRECISIONS[precision].kind == "half":
        assert bundle.size_bytes < 0.55 * wide_fp32.size_bytes
    if precision == "int4-weights":
        assert bundle.size_bytes < 0.25 * wide_fp32.size_bytes


def test_fused_attention_is_computed_in_half_precision(
    exporter: OnnxExporter, wide_fp32: Bundle, tmp_path: Path
) -> None:
    half = exporter.compress(wide_fp32, Plan("fp16-fused"), (), tmp_path / "half")
    model = ir.load(half.path / "model.onnx")
    fused = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    model.graph.outputs.extend(node.outputs[0] for node in fused)
    _, inputs, _ = half.golden()
    scores, *attended = files.session(model).run(None, inputs)
    assert [values.dtype for values in attended] == [np.float16, np.float16]
    expected = exporter.open(wide_fp32).run(inputs)["logits"]
    np.testing.assert_allclose(scores, expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["int8", "int8-static", "int8-weights", "fp16"])
def test_each_kind_keeps_a_group_in_float(
    exporter: OnnxExporter, wide_fp32: Bundle, tmp_path: Path, precision: str
) -> None:
    name = "bert.encoder.layer.0.intermediate.dense"
    plan = Plan(precision, {name: "fp32"})
    mixed = exporter.compress(wide_fp32, plan, ROWS, tmp_path / "mixed")
    assert name in {group.name for group in exporter.groups(mixed)}
    assert mixed.manifest.runtime["compression"]["kept"] == {name: "fp32"}


def test_convolutions_are_quantized_with_static_ranges(
    exporter: OnnxExporter, conv_fp32: Bundle, conv: Program, tmp_path: Path
) -> None:
    bundle = exporter.compress(conv_fp32, Plan("int8-static"), conv.rows, tmp_path / "static")
    figures = exporter.inspect(bundle)
    assert figures["int8_weight_bytes"] > 0.5 * figures["weight_bytes"]
    assert bundle.manifest.provenance["relative_error"] < 0.2
    plan = Plan("int8-static", {"depthwise": "fp32"})
    mixed = exporter.compress(conv_fp32, plan, conv.rows, tmp_path / "mixed")
    assert "depthwise" in {group.name for group in exporter.groups(mixed)}


def quantized(bundle: Bundle) -> Counter[str]:
    """What reads the activations that are in integers."""
    nodes = ir.load(bundle.path / "model.onnx").graph
    pairs = [n.outputs[0].consumers() for n in nodes if n.op_type == "QuantizeLinear"]
    readers = {id(r): r for (back,) in pairs for r in back.outputs[0].consumers()}
    return Counter(node.op_type for node in readers.values())


def test_one_convolution_leaves_the_transformer_behind_it_alone(
    exporter: OnnxExporter, vit_fp32: Bundle, vit: Program, tmp_path: Path
) -> None:
    """A patch embedding quantizes what is beside it, not each bias and each residual sum."""
    bundle = exporter.compress(vit_fp32, Plan("int8-static"), vit.rows, tmp_path / "static")
    read = quantized(bundle)
    assert read["MatMul"] == 12 and read["Gemm"] == read["Conv"] == 1
    assert not {"Add", "Sum", "LayerNormalization", "Softmax"} & set(read)
    assert ops(bundle).count("QuantizeLinear") == 12  # activations; q, k and v share one


def test_what_lies_between_convolutions_stays_in_integers(
    exporter: OnnxExporter, conv_fp32: Bundle, conv: Program, tmp_path: Path
) -> None:
    bundle = exporter.compress(conv_fp32, Plan("int8-static"), conv.rows, tmp_path / "static")
    read = quantized(bundle)
    assert read["Conv"] == 3 and read["Add"] == 1
    node = next(n for n in ir.load(bundle.path / "model.onnx").graph if n.op_type == "Gemm")
    assert node.outputs[0].is_graph_output()  # scores are not rounded


@pytest.mark.parametrize("target", [OnnxExporter, BrowserExporter])
@pytest.mark.parametrize("precision", ["fp32-fused", "int8-fused"])
def test_fused_is_refused_where_there_is_no_attention(
    conv_fp32: Bundle, target: type[Exporter], precision: str, tmp_path: Path
) -> None:
    """Else int8-fused would be int8 by another name, and might win by noise."""
    with pytest.raises(InputError, match=f"no attention for {precision} to fuse"):
        target().compress(conv_fp32, Plan(precision), (), tmp_path / "out")


def test_bad_requests(exporter: OnnxExporter, wide_fp32: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="calibration rows and got none"):
        exporter.compress(wide_fp32, Plan("int8-static"), (), out)
    with pytest.raises(InputError, match="mixes one precision with fp32"):
        exporter.compress(wide_fp32, Plan("int8", {"classifier": "int4-weights"}), (), out)
    everything = {group.name: "fp32" for group in exporter.groups(wide_fp32)}
    with pytest.raises(InputError, match="nothing that int8 applies to"):
        exporter.compress(wide_fp32, Plan("int8", everything), (), out)


matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 70)),
    elements=st.floats(-100, 100, width=32),
)


@settings(max_examples=50)
@given(matrices, st.sampled_from([4, 8]))
def test_packing_is_within_one_step(rows: np.ndarray, bits: int) -> None:
    codes, scale = pack(rows, bits)
    assert codes.shape == (len(rows), -(-rows.shape[1] // BLOCK), BLOCK * bits // 8)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*scale.shape, BLOCK)
    values = (codes.astype(np.float32) - 2 ** (bits - 1)) * scale[..., None]
    unpacked = values.reshape(len(rows), -1)[:, : rows.shape[1]]
    step = np.repeat(np.abs(scale), BLOCK, 1)[:, : rows.shape[1]]
    # Half a step, and a whole one where the positive end is clipped.
    assert (np.abs(unpacked - rows) <= step * (1 + 1e-5)).all()
