from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgekd_exporters.onnx import OnnxExporter, files
from edgekd_exporters.onnx.calibrate import BINS, entropy, percentile, ranges
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan
from edgekd.program import Program

counted = arrays(np.int64, BINS, elements=st.integers(0, 1000)).filter(lambda c: c.sum() > 0)


@given(counted, st.floats(-10, 0, width=32), st.floats(0.5, 10, width=32))
def test_clipping_stays_inside(counts: np.ndarray, low: float, high: float) -> None:
    for clip in (percentile, entropy):
        first, last = clip(counts, np.float32(low), np.float32(high))
        assert np.float32(low) <= first < last <= np.float32(high) * np.float32(1 + 1e-6)


def test_percentile_leaves_out_rare_values() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // 2] = 1000
    counts[-1] = 3  # of a million values
    low, high = percentile(counts, np.float32(0), np.float32(2))
    assert low == 0 and 0.99 < high < 1.01


def test_entropy_clips_a_far_outlier_and_keeps_a_uniform_range() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=100_000)).astype(np.float32)
    values[0] = 100
    counts = np.histogram(values, BINS, (0, 100))[0]
    assert entropy(counts, np.float32(0), np.float32(100))[1] < 30
    flat = np.full(BINS, 10)
    assert entropy(flat, np.float32(0), np.float32(1))[1] == pytest.approx(1)


def test_ranges_are_the_extremes_over_rows_of_any_length(bert_fp32: Bundle) -> None:
    import onnx_ir as ir

    model = ir.load(bert_fp32.path / "model.onnx")
    rows = [bert_fp32.encode([{"text": text}]) for text in ("my card", "how long does it take")]
    found = ranges(model, ["input_ids", "logits"], rows, "minmax")
    assert list(found) == ["logits"]  # integers have no range to quantize
    outputs = [OnnxExporter().open(bert_fp32).run(row)["logits"] for row in rows]
    low, high = np.min(outputs), np.max(outputs)
    assert found["logits"] == pytest.approx((low, high))
    clipped = ranges(model, ["logits"], rows, "percentile")["logits"]
    assert clipped == pytest.approx((low, high), abs=float(high - low) / BINS)


def test_a_search_is_answered_from_what_was_calibrated(conv_fp32: Bundle) -> None:
    model = files.load(conv_fp32)
    rows = [conv_fp32.encode([row]) for row in conv_fp32.golden()[0]]
    names = [v.name for node in model.graph for v in node.outputs if v.name]
    whole = ranges(model, names, rows, "minmax")
    assert ranges(model, names[:2], rows, "minmax") == {n: whole[n] for n in names[:2]}
    again = ranges(model, [*names, "absent"], rows, "minmax")  # nothing left to compute
    assert again == whole
    fewer = ranges(model, names, rows[:1], "minmax")
    assert fewer != whole


def test_a_row_of_another_shape_is_the_rows_fault_not_the_graphs(
    exporter: OnnxExporter, conv_fp32: Bundle, bert_fp32: Bundle, conv: Program, tmp_path: Path
) -> None:
    odd = {"image": np.zeros((8, 8, 5), np.uint8)}
    why = r"row 2 \(image of shape \(8, 8, 5\)\) is not what .*; give rows like those"
    with pytest.raises(InputError, match=why):
        exporter.compress(conv_fp32, Plan("int8-static"), [conv.rows[0], odd], tmp_path / "out")
    with pytest.raises(InputError, match=r"row 1 \(image of shape .*KeyError: 'text'"):
        exporter.compress(bert_fp32, Plan("int8-static"), conv.rows, tmp_path / "out")
    small = {"image": np.zeros((8, 8), np.uint8)}  # resized, as in training
    made = exporter.compress(conv_fp32, Plan("int8-static"), [*conv.rows, small], tmp_path / "out")
    assert made.manifest.precision == "int8-static"
