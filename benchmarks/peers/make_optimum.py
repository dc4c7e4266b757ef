"""Every ONNX artifact that optimum-onnx makes of a student; runs in its own environment.

Its fp32 export, and on that export and on the one its optimizer fused: dynamic int8 with each of
its presets, and static QDQ with each calibration, per channel and per tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import produce
from datasets import Dataset
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import (
    AutoCalibrationConfig,
    AutoQuantizationConfig,
    OptimizationConfig,
)

PRESETS = ("avx512_vnni", "avx512", "avx2", "arm64")
CALIBRATIONS = ("minmax", "percentiles", "entropy")


def main() -> None:
    job = produce.arguments(__doc__.splitlines()[0])
    scratch = job.out / "scratch"

    @cache
    def exported() -> Path:
        folder = scratch / "export"
        main_export(str(job.student), output=folder, task=job.task, do_validation=False)
        return folder

    @cache
    def fused() -> Path:
        folder = scratch / "fused"
        optimizer = ORTOptimizer.from_pretrained(exported(), file_names=["model.onnx"])
        optimizer.optimize(OptimizationConfig(optimization_level=2), folder, file_suffix="")
        return folder

    recipes: dict[str, Callable[[Path], Path]] = {
        "fp32": lambda _: exported() / "model.onnx",
        "fp32-fused": lambda _: fused() / "model.onnx",
    }
    for suffix, base in (("", exported), ("-fused", fused)):
        for channels in (True, False):
            ending = f"{'channel' if channels else 'tensor'}{suffix}"
            for preset in PRESETS:
                recipes[f"dynamic-{preset}-{ending}"] = partial(dynamic, base, preset, channels)
            for method in CALIBRATIONS:
                recipes[f"static-{method}-{ending}"] = partial(static, base, method, channels, job)
    produce.produce(job, recipes)


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
