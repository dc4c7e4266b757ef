"""A loaded ONNX bundle. Imports onnxruntime and numpy: neither torch, transformers nor onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency, nearest
from edgekd.exporter import Runtime
from edgekd_exporters.onnx.cpu import int8_kernels
from edgekd_exporters.onnx.tokenizer import library

# The values of the runtime option `provider`, and onnxruntime's names for them.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
# The build of onnxruntime that has a provider, where that is a package of its own.
_PACKAGES = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "rocm": "onnxruntime-rocm",
    "migraphx": "onnxruntime-migraphx",
    "openvino": "onnxruntime-openvino",
    "directml": "onnxruntime-directml",
    "webgpu": "onnxruntime-webgpu",
}


class OnnxSession:
    """onnxruntime, one graph at a time, with as many CPU threads as asked for."""

    kind: Literal["native", "reference"] = "native"

    def __init__(self, bundle: Bundle, runtime: Runtime | None = None) -> None:
        """Load ``bundle``.

        Of ``runtime.options`` ``provider`` is one of :data:`PROVIDERS` (what it does not take falls
        to the CPU); the others are onnxruntime session configuration entries
        (``session.dynamic_block_base``, …). Raises :class:`MissingDependency` without onnxruntime,
        or where this build or this machine lacks the provider, and :class:`InputError` for an
        unknown option or provider and where the file cannot be loaded.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency(
                "onnxruntime is not installed; run: pip install onnxruntime"
            ) from error
        runtime = runtime or Runtime()
        self._version = onnxruntime.__version__
        self._runtime = runtime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # A spinning pool burns the battery between requests and disturbs its neighbours.
        spin = "1" if runtime.spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spin)
        if bundle.manifest.runtime.get("extensions"):
            options.register_custom_ops_library(str(library()))
        entries = _entries(runtime.options)
        asked = provider(runtime.options)
        if asked not in onnxruntime.get_available_providers():
            raise _lacks(asked, self._version, onnxruntime.get_available_providers())
        for name, value in entries.items():
            options.add_session_config_entry(name, value)
        file = bundle.path / bundle.manifest.model_files[0]
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=list(dict.fromkeys((asked, PROVIDERS["cpu"])))
            )
        except Exception as error:  # onnxruntime raises classes of its C extension
            if isinstance(error, MemoryError):
                raise
            reason = str(error).splitlines()[0]
            raise InputError(
                f"onnxruntime {self._version} cannot load {file} ({reason}); export it again,"
                " or upgrade onnxruntime"
            ) from error
        if self._session.get_providers()[0] != asked:  # onnxruntime falls back in silence
            raise MissingDependency(
                f"onnxruntime {self._version} has {asked} and cannot start it here: its driver or"
                " its libraries are missing; install those, or run with provider: cpu"
            )
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = self._session.run(self._outputs, dict(feeds))
        return {
            name: value.astype(np.float32) if value.dtype == np.float16 else value
            for name, value in zip(self._outputs, values, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        return {
            "runtime": "onnxruntime",
            "version": self._version,
            "provider": self._session.get_providers()[0],
            "threads": self._runtime.threads,
            "spinning": self._runtime.spinning,
            "execution": "sequential",
            "options": dict(self._runtime.options),
            "int8_kernels": int8_kernels().kind,
        }

    def close(self) -> None:
        del self._session


def _entries(options: Mapping[str, Any]) -> dict[str, str]:
    """The session configuration entries among ``options``.

    onnxruntime takes any name and ignores what it does not know; all of its own have a dot.
    """
    for name in options:
        if name != "provider" and "." not in name:
            raise InputError(
                f"unknown runtime option '{name}'{nearest(name, ['provider'])}; onnx has provider"
                " and onnxruntime's session configuration entries, such as"
                " session.dynamic_block_base"
            )
    return {name: str(value) for name, value in options.items() if name != "provider"}


def provider(options: Mapping[str, Any]) -> str:
    """onnxruntime's name for the execution provider that runtime ``options`` ask for."""
    name = str(options.get("provider", "cpu")).lower()
    if name not in PROVIDERS:
        raise InputError(
            f"runtime option provider={name!r}{nearest(name, list(PROVIDERS))} is not one of"
            f" {', '.join(PROVIDERS)}"
        )
    return PROVIDERS[name]


def _lacks(asked: str, version: str, available: Sequence[str]) -> MissingDependency:
    short = next(name for name, value in PROVIDERS.items() if value == asked)
    package = _PACKAGES.get(short)
    command = f"run: pip install {package}" if package else "build it with that provider"
    return MissingDependency(
        f"this onnxruntime {version} has no {asked}, only {', '.join(available)}; {command}, or run"
        " with provider: cpu"
    )
