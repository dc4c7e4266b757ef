"""Every ONNX artifact that optimum-onnx makes of a student; runs in its own environment.

Its fp32 export, and on that export and on what its optimizer made of it at each level: dynamic int8
with each of its presets, and static QDQ with each calibration, per channel and per tensor. What the
optimizer wrote gets the types of its values named first: the quantizer asks for those of what fused
operators give, which ONNX's shape inference does not know, nor onnxruntime's symbolic one for BERT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import produce
from datasets import Dataset
from onnxruntime.quantization import calibrate
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import (
    AutoCalibrationConfig,
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    OptimizationConfig,
)

PRESETS = ("avx512_vnni", "avx512", "avx2", "arm64")
CALIBRATIONS = ("minmax", "percentiles", "entropy")
TYPES = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(int32)": onnx.TensorProto.INT32,
    "tensor(bool)": onnx.TensorProto.BOOL,
}
# Its three levels for a CPU, everything that onnxruntime itself has, and the fusions that are
# specific to transformers without the one of attention.
LEVELS: dict[str, Callable[[], OptimizationConfig]] = {
    "O1": AutoOptimizationConfig.O1,
    "O2": AutoOptimizationConfig.O2,
    "O3": AutoOptimizationConfig.O3,
    "all": partial(OptimizationConfig, 99, enable_transformers_specific_optimizations=False),
    "apart": partial(OptimizationConfig, 2, disable_attention_fusion=True),
}


def main() -> None:
    job = produce.arguments(__doc__.splitlines()[0])
    scratch = job.out / "scratch"
    _histograms_in_double()

    @cache
    def exported() -> Path:
        folder = scratch / "export"
        main_export(str(job.student), output=folder, task=job.task, do_validation=False)
        return folder

    @cache
    def optimized(level: str) -> Path:
        folder = scratch / level
        optimizer = ORTOptimizer.from_pretrained(exported(), file_names=["model.onnx"])
        optimizer.optimize(LEVELS[level](), folder, file_suffix="")
        _name_types(folder / "model.onnx")
        return folder

    recipes: dict[str, Callable[[Path], Path]] = {"fp32": lambda _: exported() / "model.onnx"}
    bases: dict[str, Callable[[], Path]] = {"": exported}
    for level in LEVELS:
        bases[f"-{level}"] = partial(optimized, level)
    for suffix, base in bases.items():
        for channels in (True, False):
            ending = f"{'channel' if channels else 'tensor'}{suffix}"
            for preset in PRESETS:
                recipes[f"dynamic-{preset}-{ending}"] = partial(dynamic, base, preset, channels)
            for method in CALIBRATIONS:
                recipes[f"static-{method}-{ending}"] = partial(static, base, method, channels, job)
    produce.produce(job, recipes)


def _name_types(file: Path) -> None:
    """Write down the type of every value as onnxruntime sees it, having loaded the graph."""
    model = onnx.load(file)
    known = {value.name for value in (*model.graph.output, *model.graph.value_info)}
    names = [n for node in model.graph.node for n in node.output if n and n not in known]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for value in session.get_outputs():
        if value.name in names:
            kind = TYPES[value.type]
            found = onnx.helper.make_tensor_value_info(value.name, kind, value.shape)
            model.graph.value_info.append(found)
    onnx.save(model, file)


def _histograms_in_double() -> None:
    """numpy 2 refuses float32 bins that are closer than the type resolves, or whose range overflows
    it, and onnxruntime's calibrators ask for those: of nearly constant activations, and of a mask
    that is -3e38 throughout. Counted in float64 they exist."""
    counted = np.histogram

    def histogram(values: Any, bins: Any, range: Any = None) -> Any:
        values = np.asarray(values, np.float64)
        if range is not None:
            range = tuple(map(float, range))
        elif np.ndim(bins) == 0 and values.size and values.min() == values.max():
            # The half unit that numpy puts on each side of a constant adds nothing to -3e38.
            width = max(0.5, abs(float(values.flat[0])) * 1e-3)
            range = (values.min() - width, values.max() + width)
        counts, edges = counted(values, bins, range)
        return counts, edges.astype(np.float32)

    calibrate.np.histogram = histogram


def dynamic(base: Callable[[], Path], preset: str, channels: bool, folder: Path) -> Path:
    config = getattr(AutoQuantizationConfig, preset)(is_static=False, per_channel=channels)
    ORTQuantizer.from_pretrained(base(), file_name="model.onnx").quantize(
        quantization_config=config, save_dir=folder
    )
    return folder / "model_quantized.onnx"


def static(
    base: Callable[[], Path], method: str, channels: bool, job: produce.Job, folder: Path
) -> Path:
    names = produce.inputs(base() / "model.onnx")
    feeds = produce.fitting(job.calibration if method == "minmax" else job.even, names)
    data = Dataset.from_list([{k: v[0].tolist() for k, v in feed.items()} for feed in feeds])
    config: Any = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=channels)
    quantizer = ORTQuantizer.from_pretrained(base(), file_name="model.onnx")
    ranges = quantizer.fit(
        data,
        getattr(AutoCalibrationConfig, method)(data),
        onnx_augmented_model_name=folder / "augmented.onnx",
        operators_to_quantize=config.operators_to_quantize,
    )
    quantizer.quantize(
        quantization_config=config, save_dir=folder, calibration_tensors_range=ranges
    )
    return folder / "model_quantized.onnx"


if __name__ == "__main__":
    main()
