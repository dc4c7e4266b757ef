"""Decompression against coremltools' own materialisation, and laws of the packings."""

from __future__ import annotations

import numpy as np
import pytest
from edgekd_exporters.coreml.interpreter.quantization import CONSTEXPR, unpacked
from edgekd_exporters.coreml.quiet import coremltools
from hypothesis import given, settings
from hypothesis import strategies as st

ct = coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, types  # noqa: E402

generator = np.random.default_rng(0)


def narrow(values: np.ndarray, bits: int) -> np.ndarray:
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}")))


CASES = [
    (
        "constexpr_affine_dequantize",
        {
            "quantized_data": generator.integers(-128, 128, (4, 6)).astype(np.int8),
            "zero_point": np.array([1, 2, 3, 4], np.int8),
            "scale": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
            "axis": np.int32(0),
        },
        ct.target.iOS16,
    ),
    (
        "constexpr_lut_to_dense",
        {
            "indices": generator.integers(0, 256, 9).astype(np.uint8),  # 24 indices of 3 bits
            "lut": generator.standard_normal(8).astype(np.float16),
            "shape": np.array([4, 6], np.uint32),
        },
        None,  # iOS 16 stores 1, 2, 4, 6 and 8 bits only
    ),
    (
        "constexpr_lut_to_dense",
        {
            "indices": generator.integers(0, 256, 18).astype(np.uint8),  # 24 indices of 6 bits
            "lut": generator.standard_normal(64).astype(np.float16),
            "shape": np.array([4, 6], np.uint32),
        },
        ct.target.iOS16,
    ),
    (
        "constexpr_sparse_to_dense",
        {
            "nonzero_data": np.array([1, 2, 3], np.float32),
            "mask": np.packbits([0, 1, 1, 0, 0, 1], bitorder="little"),
            "shape": np.array([2, 3], np.uint32),
        },
        ct.target.iOS16,
    ),
    (
        "constexpr_blockwise_shift_scale",
        {
            "data": generator.integers(-8, 8, (4, 6)).astype(np.int8),
            "scale": generator.random((2, 3)).astype(np.float32),
            "offset": generator.integers(-3, 3, (2, 3)).astype(np.int8),
        },
        ct.target.iOS18,
    ),
    (
        "constexpr_lut_to_dense",
        {
            "indices": narrow(generator.integers(0, 4, (4, 6)), 2),
            "lut": generator.standard_normal((2, 3, 4, 1)).astype(np.float16),
        },
        ct.target.iOS18,
    ),
    (
        "constexpr_lut_to_dense",
        {
            "indices": narrow(generator.integers(0, 2, (2, 6)), 1),
            "lut": generator.standard_normal((1, 2, 2, 3)).astype(np.float16),
            "vector_axis": np.int32(0),
        },
        ct.target.iOS18,
    ),
    (
        "constexpr_lut_to_sparse",
        {
            "indices_mask": narrow(np.array([[1, 0, 1], [0, 1, 1]]), 1),
            "indices_nonzero_data": narrow(np.array([0, 3, 2, 1]), 2),
            "lut": generator.standard_normal((1, 1, 4, 1)).astype(np.float16),
        },
        ct.target.iOS18,
    ),
    (
        "constexpr_sparse_blockwise_shift_scale",
        {
            "data_mask": narrow(np.array([[1, 0, 1], [0, 1, 1]]), 1),
            "nonzero_data": np.array([10, -3, 7, 5], np.int8),
            "scale": np.array([[0.5], [0.25]], np.float16),
            "offset": np.array([[1], [2]], np.int8),
        },
        ct.target.iOS18,
    ),
    (
        "constexpr_cast",
        {
            "source_val": generator.standard_normal((2, 3)).astype(np.float16),
            "output_dtype": "fp32",
        },
        ct.target.iOS16,
    ),
]


@pytest.mark.parametrize(
    ("op", "arguments", "target"),
    [case for case in CASES if case[2] is not None],
    ids=[f"{c[0]}-{c[2].name}-{i}" for i, c in enumerate(CASES) if c[2] is not None],
)
def test_against_materialised_values(op: str, arguments: dict, target: object) -> None:
    with Function({}, opset_version=target):
        var = getattr(mb, op)(**arguments)
    first = var[0] if isinstance(var, list | tuple) else var
    expected = first.op.materialized_val_inference()
    got = CONSTEXPR[op](**arguments)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype(np.float32), np.asarray(b).astype(np.float32), rtol=2e-3, atol=1e-6
        )


def test_every_decompression_is_tested() -> None:
    assert set(CONSTEXPR) == {op for op, _, _ in CASES}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_unpacking_inverts_packing(bits: int, values: list[int]) -> None:
    levels = np.array(values) % (1 << bits)
    stream = (levels[:, None] >> np.arange(bits)) & 1
    packed = np.packbits(stream.astype(np.uint8).ravel(), bitorder="little")
    np.testing.assert_array_equal(unpacked(packed, bits, len(levels)), levels)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_sparse_weight_keeps_its_values_and_is_zero_elsewhere(seed: int) -> None:
    random = np.random.default_rng(seed)
    dense = random.standard_normal((3, 5)) * (random.random((3, 5)) < 0.4)
    mask = (dense != 0).astype(np.uint8)
    got = CONSTEXPR["constexpr_sparse_to_dense"](dense[mask != 0], mask)
    np.testing.assert_array_equal(got, dense)
