"""Which int8 matrix kernels this processor has: the numbers of an int8 bundle depend on it.

Without a dot-product instruction, x86 multiplies uint8 activations by int8 weights with
VPMADDUBSW, whose pairwise sums saturate at 16 bits. Weights of 7 bits cannot overflow it:
2 * 255 * 64 < 32768. (onnxruntime's quantization guide calls this ``reduce_range``.)
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Int8Kernels:
    """The int8 dot-product ``kind`` and whether it sums without saturating at 16 bits."""

    kind: str
    exact: bool

    @property
    def weight_bits(self) -> int:
        """Widest weights that cannot saturate: 8, or 7 where sums are kept in 16 bits."""
        return 8 if self.exact else 7


def int8_kernels(machine: str | None = None, flags: frozenset[str] | None = None) -> Int8Kernels:
    """Describe the kernels of ``machine`` with the CPU ``flags``; this computer's by default."""
    machine = (machine or platform.machine()).lower()
    if machine in ("arm64", "aarch64"):
        return Int8Kernels("arm-neon", exact=True)  # widening multiply-add or SDOT
    known = _flags() if flags is None else flags
    for flag, kind in (("avx512_vnni", "avx512-vnni"), ("avx_vnni", "avx-vnni")):
        if flag in known:
            return Int8Kernels(kind, exact=True)
    if "avx512bw" in known:
        return Int8Kernels("avx512-vpmaddubsw", exact=False)
    return Int8Kernels("avx2-vpmaddubsw" if "avx2" in known else "unknown", exact=False)


def _flags() -> frozenset[str]:
    """CPU flags as Linux lists them; empty elsewhere, which is the cautious answer."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
