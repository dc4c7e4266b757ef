"""Exact figures of a browser bundle, and its lint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.bundle import Bundle
from edgekd.exporter import Finding
from edgekd_exporters.browser.folder import CONFIG, PAGE, SETTINGS, SOUND, dtypes, read_config
from edgekd_exporters.browser.precisions import PRECISIONS

# Operator sets whose CPU kernels onnxruntime-web is built with; a custom library cannot be loaded.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_NEEDED = {
    "text-classification": ("tokenizer.json", "tokenizer_config.json"),
    "image-classification": ("preprocessor_config.json",),
    "audio-classification": ("preprocessor_config.json",),
}


@contextmanager
def as_onnx(bundle: Bundle) -> Iterator[Bundle]:
    """``bundle`` with its graph where the ONNX target's functions look for one."""
    from edgekd_exporters.onnx.files import MODEL

    graph = (bundle.path / bundle.manifest.model_files[0]).resolve()
    with tempfile.TemporaryDirectory(prefix="edgekd-graph-") as folder:
        (Path(folder) / MODEL).symlink_to(graph)
        yield Bundle(Path(folder), bundle.manifest)


def inspect(bundle: Bundle, length: int | None = None) -> dict[str, Any]:
    """The ONNX target's figures, and ``download_bytes``: what transformers.js fetches.

    ``macs`` is of one example of ``length`` tokens. The engine (onnxruntime-web, 14 MB) comes on
    top; a session's description has its exact bytes.
    """
    from edgekd_exporters.onnx import figures

    with as_onnx(bundle) as graph:
        found = figures.inspect(graph, length)
    del found["int8_kernels"]  # of this processor; a page runs WebAssembly's
    return {**found, "download_bytes": sum(_size(bundle.path / name) for name in fetched(bundle))}


def fetched(bundle: Bundle) -> tuple[str, ...]:
    """The files of the folder that transformers.js reads."""
    return (*bundle.manifest.model_files, CONFIG, *_NEEDED.get(bundle.manifest.task, ()))


def check(bundle: Bundle) -> list[Finding]:
    """Lint: files that transformers.js misses, what has no kernel, what a page is surprised by."""
    import onnx
    import onnx_ir as ir

    manifest = bundle.manifest
    graphs = [file for file, _ in dtypes(bundle).values()]
    wanted = dict.fromkeys((*fetched(bundle), *graphs, PAGE))
    missing = [name for name in wanted if not (bundle.path / name).is_file()]
    findings = [
        Finding("error", "the file is missing; export the bundle again", n) for n in missing
    ]
    if missing:
        return findings
    rung = PRECISIONS[manifest.precision]
    settings = read_config(bundle).get(SETTINGS, {})
    if settings.get("dtype") != rung.dtype:
        message = f"{SETTINGS} asks for dtype {settings.get('dtype')!r}, the model is {rung.dtype}"
        findings.append(Finding("error", message, CONFIG))
    for file in graphs:
        try:
            onnx.checker.check_model(str(bundle.path / file))
        except onnx.checker.ValidationError as error:
            reason = str(error).splitlines()[0]
            return [*findings, Finding("error", f"not a valid ONNX model: {reason}", file)]
        model = ir.load(bundle.path / file)
        for domain in sorted({n.domain for n in model.graph if n.domain not in _DOMAINS}):
            message = f"operators of {domain} need a custom library, which onnxruntime-web lacks"
            findings.append(Finding("error", message, file))
    file = manifest.model_files[0]
    if rung.device == "webgpu":
        message = (
            "fp16 has few WebAssembly kernels (most operators cast to fp32 and back): WebGPU only"
        )
        findings.append(Finding("warning", message, file))
    if rung.kind == "blocks":
        message = "no WebAssembly kernel multiplies packed weights fast: smaller, rarely faster"
        findings.append(Finding("note", message, file))
    if any(manifest.runtime.get("lengths", ())):
        message = "transformers.js pads to the longest text, not to these shapes: use dynamic ones"
        findings.append(Finding("warning", message, manifest.runtime["shapes"]))
    if manifest.task == "image-classification":
        message = "transformers.js resizes on a canvas: photos of other sizes get other pixels here"
        findings.append(Finding("note", message, "preprocessor_config.json"))
    if read_config(bundle)[SETTINGS].get("features") == "fbank":
        message = (
            "transformers.js alone fills up short sounds with another value than transformers did;"
            f" read them through {SOUND}, as the page does"
        )
        findings.append(Finding("note", message, SOUND))
    return findings


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
