"""The folder that transformers.js loads, and the page in it.

config.json                 labels, the family, and how to load it (``transformers.js_config``)
tokenizer.json, tokenizer_config.json      or preprocessor_config.json
onnx/model.onnx             fp32; model_quantized.onnx is q8, model_q4.onnx, model_q4f16.onnx and
                            model_fp16.onnx: one or several, of which config.json names the first
                            that was asked for
index.html                  a page with the model in it (``serve.py`` opens it)
sound.js                    how that page reads a sound, for models that listen
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.audio import AudioPreprocessor
from edgekd.bundle import Bundle
from edgekd.bundle import write as write_bundle
from edgekd.errors import InputError, nearest
from edgekd.publish import publish, staged
from edgekd_exporters.browser import packages
from edgekd_exporters.browser.precisions import PRECISIONS

if TYPE_CHECKING:
    from edgekd.program import Program

CONFIG, PAGE, SOUND = "config.json", "index.html", "sound.js"
SETTINGS = "transformers.js_config"
PAGES = Path(__file__).parent / "pages"
# The families that transformers.js's classifiers know by name. The graph is complete in itself,
# so another family loads under the first name and runs as it is.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "text-classification": (
        *("bert", "eurobert", "neobert", "modernbert", "roformer", "electra", "esm", "convbert"),
        *("camembert", "deberta", "deberta-v2", "mpnet", "albert", "distilbert", "roberta", "xlm"),
        *("xlm-roberta", "bart", "mbart", "mobilebert", "squeezebert"),
    ),
    "image-classification": (
        *("vit", "ijepa", "pvt", "vit_msn", "fastvit", "mobilevit", "mobilevitv2", "beit", "deit"),
        *("hiera", "convnext", "convnextv2", "dinov2", "dinov2_with_registers", "resnet", "swin"),
        *("segformer", "efficientnet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3"),
        "mobilenet_v4",
    ),
    "audio-classification": (
        *("audio-spectrogram-transformer", "wav2vec2", "unispeech", "unispeech-sat", "wavlm"),
        "hubert",
    ),
}
# onnxruntime-web inside the transformers package is another version than the one beside it.
NESTED = f"{packages.TRANSFORMERS}/node_modules/{packages.ORT}/dist"
_LIBRARY = f"{packages.TRANSFORMERS}/dist/transformers.web.min.js"
ENGINES = {
    "wasm": (f"{NESTED}/ort.wasm.min.mjs", "ort-wasm-simd-threaded"),
    "webgpu": (f"{NESTED}/ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"),
}


def config(program: Program) -> dict[str, Any]:
    """``config.json`` of a program in fp32.

    Raises :class:`InputError` for a task that transformers.js has no pipeline for here.
    """
    if program.task not in FAMILIES:
        raise InputError(
            f"the browser target knows {', '.join(FAMILIES)}, not {program.task}; export it to onnx"
        )
    family = getattr(getattr(program.module, "model", None), "config", None)
    name = getattr(family, "model_type", "")
    known = name in FAMILIES[program.task]
    settings: dict[str, Any] = {"task": program.task}
    if program.task == "image-classification":
        settings["channels"] = program.inputs[0].shape[1]
    if isinstance(program.preprocessor, AudioPreprocessor):
        settings |= _listening(program.preprocessor)
    return {
        "model_type": name if known else FAMILIES[program.task][0],
        "architectures": [
            str(program.provenance.get("architecture", type(program.module).__name__))
        ],
        "id2label": {str(i): label for i, label in enumerate(program.labels)},
        "label2id": {label: i for i, label in enumerate(program.labels)},
        "problem_type": "single_label_classification",
        SETTINGS: settings,
    }


def _listening(preprocessor: AudioPreprocessor) -> dict[str, Any]:
    """What ``sound.js`` needs; transformers.js alone pads as no model was trained."""
    if "attention_mask" in preprocessor.inputs:
        raise InputError(
            "transformers.js calls padding real sound, and this model reads an attention_mask;"
            " export it to onnx"
        )
    silence = -preprocessor.mean / (2 * preprocessor.std) if preprocessor.normalise else 0.0
    return {
        "features": preprocessor.features,
        "sampling_rate": preprocessor.sampling_rate,
        "samples": preprocessor.samples,
        "padding": silence,  # of a frame behind the sound
    }


def read_config(bundle: Bundle) -> dict[str, Any]:
    """The bundle's ``config.json``; :class:`InputError` where it is absent or unreadable."""
    file = bundle.path / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); export the bundle again") from error
    return values


def write(folder: Path, values: Mapping[str, Any], precision: str) -> None:
    """Write ``config.json`` and the page beside the model of one precision."""
    rung = PRECISIONS[precision]
    settings = {**values[SETTINGS], "dtype": rung.dtype, "device": rung.device}
    text = json.dumps({**values, SETTINGS: settings}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if settings["task"] == "audio-classification":
        shutil.copyfile(PAGES / SOUND, folder / SOUND)
    page = (PAGES / PAGE).read_text(encoding="utf-8")
    (folder / PAGE).write_text(page.replace("ENGINE", ENGINES[rung.device][0]), encoding="utf-8")


def combine(bundles: Sequence[Bundle], out: Path) -> Bundle:
    """The model files of several bundles of one model in a copy of the first's folder.

    Raises :class:`InputError` where two would be the same file.
    """
    first = bundles[0]
    found: dict[str, Bundle] = {}
    for bundle in bundles:
        dtype = bundle.manifest.runtime["dtype"]
        if dtype in found:
            raise InputError(
                f"{found[dtype].manifest.precision} and {bundle.manifest.precision} are both dtype"
                f" {dtype} to transformers.js, which is one file of a folder; name one of them"
            )
        found[dtype] = bundle
    with staged(out) as stage:
        shutil.copytree(first.path, stage, dirs_exist_ok=True)
        for bundle in bundles[1:]:
            for name in bundle.manifest.model_files:
                shutil.copyfile(bundle.path / name, stage / name)
        dtypes = {
            dtype: {
                "precision": bundle.manifest.precision,
                "file": bundle.manifest.model_files[0],
                "device": bundle.manifest.runtime["device"],
                "relative_error": bundle.manifest.provenance["relative_error"],
            }
            for dtype, bundle in found.items()
        }
        manifest = replace(
            first.manifest,
            variant="+".join(bundle.manifest.variant for bundle in bundles),
            runtime={**first.manifest.runtime, "dtypes": dtypes},
        )
        write_bundle(stage, manifest, first.preprocessor, *first.golden())
        return publish(stage, out)


def dtypes(bundle: Bundle) -> dict[str, tuple[str, str]]:
    """The file and the device of every ``dtype`` in the folder, the one it opens with first."""
    runtime = bundle.manifest.runtime
    several = runtime.get("dtypes", {})
    first = {runtime["dtype"]: (bundle.manifest.model_files[0], runtime["device"])}
    return first | {name: (entry["file"], entry["device"]) for name, entry in several.items()}


def file_of(bundle: Bundle, dtype: str | None) -> tuple[str, str]:
    """The file and the device of ``dtype``, by default the first's.

    Raises :class:`InputError` for one that is not in the folder.
    """
    known = dtypes(bundle)
    if dtype is None:
        return next(iter(known.values()))
    if dtype not in known:
        raise InputError(f"{bundle.path} has no dtype '{dtype}', {_adds(bundle, dtype)}")
    return known[dtype]


def _adds(bundle: Bundle, dtype: str) -> str:
    """Which dtypes a folder has, and how it would have this one as well."""
    known = dtypes(bundle)
    adds = next((name for name, rung in PRECISIONS.items() if rung.dtype == dtype), None)
    if adds is None:
        return f"only {', '.join(known)}{nearest(dtype, list(known))}; ask for one of those"
    several = bundle.manifest.runtime.get("dtypes", {}).values()
    have = [entry["precision"] for entry in several] or [bundle.manifest.precision]
    wanted = ",".join([*have, adds])
    return f"only {', '.join(known)}; export it again with --precision {wanted}"


def of_dtype(bundle: Bundle, dtype: str | None) -> Bundle:
    """``bundle`` as if the model of ``dtype`` were its only one; by default as it is.

    Raises :class:`InputError` for one that is not in the folder.
    """
    manifest = bundle.manifest
    file, device = file_of(bundle, dtype)
    if dtype is None or dtype == manifest.runtime["dtype"]:
        return bundle
    precision = manifest.runtime["dtypes"][dtype]["precision"]
    runtime = {**manifest.runtime, "dtype": dtype, "device": device}
    for of_the_first in ("dtypes", "compression"):
        runtime.pop(of_the_first, None)
    found = replace(manifest, precision=precision, model_files=(file,), runtime=runtime)
    return Bundle(bundle.path, found)


def site(bundle: Bundle) -> dict[str, Path]:
    """What a server has to show for the bundle's page to work."""
    return {"/": bundle.path, "/runtime/": packages.installed()}


def copy_site(bundle: Bundle, out: Path) -> None:
    """Write the bundle and the few runtime files that its page loads into the new folder ``out``.

    Any web server can show it; with the headers of ``serve.py`` it also has threads.
    """
    if out.exists():
        raise InputError(f"{out} exists already; name a new folder")
    modules = packages.installed()
    script, engine = ENGINES[PRECISIONS[bundle.manifest.precision].device]
    shutil.copytree(bundle.path, out)
    for name in (_LIBRARY, script, f"{NESTED}/{engine}.mjs", f"{NESTED}/{engine}.wasm"):
        (out / "runtime" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules / name, out / "runtime" / name)
