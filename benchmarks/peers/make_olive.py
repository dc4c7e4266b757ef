"""Every int8 and 4-bit ONNX artifact that Olive makes of a student; runs in its own environment.

Its conversion in fp32, and on that conversion and on the one its transformer optimizer fused:
dynamic int8, static QDQ with each calibration, and block-wise 4- and 8-bit weights.
"""

from __future__ import annotations

import os

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # read when olive is imported

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import produce
import torch
from olive.data.registry import Registry
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.conversion import OnnxConversion
from olive.passes.onnx.quantization import OnnxDynamicQuantization, OnnxStaticQuantization
from olive.passes.onnx.rtn_quantization import OnnxBlockWiseRtnQuantization
from olive.passes.onnx.transformer_optimization import OrtTransformersOptimization

CALIBRATIONS = ("MinMax", "Percentile", "Entropy")
FAMILIES = {
    "bert": "bert",
    "distilbert": "bert",
    "vit": "vit",
    "audio-spectrogram-transformer": "vit",
}  # its optimizer's model types


def main() -> None:
    job = produce.arguments(__doc__.splitlines()[0])
    student = HfModelHandler(str(job.student), task=job.task)
    scratch = job.out / "scratch"
    _register(job)

    @cache
    def exported() -> Any:
        example = {k: list(v.shape) for k, v in job.test[0].items()}
        return run(OnnxConversion, {}, _with_inputs(student, job, example), scratch / "export")

    @cache
    def fused() -> Any:
        config = student.get_hf_model_config()
        family = FAMILIES.get(config.model_type)
        settings = {
            "model_type": family,
            "num_heads": getattr(config, "num_attention_heads", 0),
            "hidden_size": getattr(config, "hidden_size", 0),
        }
        return run(OrtTransformersOptimization, settings, exported(), scratch / "fused")

    recipes: dict[str, Callable[[Path], Path]] = {
        "fp32": lambda _: Path(exported().model_path),
        "fp32-fused": lambda _: Path(fused().model_path),
    }
    for suffix, base in (("", exported), ("-fused", fused)):
        for channels in (True, False):
            ending = f"{'channel' if channels else 'tensor'}{suffix}"
            for kind in ("int8", "uint8"):
                recipes[f"dynamic-{kind}-{ending}"] = partial(
                    quantize,
                    OnnxDynamicQuantization,
                    {"precision": kind, "per_channel": channels},
                    base,
                )
            for method in CALIBRATIONS:
                recipes[f"static-{method.lower()}-{ending}"] = partial(
                    quantize,
                    OnnxStaticQuantization,
                    {
                        "calibrate_method": method,
                        "per_channel": channels,
                        "data_config": {
                            "name": "calibration",
                            "load_dataset_config": {"type": f"{method.lower()}_rows"},
                            "dataloader_config": {"type": "no_auto_batch_dataloader"},
                            "pre_process_data_config": {"type": "skip_pre_process"},
                            "post_process_data_config": {"type": "skip_post_process"},
                        },
                    },
                    base,
                )
        for bits in (8, 4):
            settings = {"bits": bits, "block_size": 32, "accuracy_level": 4}
            recipes[f"blocks-{bits}-bit{suffix}"] = partial(
                quantize, OnnxBlockWiseRtnQuantization, settings, base
            )
    produce.produce(job, recipes)


def run(kind: Any, settings: dict[str, Any], model: Any, folder: Path) -> Any:
    """One of Olive's passes over a model of its own."""
    return create_pass_from_dict(kind, settings, disable_search=True).run(model, str(folder))


def quantize(kind: Any, settings: dict[str, Any], base: Callable[[], Any], folder: Path) -> Path:
    source = ONNXModelHandler(base().model_path)
    return Path(run(kind, settings, source, folder / "out").model_path)


def _with_inputs(student: Any, job: produce.Job, example: dict[str, list[int]]) -> Any:
    """The student with its inputs named: Olive knows those of text models alone."""
    if "pixel_values" not in example and "input_values" not in example:
        return student
    name = next(iter(example))
    config = {
        "input_names": [name],
        "input_shapes": [example[name]],
        "input_types": ["float32"],
        "output_names": ["logits"],
        # Samples come in any number; images and filter banks are of one size.
        "dynamic_axes": {name: {"0": "batch"} | ({"1": "time"} if len(example[name]) == 2 else {})},
    }
    return HfModelHandler(str(job.student), task=job.task, io_config=config)


def _register(job: produce.Job) -> None:
    """The calibration rows of each method as a data set that Olive's configuration can name."""
    for method in CALIBRATIONS:
        feeds = job.calibration if method == "MinMax" else job.even
        tensors = [({k: torch.from_numpy(v) for k, v in feed.items()}, 0) for feed in feeds]
        Registry.register_dataset(f"{method.lower()}_rows")(lambda _kept=tensors, **_: _kept)


if __name__ == "__main__":
    main()
