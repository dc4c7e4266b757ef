"""What ``check`` finds: numbers that fp16 breaks, and what leaves the Neural Engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgekd_exporters.coreml.guards import _lint_op, check_package, numeric
from edgekd_exporters.coreml.interpreter import compile_function
from edgekd_exporters.coreml.quiet import coremltools
from torch import nn

from edgekd import bundle as bundles
from edgekd.bundle import Bundle, TensorSpec, encode
from edgekd.errors import VerificationError
from edgekd.exporter import Finding, Spec, get, verify
from edgekd.program import Program, Shapes

COREML = get("coreml")


def unchecked(program: Program, compute: Any, folder: Path) -> Bundle:
    """A bundle as somebody else's exporter would have left it: written, never compared."""
    folder.mkdir()
    manifest = COREML.write_float(program, Spec(Shapes(), compute=compute), folder)
    inputs = encode(manifest, program.preprocessor, program.rows)
    outputs = program.run(inputs)
    rows, encoder = program.rows, program.preprocessor
    return bundles.write(folder, manifest, encoder, rows, inputs, outputs)


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


class LowestMask(nn.Module):
    """The mask that transformers builds: the lowest float32 at padded positions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
        additive = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return (self.model(input_ids=ids, attention_mask=additive).logits,)


def test_a_mask_of_the_lowest_float_is_caught_and_named(program: Program, tmp_path: Path) -> None:
    broken = dataclasses.replace(
        program, module=LowestMask(program.module.model).eval(), _captures={}
    )
    bundle = unchecked(broken, "fp16", tmp_path / "broken")
    (error,) = errors(COREML.check(bundle))
    assert "(mul) makes NaN" in error.message
    assert "'logits' is not finite" in error.message
    assert error.where.startswith("mul")
    with pytest.raises(VerificationError, match=r"not finite; the op 'mul\S*' \(mul\) makes NaN"):
        verify(COREML, bundle)
    # The package alone, without the bundle around it, says the same.
    (alone,) = errors(check_package(bundle.path / "model.mlpackage"))
    assert alone.where == error.where
    with pytest.raises(VerificationError, match=r"'mul\S*'"):
        COREML.lower(broken, Spec(Shapes(), compute="fp16"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_the_same_mask_is_harmless_in_fp32(program: Program, tmp_path: Path) -> None:
    module = LowestMask(program.module.model).eval()
    fine = dataclasses.replace(program, module=module, _captures={})
    assert not errors(COREML.check(unchecked(fine, "fp32", tmp_path / "b")))


def test_ours_passes(lower) -> None:  # type: ignore[no-untyped-def]
    assert COREML.check(lower("fp16")) == []


def test_a_range_is_flagged_and_a_fixed_length_passes(lower) -> None:  # type: ignore[no-untyped-def]
    flagged = COREML.check(lower("fp32", "iOS17", (), range=True))
    ranges = [f for f in flagged if "range of shapes" in f.message]
    assert {f.where for f in ranges} == {"input_ids", "attention_mask"}
    assert not [f for f in COREML.check(lower("fp32")) if "shapes" in f.message]
    several = COREML.check(lower("fp32", "iOS18", (4, 8, 12)))
    assert any("3 enumerated shapes" in f.message for f in several)


def program_of(program: Program, module: nn.Module) -> Program:
    output = TensorSpec("values", "float32", ("batch", 4))
    return dataclasses.replace(
        program, module=module.eval(), outputs=(output,), labels=(), _captures={}
    )


def test_an_infinity_that_is_meant_does_not_hide_a_later_row() -> None:
    """A softmax of some -inf is sound, one of nothing but -inf is NaN."""
    coremltools()
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types

    with Function({"x": mb.placeholder(shape=(1, 3), dtype=types.fp32)}) as function:
        hidden = mb.log(x=function.inputs["x"], epsilon=np.float32(0), name="hidden")
        function.set_outputs([mb.softmax(x=hidden, axis=-1, name="share")])
    half, full = (compile_function(function, flag) for flag in (True, False))
    sound = {"x": np.array([[1, 0, 2]], np.float32)}
    (warning,) = numeric(half, full, [sound], {})
    assert warning.level == "warning" and "no output shows it" in warning.message
    (error,) = numeric(half, full, [sound, {"x": np.zeros((1, 3), np.float32)}], {})
    assert error.level == "error" and "'share' is not finite" in error.message


def test_ops_in_fp32_keep_off_the_neural_engine(lower) -> None:  # type: ignore[no-untyped-def]
    (width,) = [f for f in COREML.check(lower("fp32")) if "compute in fp32" in f.message]
    assert width.level == "warning" and "export with fp16" in width.message


class Sorting(nn.Module):
    """An op without a kernel there, and a constant beyond fp16 that no output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
        x = self.table(ids).sum(1) - 1e6 * mask[:, 8:].float()
        return (torch.relu(x).sort(-1).values,)


def test_missing_ops_and_large_constants_are_linted(program: Program, tmp_path: Path) -> None:
    bundle = unchecked(program_of(program, Sorting()), "fp16", tmp_path / "b")
    messages = [f.message for f in COREML.check(bundle)]
    assert any("has no Neural Engine kernel" in message for message in messages), messages
    assert any("holds 1e+06, fp16 ends at 65504" in message for message in messages), messages


def test_rank_and_long_axes_are_linted() -> None:
    coremltools()
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types

    placeholder = mb.placeholder(shape=(2, 20000), dtype=types.fp32)
    with Function({"x": placeholder}) as function:
        wide = mb.reshape(x=function.inputs["x"], shape=(2, 2, 2, 2, 50, 50), name="wide")
        function.set_outputs([wide])
    found = [f for op in function.operations for f in _lint_op(op, {"wide": "odd"}, set())]
    assert any("'wide' (reshape) in odd has rank 6" in finding.message for finding in found)
    with Function({"x": placeholder}) as function:
        function.set_outputs([mb.tanh(x=function.inputs["x"], name="long")])
    found = [f for op in function.operations for f in _lint_op(op, {}, set())]
    assert [f.level for f in found] == ["note"] and "an axis of 20000" in found[0].message


class Cancelling(nn.Module):
    """(x + 1000) - 1000: fp16 loses most of x, and nothing overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4)
        self.scale = nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
        x = torch.tanh(self.scale(self.table(ids)))
        y = torch.relu(x + 1000.0)
        return ((y - 1000.0).sum(1),)


def test_the_op_where_fp16_departs_is_named(program: Program, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = unchecked(program_of(program, Cancelling()), "fp16", tmp_path / "b")
    (departure,) = [f for f in COREML.check(bundle) if "departs" in f.message]
    assert departure.level == "warning"
    assert "(sub)" in departure.message


def test_findings_are_errors_first(program: Program, tmp_path: Path) -> None:
    module = LowestMask(program.module.model).eval()
    broken = dataclasses.replace(program, module=module, _captures={})
    levels = [f.level for f in COREML.check(unchecked(broken, "fp16", tmp_path / "b"))]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert np.isfinite(broken.run(encode_rows(broken))["logits"]).all()  # torch is not bothered


def encode_rows(program: Program) -> dict[str, np.ndarray]:
    return program.preprocessor.encode(program.rows)
