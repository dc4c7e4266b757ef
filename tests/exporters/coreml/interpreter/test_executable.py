"""Compiling and running programs: rounding, integers, classes, missing ops, recurrence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgekd_exporters.coreml.interpreter import compile_function
from edgekd_exporters.coreml.interpreter.registry import KERNELS
from edgekd_exporters.coreml.quiet import coremltools, quiet
from torch import nn

from edgekd.errors import InputError

ct = coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, types  # noqa: E402


def function_of(shape: tuple[int, ...], dtype: object, body) -> object:  # type: ignore[no-untyped-def]
    with Function(
        {"x": mb.placeholder(shape=shape, dtype=dtype)}, opset_version=ct.target.iOS18
    ) as function:
        function.set_outputs([body(function.inputs["x"])])
    return function


def only(function: object, half: bool, x: np.ndarray) -> np.ndarray:
    (value,) = compile_function(function, half).run({"x": x}).values()
    return value


def test_half_mode_rounds_every_result_to_fp16() -> None:
    x = np.linspace(-3, 3, 31, dtype=np.float32)

    def body(value: object) -> object:
        narrow = mb.cast(x=value, dtype="fp16")
        return mb.exp(x=mb.mul(x=narrow, y=np.float16(1.1)))

    function = function_of((31,), types.fp32, body)
    step = x.astype(np.float16).astype(np.float32) * np.float32(np.float16(1.1))
    step = np.exp(step.astype(np.float16).astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(only(function, True, x), step.astype(np.float32))
    full = np.exp(x * np.float32(np.float16(1.1)))
    np.testing.assert_allclose(only(function, False, x), full, rtol=1e-6)


def test_half_mode_overflows_where_fp16_does() -> None:
    def body(value: object) -> object:
        return mb.mul(x=mb.cast(x=value, dtype="fp16"), y=np.float16(2))

    function = function_of((2,), types.fp32, body)
    x = np.array([3e4, 4e4], np.float32)
    np.testing.assert_array_equal(only(function, True, x), [6e4, np.inf])
    np.testing.assert_allclose(only(function, False, x), [6e4, 8e4], rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [("int8", 130, -126), ("uint8", 300, 44), ("int16", 40000, -25536), ("uint16", 70000, 4464)],
)
def test_casts_wrap_to_the_width_the_program_names(dtype: str, value: int, expected: int) -> None:
    run = KERNELS["cast"].run
    assert run(torch.tensor([value], dtype=torch.int32), dtype=dtype).tolist() == [expected]


def test_a_missing_op_is_named_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    function = function_of((2,), types.fp32, lambda x: mb.tanh(x=x, name="squash"))
    monkeypatch.delitem(KERNELS, "tanh")
    with pytest.raises(InputError, match=r"'tanh' \('squash' in pooler\.activation\)"):
        compile_function(function, False, {"squash": "pooler.activation"})


def test_a_missing_input_is_named() -> None:
    function = function_of((2,), types.fp32, lambda x: mb.tanh(x=x))
    with pytest.raises(InputError, match="input 'x' was not given"):
        compile_function(function, False).run({})


def test_attributes_may_be_computed_at_run_time() -> None:
    def body(x: object) -> object:
        rows = mb.slice_by_index(x=mb.shape(x=x), begin=[0], end=[1])
        return mb.reshape(x=x, shape=mb.concat(values=[rows, np.array([-1], np.int32)], axis=0))

    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    np.testing.assert_array_equal(
        only(function_of((2, 3, 2), types.fp32, body), False, x), x.reshape(2, 6)
    )


def test_a_result_is_dropped_after_its_last_reader() -> None:
    def body(x: object) -> object:
        kept = mb.exp(x=x, name="kept")
        return mb.add(x=mb.tanh(x=mb.abs(x=kept, name="brief")), y=kept, name="sum")

    compiled = compile_function(function_of((2,), types.fp32, body), False)
    dead = {step.name: step.dead for step in compiled.steps}
    slots = compiled.slots
    assert slots["x"] in dead["kept"]
    assert slots["kept"] in dead["sum"] and slots["kept"] not in dead["brief"]
    assert all(slots["sum"] not in step.dead for step in compiled.steps)


def test_quantize_then_dequantize() -> None:
    scale, zero = np.float32(0.1), np.int8(3)

    def body(x: object) -> object:
        levels = mb.quantize(input=x, scale=scale, zero_point=zero, output_dtype="int8")
        return mb.dequantize(input=levels, scale=scale, zero_point=zero)

    x = np.array([-50, -0.26, 0, 0.14, 50], np.float32)
    expected = (np.clip(np.rint(x / scale) + 3, -128, 127) - 3) * scale
    np.testing.assert_allclose(
        only(function_of((5,), types.fp32, body), False, x), expected, rtol=1e-6
    )


def converted(module: nn.Module, *inputs: torch.Tensor):  # type: ignore[no-untyped-def]
    """The module's MIL program, through coremltools."""
    with quiet():
        graph = torch.export.export(module.eval(), inputs, strict=False).run_decompositions({})
        program = ct.convert(
            graph, convert_to="milinternal", compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS17,
        )  # fmt: skip
    return program.functions["main"]


@pytest.mark.parametrize("both_ways", [False, True])
def test_lstm_against_torch(both_ways: bool) -> None:
    torch.manual_seed(0)
    size, steps, inputs = 4, 5, 3
    cell = nn.LSTM(inputs, size, bidirectional=both_ways)
    x = torch.randn(steps, 2, inputs)

    def packed(name: str) -> torch.Tensor:  # torch packs i, f, g, o; MIL packs i, f, o, z
        i, f, g, o = getattr(cell, name).detach().chunk(4, 0)
        return torch.cat([i, f, o, g])

    def weights(suffix: str) -> dict[str, torch.Tensor]:
        bias = packed(f"bias_ih_l0{suffix}") + packed(f"bias_hh_l0{suffix}")
        end = "_back" if suffix else ""
        return {
            f"weight_ih{end}": packed(f"weight_ih_l0{suffix}"),
            f"weight_hh{end}": packed(f"weight_hh_l0{suffix}"),
            f"bias{end}": bias,
        }

    arguments = weights("") | (weights("_reverse") if both_ways else {})
    zeros = torch.zeros(2, size * (2 if both_ways else 1))
    with torch.no_grad():
        expected, (h, c) = cell(x)
        got = KERNELS["lstm"].run(
            x, zeros, zeros, **arguments, output_sequence=True,
            direction="bidirectional" if both_ways else "forward",
        )  # fmt: skip
    torch.testing.assert_close(got[0], expected)
    torch.testing.assert_close(got[1], torch.cat(list(h), -1))
    torch.testing.assert_close(got[2], torch.cat(list(c), -1))


def test_gru_against_torch() -> None:
    torch.manual_seed(0)
    cell = nn.GRU(3, 4)
    x, h = torch.randn(5, 2, 3), torch.randn(2, 4)
    with torch.no_grad():
        expected, last = cell(x, h[None])
        got = KERNELS["gru"].run(
            x, h, cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_hh_l0, cell.bias_ih_l0,
            output_sequence=True, reset_after=True,
        )  # fmt: skip
    torch.testing.assert_close(got[0], expected)
    torch.testing.assert_close(got[1], last[0])


def test_space_and_batch_are_inverse() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    there = KERNELS["space_to_batch"].run(x, block_shape=[2, 3], paddings=[[0, 0], [0, 0]])
    assert there.shape == (12, 3, 2, 2)
    # Batch (row offset, column offset, image): the second block holds column offset 1.
    torch.testing.assert_close(there[2], x[0, :, ::2, 1::3])
    back = KERNELS["batch_to_space"].run(there, block_shape=[2, 3], crops=[[0, 0], [0, 0]])
    torch.testing.assert_close(back, x)


def test_reshape_like_takes_axes_of_several_tensors() -> None:
    x = torch.arange(24.0)
    like = [torch.zeros(2, 9), torch.zeros(9, 3, 4)]
    got = KERNELS["reshape_like"].run(x, like, begins=[0, 1], ends=[1, 0], end_masks=[False, True])
    assert got.shape == (2, 3, 4)


def test_a_converted_network_with_integers_and_booleans() -> None:
    class Chooser(nn.Module):
        def forward(self, x: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
            best = x.argmax(-1)
            return torch.where(x > 0, x, -x), best + k, (x > 0.5).any(-1)

    x, k = torch.randn(3, 4), torch.tensor([1, 2, 3])
    outputs = compile_function(converted(Chooser(), x, k), False).run(
        {"x": x.numpy(), "k": k.int().numpy()}
    )
    values, choice, above = (v for v in outputs.values())
    expected = Chooser()(x, k)
    np.testing.assert_array_equal(values, expected[0].numpy())
    np.testing.assert_array_equal(choice, expected[1].numpy())
    np.testing.assert_array_equal(above.astype(bool), expected[2].numpy())
