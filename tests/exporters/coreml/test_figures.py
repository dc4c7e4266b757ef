"""Multiply-accumulates against the textbook formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgekd_exporters.coreml.figures import multiply_accumulates
from edgekd_exporters.coreml.quiet import coremltools

ct = coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, get_new_symbol, types  # noqa: E402


def op_on(shape: tuple[Any, ...], name: str, **arguments: Any) -> Any:
    placeholder = mb.placeholder(shape=shape, dtype=types.fp32)
    with Function({"x": placeholder}, opset_version=ct.target.iOS17) as function:
        return getattr(mb, name)(x=function.inputs["x"], **arguments).op


def weight(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("shape", "name", "arguments", "expected"),
    [
        ((2, 7, 5), "linear", {"weight": weight(3, 5)}, 2 * 7 * 3 * 5),
        ((2, 4, 6), "matmul", {"y": weight(2, 6, 3)}, 2 * 4 * 3 * 6),
        ((2, 6, 4), "matmul", {"y": weight(2, 6, 3), "transpose_x": True}, 2 * 4 * 3 * 6),
        (
            (1, 4, 8, 8),
            "conv",
            {"weight": weight(6, 2, 3, 3), "strides": [2, 2], "groups": 2},
            3 * 3 * 6 * 2 * 9,
        ),
        ((1, 4, 5, 5), "conv_transpose", {"weight": weight(4, 3, 2, 2)}, 5 * 5 * 4 * 3 * 4),
        ((2, 3), "tanh", {}, 0),
    ],
)
def test_counts(shape: tuple, name: str, arguments: dict, expected: int) -> None:
    assert multiply_accumulates(op_on(shape, name, **arguments)) == expected


def test_attention_counts_scores_and_values() -> None:
    shapes = {"query": (1, 2, 3, 4), "key": (1, 2, 5, 4), "value": (1, 2, 5, 6)}
    inputs = {n: mb.placeholder(shape=s, dtype=types.fp32) for n, s in shapes.items()}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        op = mb.scaled_dot_product_attention(**function.inputs).op
    assert multiply_accumulates(op) == 2 * 3 * 5 * (4 + 6)


def test_a_flexible_size_has_no_count() -> None:
    op = op_on((1, get_new_symbol(), 5), "linear", weight=weight(3, 5))
    assert multiply_accumulates(op) is None
