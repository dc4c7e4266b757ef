"""W8A8: ranges of activations, taken by running real rows through the reference interpreter.

coremltools calibrates by running the model on a Mac. The interpreter runs the same program
here, op by op, so the statistics that its quantize/dequantize pass wants are simply recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.preprocess import Row
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.quiet import coremltools
from edgekd_exporters.coreml.session import pixel_scale, threads, to_pixels

QUANTIZED = ("linear", "conv")
_LARGEST = 6e4  # coremltools keeps the ranges in fp16


def quantized(model: Any, bundle: Bundle, calibration: Sequence[Row], weights: set[str]) -> Any:
    """Insert quantize/dequantize pairs around the ops whose weight is in ``weights``."""
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    from edgekd_exporters.coreml.compress import apply_passes
    from edgekd_exporters.coreml.interpreter import compile_function

    if not calibration:
        raise InputError(
            "8-bit activations need calibration rows; give some (export: --select, quantize: --data)"
        )
    cto = coremltools().optimize.coreml
    program = Package(Path(model.package_path), model.get_spec()).program()
    function = next(iter(program.functions.values()))
    chosen = [
        op.name
        for op in function.operations
        if op.op_type in QUANTIZED and op.inputs["weight"].op.name in weights
    ]
    executable = compile_function(function, half=False)
    with threads(1):
        ranges = observe(executable, _feeds(bundle, calibration))
    settings = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    config = cto.OptimizationConfig(op_name_configs=dict.fromkeys(chosen, settings))
    passes = []
    for name in PASSES:
        insert = PASS_REGISTRY[name]
        insert.set_options([PassOption("config", config), PassOption("activation_stats", ranges)])
        passes.append(insert)
    passes.append(PASS_REGISTRY["common::dequantize_quantize_pair_elimination"])
    return apply_passes(model, passes)


PASSES = ("compression::insert_prefix_quantize_dequantize_pair",)


def observe(
    executable: Any, feeds: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Least and greatest value of every float variable over the rows."""
    ranges: dict[str, dict[str, float]] = {}

    def see(name: str, value: Any) -> None:
        if not value.is_floating_point() or not value.numel():
            return
        low, high = (float(v) for v in value.aminmax())
        seen = ranges.setdefault(name, {"rmin": low, "rmax": high})
        seen["rmin"] = max(min(seen["rmin"], low), -_LARGEST)
        seen["rmax"] = min(max(seen["rmax"], high), _LARGEST)

    for arrays in feeds:
        import torch

        for name, array in arrays.items():
            see(name, torch.from_numpy(array))
        for step, values in executable.trace(arrays):
            for name, value in zip(step.outputs, values, strict=True):
                see(name, value)
    return ranges


def _feeds(bundle: Bundle, rows: Sequence[Row]) -> Iterable[dict[str, np.ndarray]]:
    scale = pixel_scale(bundle.manifest)
    for arrays in bundle.encode_each(rows):
        if scale is not None:
            yield {name: to_pixels(value, *scale) for name, value in arrays.items()}
        else:
            yield arrays
