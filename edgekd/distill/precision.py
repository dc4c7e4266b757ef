"""Whether this hardware multiplies in bfloat16 itself, and what a recipe's ``precision`` means here."""

from __future__ import annotations

import torch

from edgekd.errors import InputError

# Of torch.cpu.get_capabilities(): x86 with AVX-512 or AMX, Arm with its bf16 instructions.
CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def has_bf16() -> bool:
    """Whether the device that trains has bf16 units; emulation is slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(flag) for flag in CPU_FLAGS)


def in_bf16(precision: str) -> bool:
    """Whether to train in bf16; raises :class:`InputError` where it is asked for and not there."""
    if precision == "bf16" and not has_bf16():
        raise InputError(
            "precision: bf16 needs a GPU with bf16, or a processor with AVX512_BF16, AMX or Arm's"
            " bf16, and this machine has none; use fp32, or auto to take bf16 where it is there"
        )
    return precision != "fp32" and has_bf16()
