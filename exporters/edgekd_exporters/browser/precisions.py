"""The ladder of the browser: every precision, and the file that transformers.js looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "dynamic", "static", "blocks", "half"]
Calibration = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True)
class Precision:
    """One rung.

    ``dtype`` is transformers.js's name and decides the file's. ``tolerance``: relative error with
    which a bundle may leave, against torch for float and against the float bundle for the others;
    ``repeats``: the same when a shipped bundle runs again. ``bits`` is the weights' width.
    """

    kind: Kind
    dtype: Literal["fp32", "fp16", "q8", "q4"]
    summary: str
    tolerance: float
    repeats: float
    bits: int = 32
    fused: bool = False  # attention as one com.microsoft node
    calibration: Calibration | None = None  # wants rows
    device: Literal["wasm", "webgpu"] = "wasm"  # where a page should run it

    @property
    def file(self) -> str:
        """Where transformers.js looks for the model."""
        suffix = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4"}[self.dtype]
        return f"onnx/model{suffix}.onnx"


def _dynamic(summary: str, bits: int, fused: bool = False) -> Precision:
    return Precision("dynamic", "q8", summary, 0.5, 0.05, bits, fused)


def _static(method: Calibration) -> Precision:
    summary = f"int8 with activation ranges from calibration rows ({method})"
    return Precision("static", "q8", summary, 0.5, 0.05, 7, calibration=method)


# Seven bits in eight: the same numbers from every engine. Relaxed SIMD's dot product takes its
# second operand as 7 bits (WebAssembly relaxed-simd, i32x4.relaxed_dot_i8x16_i7x16_add), and so
# does onnxruntime-node on x86 without VNNI; today's onnxruntime-web widens and is exact with 8.
PRECISIONS = {
    "fp32": Precision("float", "fp32", "float, standard operators", 1e-4, 1e-4),
    "fp32-fused": Precision("float", "fp32", "float, attention fused", 1e-4, 1e-4, fused=True),
    "int8": _dynamic("int8 with activation ranges at run time, weights of 7 bits", 7),
    "int8-fused": _dynamic("the same, attention fused", 7, fused=True),
    "int8-full": _dynamic("int8 with activation ranges at run time, weights of 8 bits", 8),
    "int8-static": _static("minmax"),
    "int8-static-percentile": _static("percentile"),
    "int8-static-entropy": _static("entropy"),
    "int4-weights": Precision("blocks", "q4", "4-bit weights in blocks", 1.0, 0.05, 4),
    "fp16": Precision(
        "half", "fp16", "half precision, for WebGPU", 2e-2, 2e-2, 16, device="webgpu"
    ),
}
