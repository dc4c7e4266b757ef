"""Every kernel against coremltools' own value inference, or against torch where it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgekd_exporters.coreml.interpreter import compile_function
from edgekd_exporters.coreml.interpreter.registry import KERNELS
from edgekd_exporters.coreml.quiet import coremltools, quiet

ct = coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, Program  # noqa: E402

generator = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(normal(*shape)) + 0.1).astype(np.float32)


def inside(*shape: int) -> np.ndarray:
    return generator.uniform(-0.9, 0.9, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return generator.integers(low, high, shape).astype(np.int32)


def truths(*shape: int) -> np.ndarray:
    return generator.random(shape) < 0.5


def build(op: str, tensors: dict[str, Any], attributes: dict[str, Any], target: Any) -> Any:
    """A one-op program whose ``tensors`` are inputs; booleans enter as integers and are cast."""
    placeholders, flat = {}, {}
    for name, value in tensors.items():
        for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
            key = f"in_{name}_{index}"
            flat[key] = item
            kind = ct.converters.mil.mil.types.int32
            if item.dtype.kind == "f":
                kind = ct.converters.mil.mil.types.fp32
            placeholders[key] = mb.placeholder(shape=item.shape, dtype=kind)
    program = Program()
    with Function(placeholders, opset_version=target) as function:

        def bound(key: str, item: np.ndarray) -> Any:
            var = function.inputs[key]
            return mb.cast(x=var, dtype="bool") if item.dtype.kind == "b" else var

        arguments = {}
        for name, value in tensors.items():
            if isinstance(value, tuple):
                arguments[name] = [bound(f"in_{name}_{i}", v) for i, v in enumerate(value)]
            else:
                arguments[name] = bound(f"in_{name}_0", value)
        result = getattr(mb, op)(**arguments, **attributes)
        function.set_outputs(list(result) if isinstance(result, list | tuple) else [result])
    program.add_function("main", function)
    feeds = {k: v.astype(np.int32) if v.dtype.kind == "b" else v for k, v in flat.items()}
    return function, feeds


def inferred(
    op: str, tensors: dict[str, Any], attributes: dict[str, Any], target: Any
) -> list[np.ndarray]:
    """What coremltools computes for the op on constants."""
    with Function({}, opset_version=target):
        constants = {k: list(v) if isinstance(v, tuple) else v for k, v in tensors.items()}
        result = getattr(mb, op)(**constants, **attributes)
    parts = result if isinstance(result, list | tuple) else [result]
    assert all(part.val is not None for part in parts), f"{op} has no value inference"
    return [np.asarray(part.val) for part in parts]


def run(op: str, tensors: dict[str, Any], attributes: dict[str, Any], target: Any) -> list:
    function, feeds = build(op, tensors, attributes, target)
    outputs = compile_function(function, half=False).run(feeds)
    return [outputs[var.name] for var in function.outputs]


def compare(got: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 2e-5) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind == "f":
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


X = normal(2, 3, 4)
SQUARE = normal(1, 4, 6, 6)
INFERRED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {"x": X}, {}) for name in (
        "abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "round", "sign",
        "sin", "sinh", "square", "tan", "tanh", "relu", "relu6", "sigmoid", "softplus",
        "softsign", "identity", "shape",
    )),
    *((name, {"x": inside(2, 3)}, {}) for name in ("acos", "asin", "atanh")),
    ("sqrt", {"x": positive(2, 3)}, {}),
    ("rsqrt", {"x": positive(2, 3)}, {"epsilon": 1e-3}),
    ("log", {"x": positive(2, 3)}, {"epsilon": 1e-3}),
    ("inverse", {"x": positive(2, 3)}, {"epsilon": 1e-3}),
    ("logical_not", {"x": truths(5)}, {}),
    ("clip", {"x": X}, {"alpha": -0.5, "beta": 0.7}),
    ("threshold", {"x": X}, {"alpha": 0.2}),
    ("clamped_relu", {"x": X}, {"alpha": 0.2, "beta": 0.5}),
    ("elu", {"x": X}, {"alpha": 0.7}),
    ("leaky_relu", {"x": X}, {"alpha": 0.1}),
    ("linear_activation", {"x": X}, {"alpha": 2.0, "beta": -1.0}),
    ("scaled_tanh", {"x": X}, {"alpha": 2.0, "beta": 0.5}),
    ("sigmoid_hard", {"x": X}, {"alpha": 0.3, "beta": 0.4}),
    ("thresholded_relu", {"x": X}, {"alpha": 0.3}),
    ("prelu", {"x": SQUARE}, {"alpha": positive(4)}),
    ("softplus_parametric", {"x": SQUARE}, {"alpha": positive(4), "beta": positive(4)}),
    ("softmax", {"x": X}, {"axis": 1}),
    *(("gelu", {"x": X}, {"mode": mode}) for mode in (
        "EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION",
    )),
    *((name, {"x": X, "y": normal(3, 1)}, {}) for name in (
        "add", "sub", "mul", "maximum", "minimum", "less", "less_equal", "greater",
        "greater_equal",
    )),
    *((name, {"x": integers(0, 3, 4, 5), "y": integers(0, 3, 5)}, {}) for name in (
        "add", "equal", "not_equal", "maximum",
    )),
    *((name, {"x": X, "y": positive(4)}, {}) for name in ("real_div", "floor_div", "mod")),
    ("floor_div", {"x": integers(-9, 9, 8), "y": integers(1, 5, 8)}, {}),
    ("mod", {"x": integers(-9, 9, 8), "y": integers(1, 5, 8)}, {}),
    ("pow", {"x": positive(3, 4), "y": normal(4)}, {}),
    *((name, {"x": truths(6), "y": truths(6)}, {}) for name in (
        "logical_and", "logical_or", "logical_xor",
    )),
    ("select", {"cond": truths(2, 3, 4), "a": X, "b": normal(2, 3, 4)}, {}),
    ("cast", {"x": X * 3}, {"dtype": "int32"}),
    ("cast", {"x": integers(-2, 3, 5)}, {"dtype": "bool"}),
    ("cast", {"x": integers(-2, 3, 5)}, {"dtype": "fp32"}),
    ("linear", {"x": normal(2, 5)}, {"weight": normal(3, 5), "bias": normal(3)}),
    ("matmul", {"x": normal(2, 3, 4), "y": normal(2, 4, 5)}, {}),
    (
        "matmul",
        {"x": normal(2, 4, 3), "y": normal(5, 4)},
        {"transpose_x": True, "transpose_y": True},
    ),
    (
        "einsum",
        {"values": (normal(1, 2, 3, 4), normal(1, 4, 3, 5))},
        {"equation": "nchw,nwhu->nchu"},
    ),
    ("layer_norm", {"x": X}, {"axes": [-1], "gamma": normal(4), "beta": normal(4)}),
    ("layer_norm", {"x": X}, {"axes": [1], "epsilon": 1e-3}),
    ("l2_norm", {"x": normal(1, 2, 3, 4)}, {"epsilon": 1e-4}),
    *((name, {"x": positive(2, 3, 4)}, {"axes": [1], "keep_dims": keep}) for keep in (
        True, False,
    ) for name in (
        "reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_l1_norm",
        "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_sum_square",
    )),
    ("reduce_sum", {"x": integers(0, 9, 2, 3)}, {"axes": [0]}),
    ("reduce_argmax", {"x": X}, {"axis": 1}),
    ("reduce_argmin", {"x": X}, {"axis": 2, "keep_dims": True}),
    ("cumsum", {"x": X}, {"axis": 1}),
    ("topk", {"x": X}, {"k": 2, "axis": -1}),
    ("topk", {"x": X}, {"k": 2, "axis": 1, "ascending": True}),
    ("argsort", {"x": X}, {"axis": -1, "ascending": True}),
    ("reshape", {"x": X}, {"shape": [4, -1]}),
    ("reshape", {"x": X}, {"shape": [0, 2, -1]}),
    ("transpose", {"x": X}, {"perm": [2, 0, 1]}),
    ("expand_dims", {"x": X}, {"axes": [0, -1]}),
    ("squeeze", {"x": normal(1, 3, 1)}, {"axes": [0, 2]}),
    ("flatten2d", {"x": X}, {"axis": 2}),
    ("concat", {"values": (X, normal(2, 1, 4))}, {"axis": 1}),
    ("stack", {"values": (X, normal(2, 3, 4))}, {"axis": 1}),
    ("split", {"x": normal(2, 6)}, {"num_splits": 3, "axis": 1}),
    ("split", {"x": normal(2, 6)}, {"split_sizes": [1, 5], "axis": 1}),
    (
        "slice_by_index",
        {"x": normal(4, 5, 6)},
        {
            "begin": [1, 4, 0], "end": [3, 0, 6], "stride": [1, -2, 2],
            "begin_mask": [False, False, True], "end_mask": [False, False, True],
            "squeeze_mask": [False, False, False],
        },
    ),
    (
        "slice_by_index",
        {"x": normal(4, 5)},
        {"begin": [-1, -3], "end": [4, -1], "squeeze_mask": [True, False]},
    ),
    ("slice_by_size", {"x": normal(4, 5)}, {"begin": [1, 2], "size": [2, -1]}),
    (
        "slice_update",
        {"x": normal(4, 5), "update": normal(2, 3)},
        {"begin": [1, 0], "end": [3, 5], "stride": [1, 2]},
    ),
    ("pad", {"x": X}, {"pad": [1, 2, 0, 3], "mode": "constant", "constant_val": 0.5}),
    ("pad", {"x": X}, {"pad": [1, 2, 2, 1], "mode": "reflect"}),
    ("tile", {"x": X}, {"reps": [1, 2, 3]}),
    ("reverse", {"x": X}, {"axes": [0, 2]}),
    ("fill", {}, {"shape": [2, 3], "value": 1.5}),
    ("fill_like", {"ref_tensor": X}, {"value": 2.5}),
    ("range_1d", {}, {"start": 1, "end": 9, "step": 3}),
    ("band_part", {"x": normal(4, 5)}, {"lower": 1, "upper": 2}),
    ("gather", {"x": normal(5, 3), "indices": integers(-5, 5, 2, 2)}, {"axis": 0}),
    ("gather", {"x": normal(2, 5, 3), "indices": integers(0, 5, 2, 4)}, {"axis": 1, "batch_dims": 1}),
    ("gather_along_axis", {"x": X, "indices": integers(0, 3, 2, 5, 4)}, {"axis": 1}),
    (
        "scatter_along_axis",
        {"data": X, "indices": integers(0, 3, 2, 1, 4), "updates": positive(2, 1, 4)},
        {"axis": 1, "mode": "update"},
    ),
    ("non_zero", {"x": integers(0, 2, 3, 4)}, {}),
    (
        "quantize",
        {"input": normal(2, 3)},
        {"scale": np.float32(0.02), "zero_point": np.int8(5), "output_dtype": "int8"},
    ),
    (
        "quantize",
        {"input": normal(2, 3)},
        {
            "scale": positive(3) / 50, "zero_point": np.array([1, 2, 3], np.uint8),
            "axis": 1, "output_dtype": "uint8",
        },
    ),
    (
        "scaled_dot_product_attention",
        {
            "query": normal(1, 2, 3, 4), "key": normal(1, 2, 5, 4), "value": normal(1, 2, 5, 4),
            "attn_mask": normal(1, 2, 3, 5),
        },
        {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "tensors", "attributes"), INFERRED, ids=[f"{c[0]}-{i}" for i, c in enumerate(INFERRED)]
)
def test_against_value_inference(op: str, tensors: dict, attributes: dict) -> None:
    target = ct.target.iOS18
    with quiet():
        compare(run(op, tensors, attributes, target), inferred(op, tensors, attributes, target))


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


_conv = {"x": normal(1, 4, 7, 8), "w": normal(6, 2, 3, 3), "b": normal(6)}
_up = {"x": normal(1, 4, 5, 5), "w": normal(4, 3, 3, 3), "b": normal(6)}
_pool = normal(2, 3, 7, 7)
_along = {"indices": integers(0, 3, 2, 3, 4), "updates": positive(2, 3, 4)}


def _scattered(combine: Any) -> torch.Tensor:
    """The definition, one element at a time."""
    result = X.copy()
    for place, index in np.ndenumerate(_along["indices"]):
        target = (place[0], index, place[2])
        result[target] = combine(result[target], _along["updates"][place])
    return t(result)


_norm = {k: positive(3) for k in ("mean", "variance", "gamma", "beta")}
TORCH: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
    ("silu", {"x": X}, {}, lambda: F.silu(t(X))),
    (
        "conv",
        {"x": _conv["x"]},
        {
            "weight": _conv["w"], "bias": _conv["b"], "strides": [2, 1], "pad_type": "custom",
            "pad": [1, 1, 0, 0], "dilations": [1, 2], "groups": 2,
        },
        lambda: F.conv2d(
            t(_conv["x"]), t(_conv["w"]), t(_conv["b"]), (2, 1), (1, 0), (1, 2), 2
        ),
    ),
    (
        "conv",
        {"x": _conv["x"]},
        {"weight": _conv["w"], "pad_type": "custom", "pad": [0, 2, 1, 0], "groups": 2},
        lambda: F.conv2d(F.pad(t(_conv["x"]), (1, 0, 0, 2)), t(_conv["w"]), groups=2),
    ),
    (
        "conv",
        {"x": _conv["x"]},
        {"weight": _conv["w"], "pad_type": "same", "strides": [2, 2], "groups": 2},
        lambda: F.conv2d(
            F.pad(t(_conv["x"]), (0, 1, 1, 1)), t(_conv["w"]), stride=2, groups=2
        ),
    ),
    (
        "conv",
        {"x": _conv["x"]},
        {"weight": _conv["w"], "pad_type": "same_lower", "strides": [2, 2], "groups": 2},
        lambda: F.conv2d(
            F.pad(t(_conv["x"]), (1, 0, 1, 1)), t(_conv["w"]), stride=2, groups=2
        ),
    ),
    (
        "conv_transpose",
        {"x": _up["x"]},
        {
            "weight": _up["w"], "bias": _up["b"], "strides": [2, 2], "pad_type": "custom",
            "pad": [1, 1, 1, 1], "groups": 2,
        },
        lambda: F.conv_transpose2d(t(_up["x"]), t(_up["w"]), t(_up["b"]), 2, 1, 0, 2),
    ),
    (
        "conv_transpose",
        {"x": _up["x"]},
        {
            "weight": _up["w"], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1],
            "output_shape": [1, 6, 10, 10], "groups": 2,
        },
        lambda: F.conv_transpose2d(t(_up["x"]), t(_up["w"]), None, 2, 1, 1, 2),
    ),
    (
        "max_pool",
        {"x": _pool},
        {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
        lambda: F.max_pool2d(t(_pool), 3, 2, 1),
    ),
    (
        "max_pool",
        {"x": _pool},
        {"kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid", "ceil_mode": True},
        lambda: F.max_pool2d(t(_pool), 2, 2, ceil_mode=True),
    ),
    *(
        (
            "avg_pool",
            {"x": _pool},
            {
                "kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom",
                "pad": [1, 1, 1, 1], "exclude_padding_from_average": exclude,
            },
            lambda exclude=exclude: F.avg_pool2d(
                t(_pool), 3, 2, 1, count_include_pad=not exclude
            ),
        )
        for exclude in (True, False)
    ),
    (
        "avg_pool",
        {"x": _pool},
        {"kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid", "ceil_mode": True},
        lambda: F.avg_pool2d(t(_pool), 2, 2, ceil_mode=True),
    ),
    (
        "l2_pool",
        {"x": _pool},
        {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "valid"},
        lambda: F.lp_pool2d(t(_pool), 2, 3, 2),
    ),
    (
        "batch_norm",
        {"x": _pool},
        {**_norm, "epsilon": 1e-3},
        lambda: F.batch_norm(
            t(_pool), *(t(_norm[k]) for k in ("mean", "variance", "gamma", "beta")), eps=1e-3
        ),
    ),
    (
        "instance_norm",
        {"x": _pool},
        {"gamma": _norm["gamma"], "beta": _norm["beta"], "epsilon": 1e-3},
        lambda: F.instance_norm(
            t(_pool), weight=t(_norm["gamma"]), bias=t(_norm["beta"]), eps=1e-3
        ),
    ),
    (
        "local_response_norm",
        {"x": _pool},
        {"size": 3, "alpha": 0.1, "beta": 0.6, "k": 1.5},
        lambda: F.local_response_norm(t(_pool), 3, 0.1, 0.6, 1.5),
    ),
    (
        "upsample_nearest_neighbor",
        {"x": SQUARE},
        {"scale_factor_height": 2, "scale_factor_width": 3},
        lambda: F.interpolate(t(SQUARE), scale_factor=(2, 3)),
    ),
    (
        "resize_nearest_neighbor",
        {"x": SQUARE},
        {"target_size_height": 12, "target_size_width": 18},
        lambda: F.interpolate(t(SQUARE), (12, 18)),
    ),
    *(
        (
            "upsample_bilinear",
            {"x": SQUARE},
            {"scale_factor_height": 2, "scale_factor_width": 2, "align_corners": corners},
            lambda corners=corners: F.interpolate(
                t(SQUARE), scale_factor=2, mode="bilinear", align_corners=corners
            ),
        )
        for corners in (True, False)
    ),
    *(
        (
            "resize_bilinear",
            {"x": SQUARE},
            {"target_size_height": 9, "target_size_width": 4, "sampling_mode": mode},
            lambda corners=corners: F.interpolate(
                t(SQUARE), (9, 4), mode="bilinear", align_corners=corners
            ),
        )
        for mode, corners in (("STRICT_ALIGN_CORNERS", True), ("UNALIGN_CORNERS", False))
    ),
    (
        "pixel_shuffle",
        {"x": SQUARE},
        {"upscale_factor": 2},
        lambda: F.pixel_shuffle(t(SQUARE), 2),
    ),
    (
        "pixel_unshuffle",
        {"x": SQUARE},
        {"downscale_factor": np.uint32(2)},
        lambda: F.pixel_unshuffle(t(SQUARE), 2),
    ),
    (
        "space_to_depth",
        {"x": SQUARE},
        {"block_size": 3},
        # Blocks outermost in the channels: [by, bx, c] instead of torch's [c, by, bx].
        lambda: F.pixel_unshuffle(t(SQUARE), 3)
        .reshape(1, 4, 9, 2, 2)
        .transpose(1, 2)
        .reshape(1, 36, 2, 2),
    ),
    (
        "depth_to_space",
        {"x": SQUARE},
        {"block_size": 2},
        lambda: F.pixel_shuffle(
            t(SQUARE).reshape(1, 4, 1, 6, 6).transpose(1, 2).reshape(1, 4, 6, 6), 2
        ),
    ),
    (
        "sliding_windows",
        {"x": X},
        {"axis": 2, "size": 2, "stride": 1},
        lambda: torch.stack([t(X)[:, :, i : i + 2] for i in range(3)], 2),
    ),
    (
        "crop",
        {"x": SQUARE},
        {"crop_height": [1, 2], "crop_width": [0, 3]},
        lambda: t(SQUARE)[:, :, 1:4, :3],
    ),
    (
        "gather_nd",
        {"x": X, "indices": np.array([[0, 1], [1, 2]], np.int32)},
        {},
        lambda: t(X)[[0, 1], [1, 2]],
    ),
    (
        "scatter",
        {"data": X, "indices": np.array([2, 0], np.int32), "updates": X[:, :2]},
        {"axis": 1, "mode": "add"},
        lambda: t(X).index_add(1, torch.tensor([2, 0]), t(X[:, :2])),
    ),
    (
        "scatter_nd",
        {"data": X, "indices": np.array([[0, 1], [1, 2]], np.int32), "updates": X[0, :2]},
        {"mode": "update"},
        lambda: t(X).index_put((torch.tensor([0, 1]), torch.tensor([1, 2])), t(X[0, :2])),
    ),
    (
        "one_hot",
        {"indices": np.array([0, 2], np.int32)},
        {"one_hot_vector_size": 4, "axis": -1, "on_value": 1, "off_value": 0},
        lambda: F.one_hot(torch.tensor([0, 2]), 4).int(),
    ),
    # coremltools' value inference leaves out interleave, mode, and fails on a reversed cumsum.
    (
        "concat",
        {"values": (X, _along["updates"])},
        {"axis": 1, "interleave": True},
        lambda: torch.stack([t(X), t(_along["updates"])], 2).reshape(2, 6, 4),
    ),
    (
        "cumsum",
        {"x": X},
        {"axis": 1, "exclusive": True, "reverse": True},
        lambda: t(X).flip(1).cumsum(1).flip(1) - t(X),
    ),
    *(
        (
            "scatter_along_axis",
            {"data": X, **_along},
            {"axis": 1, "mode": mode},
            lambda combine=combine: _scattered(combine),
        )
        for mode, combine in {
            "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
            "max": np.maximum, "min": np.minimum,
        }.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "tensors", "attributes", "reference"),
    TORCH,
    ids=[f"{c[0]}-{i}" for i, c in enumerate(TORCH)],
)
def test_against_torch(op: str, tensors: dict, attributes: dict, reference: Any) -> None:
    with quiet():
        compare(run(op, tensors, attributes, ct.target.iOS18), [reference().numpy()])


TESTED_ELSEWHERE = {"dequantize", "lstm", "gru", "reshape_like", "space_to_batch", "batch_to_space"}


def test_every_kernel_is_tested() -> None:
    tested = {case[0] for case in INFERRED} | {case[0] for case in TORCH} | TESTED_ELSEWHERE
    assert set(KERNELS) <= tested, sorted(set(KERNELS) - tested)
