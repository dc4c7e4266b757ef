"""From the captured program to an ONNX graph of standard operators.

The graph is written so that ONNX Runtime's own load-time optimizer does well on it: attention as
five plain nodes, no shape arithmetic inside it, every node named by the module it came from.
"""

from __future__ import annotations

import ast
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op

from edgekd.errors import InputError
from edgekd.exporter import Spec
from edgekd.program import MASKED, Program
from edgekd_exporters.onnx.passes import (
    constant_lookup,
    constant_reshape,
    residual_sum,
    tidy,
    trim_positions,
)

DEFAULT_OPSET = 20  # the first with Gelu; onnxruntime >= 1.17, onnxruntime-web alike
_SCOPES = "pkg.torch.onnx.name_scopes"


def lower(program: Program, spec: Spec) -> ir.Model:
    """Return the float graph of ``program``, inputs and outputs named as in its specs.

    Raises :class:`InputError` where ``spec.deployment`` is not an opset that torch can write.
    """
    opset = parse_opset(spec.deployment)
    exported = program.capture(spec.shapes)
    with _quiet():
        written = torch.onnx.export(
            exported,
            (),
            input_names=[value.name for value in program.inputs],
            output_names=[value.name for value in program.outputs],
            opset_version=opset,
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: plain_attention
            },
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert written is not None
    model = written.model
    _name_nodes(model)
    _free_output_names(model)
    constant_reshape.apply(model)
    _declare_shapes(model, program, spec)
    constant_lookup.apply(model)
    residual_sum.apply(model)
    longest = max(spec.shapes.lengths, default=getattr(program.preprocessor, "max_length", 0))
    if longest:
        trim_positions.apply(model, longest)
    tidy.apply(model)
    model.producer_name, model.producer_version = "edgekd", None
    for key, value in spec.metadata.items():
        model.metadata_props[key] = value
    return model


def parse_opset(deployment: str | None) -> int:
    """``"20"`` or ``"opset20"`` as a number; the default for None."""
    if deployment is None:
        return DEFAULT_OPSET
    digits = deployment.removeprefix("opset")
    if not digits.isdigit() or not 18 <= int(digits) <= 23:
        raise InputError(
            f"the ONNX deployment {deployment!r} is not an opset from 18 to 23; write 'opset20'"
        )
    return int(digits)


def plain_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k^T * scale + mask) v on [batch, heads, tokens, width], without shape nodes.

    torch's own translation reshapes the keys to three dimensions and back, and scales both
    sides; this form is what runtimes fuse.
    """
    if is_causal or enable_gqa:
        from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

        return aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
    factor = scale if scale is not None else 1 / math.sqrt(query.shape[3])
    scores = op.MatMul(
        op.Mul(query, op.Constant(value_float=factor)), op.Transpose(key, perm=[0, 1, 3, 2])
    )
    if attn_mask is not None:
        if attn_mask.dtype == ir.DataType.BOOL:
            shown: Any = op.Constant(value_float=0.0)
            attn_mask = op.Where(attn_mask, shown, op.Constant(value_float=MASKED))
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _free_output_names(model: Any) -> None:
    """Rename inner values that happen to be called like an output ("embedding")."""
    outputs = {value.name: value for value in model.graph.outputs}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if outputs.get(value.name, value) is not value:
                value.name = f"{value.name}.inner"


def _name_nodes(model: ir.Model) -> None:
    """Name every node ``module.path/Operator``: what groups, profiles and findings speak of."""
    seen: dict[str, int] = {}
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))
        path = scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_") else ""
        name = f"{path.removeprefix('model.')}/{node.op_type}"
        count = seen[name] = seen.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}.{count}"


def _declare_shapes(model: ir.Model, program: Program, spec: Spec) -> None:
    """Write the specs' dimension names over torch's (``s18``), or the fixed sizes."""
    sizes = fixed_sizes(spec)
    values = (*model.graph.inputs, *model.graph.outputs)
    for value, declared in zip(values, (*program.inputs, *program.outputs), strict=True):
        value.shape = ir.Shape(
            [sizes.get(d, d) if isinstance(d, str) else d for d in declared.shape]
        )


def fixed_sizes(spec: Spec) -> dict[str, int]:
    """Sizes of the named dimensions that ``spec`` fixes."""
    sizes = {}
    if spec.shapes.batch is not None:
        sizes["batch"] = spec.shapes.batch
    if len(spec.shapes.lengths) == 1:
        sizes["sequence"] = spec.shapes.lengths[0]
    return sizes


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the user cannot act on: missing torchvision, deprecations inside torch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
