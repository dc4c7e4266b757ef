"""Apply a precision plan to a float graph: one way for every target that ships ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan
from edgekd.preprocess import Row
from edgekd_exporters.onnx import blocks, dynamic, half, static
from edgekd_exporters.onnx.files import of_graph
from edgekd_exporters.onnx.passes import fuse_attention, half_vectors, short_names, tidy
from edgekd_exporters.onnx.precisions import Rung
from edgekd_exporters.onnx.weights import PlanReader, weighted


def apply(
    model: ir.Model, bundle: Bundle, plan: Plan, rung: Rung, bits: int, calibration: Sequence[Row]
) -> tuple[ir.Model, dict[str, Any]]:
    """Return ``model`` compressed by ``plan``, and what the manifest should say about it.

    ``rung`` is what the target calls ``plan.default``, with int8 or int4 weights of ``bits``.
    Raises :class:`InputError` where the plan names an unknown group, mixes precisions, needs
    calibration rows that are not there, or applies to nothing in this graph (a fused rung: has
    no attention to fuse).
    """
    chosen = PlanReader(plan, [item.module for item in weighted(model)]).compressed
    count = fuse_attention.apply(model) if rung.fused else 0
    if rung.fused and not count:
        plain = plan.default.removesuffix("-fused")
        raise InputError(f"{bundle.path} has no attention for {plan.default} to fuse; use {plain}")
    if rung.kind == "dynamic":
        count = dynamic.apply(model, chosen, bits)
    elif rung.kind == "static":
        assert rung.calibration is not None
        if not calibration:
            raise InputError(
                f"{plan.default} sets activation ranges from calibration rows and got none;"
                " give training rows (export: --select, quantize: --data), or use int8"
            )
        rows = list(of_graph(bundle).encode_each(calibration))
        tables = dynamic.apply(model, chosen, bits, kinds=("table",))
        model, count = static.apply(model, chosen, rows, rung.calibration, bits)
        count += tables
    elif rung.kind == "blocks":
        count = blocks.apply(model, chosen, bits, tables=rung.block_tables)
        if not rung.block_tables:
            count += dynamic.apply(model, chosen, kinds=("table",))
        if count and rung.half:
            model, _ = half.apply(model, chosen)
    elif rung.kind == "half":
        model, count = half.apply(model, chosen)
    if not count:
        raise InputError(f"{bundle.path} has nothing that {plan.default} applies to; use fp32")
    if rung.kind in ("dynamic", "static"):
        half_vectors.apply(model, chosen)
    tidy.apply(model)
    short_names.apply(model)
    compression: dict[str, Any] = {
        "precision": plan.default,
        "summary": rung.summary,
        "kept": dict(plan.overrides),
        "nodes": count,
    }
    if rung.kind in ("dynamic", "static", "blocks"):
        compression["weight_bits"] = bits
    return model, compression
