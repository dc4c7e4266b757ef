"""The ladder of the browser: every precision, and the file that transformers.js looks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgekd_exporters.onnx.precisions import Calibration, Rung

Dtype = Literal["fp32", "fp16", "q8", "q4", "q4f16"]


@dataclass(frozen=True)
class Precision(Rung):
    """``dtype`` is transformers.js's name and decides the file's; ``bits`` the weights' width."""

    dtype: Dtype = "fp32"
    bits: int = 32
    device: Literal["wasm", "webgpu"] = "wasm"  # where a page should run it

    @property
    def file(self) -> str:
        """Where transformers.js looks for the model."""
        suffix = {"fp32": "", "q8": "_quantized"}.get(self.dtype, f"_{self.dtype}")
        return f"onnx/model{suffix}.onnx"


def _dynamic(summary: str, bits: int, fused: bool = False) -> Precision:
    return Precision("dynamic", summary, 0.5, 0.05, fused, dtype="q8", bits=bits)


def _static(method: Calibration) -> Precision:
    summary = f"int8 with activation ranges from calibration rows ({method})"
    return Precision("static", summary, 0.5, 0.05, calibration=method, dtype="q8", bits=7)


def _blocks(summary: str, half: bool = False) -> Precision:
    """Tables in int8: the engine inside transformers.js looks nothing up in blocks."""
    dtype: Dtype = "q4f16" if half else "q4"
    made = Precision("blocks", summary, 1.0, 0.05, block_tables=False, dtype=dtype, bits=4)
    return replace(made, half=True, device="webgpu") if half else made


# Seven bits in eight: the same numbers from every engine. Relaxed SIMD's dot product takes its
# second operand as 7 bits (WebAssembly relaxed-simd, i32x4.relaxed_dot_i8x16_i7x16_add), and so
# does onnxruntime-node on x86 without VNNI; today's onnxruntime-web widens and is exact with 8.
PRECISIONS = {
    "fp32": Precision("float", "float, standard operators", 1e-4, 1e-4),
    "fp32-fused": Precision("float", "float, attention fused", 1e-4, 1e-4, fused=True),
    "int8": _dynamic("int8 with activation ranges at run time, weights of 7 bits", 7),
    "int8-fused": _dynamic("the same, attention fused", 7, fused=True),
    "int8-full": _dynamic("int8 with activation ranges at run time, weights of 8 bits", 8),
    "int8-static": _static("minmax"),
    "int8-static-percentile": _static("percentile"),
    "int8-static-entropy": _static("entropy"),
    "int4-weights": _blocks("4-bit weights in blocks"),
    "int4-weights-fp16": _blocks("the same, the rest in half precision, for WebGPU", half=True),
    "fp16": Precision(
        "half", "half precision, for WebGPU", 2e-2, 2e-2, dtype="fp16", bits=16, device="webgpu"
    ),
}
