"""Apply a precision plan to a float graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.exporter import Plan
from edgekd.preprocess import Row
from edgekd_exporters.onnx import dynamic
from edgekd_exporters.onnx.cpu import int8_kernels
from edgekd_exporters.onnx.lower import tidy
from edgekd_exporters.onnx.weights import PlanReader, weighted


def apply(
    model: ir.Model, bundle: Bundle, plan: Plan, calibration: Sequence[Row]
) -> dict[str, Any]:
    """Compress ``model`` in place by ``plan``; return what the manifest should say about it."""
    modules = [item.module for item in weighted(model)]
    reader = PlanReader(plan, modules)
    for name, precision in plan.overrides.items():
        if precision not in ("fp32", plan.default):
            raise InputError(
                f"group '{name}' asks for {precision} beside {plan.default};"
                " a plan mixes one precision with fp32"
            )
    kernels = int8_kernels()
    count = dynamic.apply(model, reader, kernels.weight_bits)
    if not count:
        raise InputError(
            f"{bundle.path} has nothing that {plan.default} applies to: no matrix or table"
            " is left; use fp32"
        )
    tidy(model)
    return {
        "compression": {
            "precision": plan.default,
            "kept": dict(plan.overrides),
            "weight_bits": kernels.weight_bits,
            "made_for": kernels.kind,
            "nodes": count,
        }
    }
