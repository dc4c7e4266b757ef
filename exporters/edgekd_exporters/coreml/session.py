"""Run a Core ML bundle: through the reference interpreter anywhere, through Core ML on a Mac."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd.bundle import Bundle, Manifest
from edgekd.errors import InputError, VerificationError
from edgekd.exporter import Runtime
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.quiet import coremltools, quiet

MODULES = "modules.json"


class ReferenceSession:
    """The package's MIL program, executed op by op. Says what the numbers are, not how fast.

    The option ``precision`` is ``program`` (the default: results are rounded to fp16 where the
    program says fp16) or ``fp32`` (nothing is rounded).
    """

    kind: Literal["native", "reference"] = "reference"

    def __init__(self, bundle: Bundle, runtime: Runtime | None = None) -> None:
        from edgekd_exporters.coreml.interpreter import compile_function

        runtime = runtime or Runtime()
        self._precision = runtime.options.get("precision", "program")
        if self._precision not in ("program", "fp32"):
            raise InputError(
                f"the reference interpreter's precision is 'program' or 'fp32', not"
                f" {self._precision!r}"
            )
        self._threads = runtime.threads
        self._manifest = bundle.manifest
        self._package = Package.open(package_path(bundle))
        self._modules = read_modules(bundle.path)
        self._shapes = self._package.allowed_shapes()
        program = self._package.program()
        function = next(iter(program.functions.values()))
        half = self._precision == "program"
        self._executable = compile_function(function, half, self._modules)
        self._pixels = pixel_scale(bundle.manifest)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = self.model_feeds(feeds)
        with threads(self._threads):
            values = self._executable.run(feeds)
            outputs = named_outputs(self._manifest, self._package.spec.description, values)
            self._refuse_non_finite(outputs, feeds)
        return outputs

    def model_feeds(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the package itself is fed: checked shapes, and pixels where it takes an image."""
        for name, allowed in self._shapes.items():
            if name in feeds:
                _check_shape(name, feeds[name].shape, allowed)
        if self._pixels is None:
            return dict(feeds)
        return {name: to_pixels(value, *self._pixels) for name, value in feeds.items()}

    def _refuse_non_finite(
        self, outputs: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]
    ) -> None:
        bad = next((name for name, v in outputs.items() if not np.isfinite(v).all()), None)
        if bad is None:
            return
        from edgekd_exporters.coreml.guards import first_non_finite

        found = first_non_finite(self._executable, [feeds], self._modules)
        raise VerificationError(
            f"{self._package.path}: output '{bad}' is not finite; {found.message if found else ''}"
        )

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "runtime": "edgekd reference interpreter",
            "version": torch.__version__,
            "coremltools": coremltools().__version__,
            "precision": self._precision,
            "threads": self._threads,
        }

    def close(self) -> None:
        """Nothing to release."""


class NativeSession:
    """Core ML itself, on a Mac. The option ``compute_units`` is ALL, CPU_ONLY, CPU_AND_GPU or
    CPU_AND_NE."""

    kind: Literal["native", "reference"] = "native"

    def __init__(self, bundle: Bundle, runtime: Runtime | None = None) -> None:
        ct = coremltools()
        runtime = runtime or Runtime()
        self._units = runtime.options.get("compute_units", "ALL")
        known = [unit.name for unit in ct.ComputeUnit]
        if self._units not in known:
            raise InputError(f"unknown compute units {self._units!r}; they are {', '.join(known)}")
        self._manifest = bundle.manifest
        self._package = Package.open(package_path(bundle))
        with quiet():
            self._model = ct.models.MLModel(
                str(self._package.path), compute_units=ct.ComputeUnit[self._units]
            )
        self._pixels = pixel_scale(bundle.manifest)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given: dict[str, Any] = dict(feeds)
        if self._pixels is not None:
            from PIL import Image

            for name, value in feeds.items():
                pixels = to_pixels(value, *self._pixels)[0].astype(np.uint8)
                given[name] = Image.fromarray(
                    pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
                )
        return named_outputs(
            self._manifest, self._package.spec.description, self._model.predict(given)
        )

    def describe(self) -> dict[str, Any]:
        import platform

        return {
            "runtime": "Core ML",
            "version": platform.mac_ver()[0],
            "machine": platform.machine(),
            "compute_units": self._units,
        }

    def close(self) -> None:
        del self._model


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch's kernels on ``count`` threads; the setting is the process's, so put it back."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_session(bundle: Bundle, runtime: Runtime | None) -> ReferenceSession | NativeSession:
    """Core ML on a Mac unless the option ``reference`` asks for the interpreter."""
    runtime = runtime or Runtime()
    if sys.platform == "darwin" and not runtime.options.get("reference"):
        return NativeSession(bundle, runtime)
    return ReferenceSession(bundle, runtime)


def package_path(bundle: Bundle) -> Path:
    return bundle.path / bundle.manifest.model_files[0]


def read_modules(folder: Path) -> dict[str, str]:
    """The module path of each op and weight, as the export noted it; empty where it did not."""
    import json

    file = folder / MODULES
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def pixel_scale(manifest: Manifest) -> tuple[np.ndarray, np.ndarray] | None:
    """(gain, shift) of the bundle's pixel normalisation, where the package takes an image."""
    if not manifest.runtime.get("image"):
        return None
    values = manifest.preprocess
    std = np.asarray(values["std"], np.float32)
    gain = (np.float32(values["scale"]) / std).reshape(1, -1, 1, 1)
    return gain, (-np.asarray(values["mean"], np.float32) / std).reshape(1, -1, 1, 1)


def to_pixels(normalised: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Undo the encoder's normalisation: whole values of 0 to 255, what a camera would give."""
    return np.clip(np.rint((normalised - shift) / gain), 0, 255).astype(np.float32)


def named_outputs(
    manifest: Manifest, description: Any, values: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The manifest's outputs, from what the package answers.

    A classifier answers with a label and a dictionary of probabilities; ``probabilities`` is that
    dictionary in the order of the manifest's labels.
    """
    outputs = {}
    for spec in manifest.outputs:
        value = values.get(spec.name)
        if value is None and description.predictedProbabilitiesName:
            value = values[description.predictedProbabilitiesName]
            if isinstance(value, Mapping):
                value = np.array([[value[label] for label in manifest.labels]])
        if value is None:
            raise InputError(
                f"the package has no output '{spec.name}'; it answers with {', '.join(values)}"
            )
        array = np.asarray(value)
        outputs[spec.name] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return outputs


def _check_shape(name: str, shape: tuple[int, ...], allowed: list[list[tuple[int, int]]]) -> None:
    for option in allowed:
        if len(option) == len(shape) and all(
            low <= size and (size <= high or high < 0)
            for size, (low, high) in zip(shape, option, strict=True)
        ):
            return
    described = " or ".join(
        "x".join(str(low) if low == high else f"{low}..{high}" for low, high in option)
        for option in allowed
    )
    raise InputError(
        f"input '{name}' has shape {'x'.join(map(str, shape))}, the package takes {described}"
    )
