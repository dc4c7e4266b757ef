from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from edgekd_exporters.onnx import blocks, dynamic
from edgekd_exporters.onnx.cpu import int8_kernels
from edgekd_exporters.onnx.dynamic import symmetric
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

matrices = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)),
                  elements=st.floats(-1000, 1000, width=32))  # fmt: skip


@given(matrices, st.sampled_from([0, 1]), st.sampled_from([4, 7, 8]))
def test_symmetric_rounds_to_within_half_a_step(weight: np.ndarray, axis: int, bits: int) -> None:
    integers, scale = symmetric(weight, axis, bits)
    assert np.abs(integers.astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
    assert scale.shape[axis] == 1 and (scale > 0).all()
    assert (np.abs(integers * scale - weight) <= scale * 0.5 * (1 + 1e-5)).all()


@given(arrays(np.uint8, 2), arrays(np.int8, 2, elements=st.integers(-63, 63)))
def test_seven_bits_cannot_saturate_a_pairwise_sum(a: np.ndarray, b: np.ndarray) -> None:
    total = int(a.astype(int) @ b.astype(int))
    assert -(2**15) <= total < 2**15


@pytest.mark.parametrize(
    ("machine", "flags", "kind", "bits"),
    [
        ("x86_64", {"avx2", "avx512bw", "avx512_vnni"}, "avx512-vnni", 8),
        ("x86_64", {"avx2", "avx_vnni"}, "avx-vnni", 8),
        ("x86_64", {"avx2", "avx512bw"}, "avx512-vpmaddubsw", 7),
        ("x86_64", {"avx2"}, "avx2-vpmaddubsw", 7),
        ("AMD64", set(), "unknown", 7),
        ("aarch64", set(), "arm-neon", 8),
    ],
)
def test_kernels_by_processor(machine: str, flags: set[str], kind: str, bits: int) -> None:
    found = int8_kernels(machine, frozenset(flags))
    assert (found.kind, found.weight_bits) == (kind, bits)


@pytest.mark.parametrize("module", [dynamic, blocks], ids=["dynamic", "blocks"])
def test_layers_that_share_a_weight_share_its_integers(module: ModuleType) -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 64])
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    weight = ir.val("w", ir.DataType.FLOAT, [64, 64], const_value=ir.tensor(array))
    first = ir.node("MatMul", [x, weight], name="layer/MatMul")
    second = ir.node("MatMul", [first.outputs[0], weight], name="layer/MatMul.2")
    graph = ir.Graph([x], second.outputs, nodes=[first, second], initializers=[weight], name="g")
    model = ir.Model(graph, ir_version=10)
    assert module.apply(model, lambda name: name == "layer", 8) == 2
    assert sorted(graph.initializers) == ["w", "w.int8", "w.scale"]
