"""The machine that a number belongs to, with nothing that names its owner.

No host name, user or path is recorded. Two environments are comparable when their fingerprints
are equal; stored milliseconds mean something only then.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Instruction sets that change which kernels a runtime picks.
_SIMD = frozenset(
    [
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimdhp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
    ]
)
_LIBRARIES = ("numpy", "onnxruntime", "coremltools", "tokenizers", "playwright")
_COMPARABLE = ("cpu", "flags", "cores", "quota", "os", "architecture", "python", "libraries")


def describe() -> dict[str, Any]:
    """The fingerprint and the state of this machine, as JSON."""
    model, flags = _cpu()
    return {
        "cpu": model,
        "flags": flags,
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "quota": _quota(),
        "os": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "libraries": _versions(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def comparable(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Names of the fingerprint's fields that differ; empty where numbers may be compared."""
    return [name for name in _COMPARABLE if left.get(name) != right.get(name)]


def cpu_ticks() -> tuple[int, int] | None:
    """(all, stolen) clock ticks since boot over all CPUs; None where the kernel does not say."""
    line = (_read("/proc/stat") or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None
    ticks = [int(value) for value in line[1:9]]
    return sum(ticks), ticks[7]


def steal_percent(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Share of CPU time, in percent, that the hypervisor gave to others between two readings."""
    if before is None or after is None or after[0] <= before[0]:
        return None
    return round(100 * (after[1] - before[1]) / (after[0] - before[0]), 2)


def energy_joules() -> float | None:
    """Joules counted by the packages' RAPL counters so far; None where none can be read."""
    total = None
    for counter in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj")):
        text = _read(counter)
        if text and counter.parent.name.count(":") == 1:
            total = (total or 0.0) + int(text) / 1e6
    return total


def _cpu() -> tuple[str, list[str]]:
    text = _read("/proc/cpuinfo") or ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    flags = (fields.get("flags") or fields.get("features") or "").split()
    model = fields.get("model name") or fields.get("hardware") or platform.processor()
    if not fields.get("model name") and "cpu part" in fields:  # Arm names parts by number
        model = f"implementer {fields.get('cpu implementer')} part {fields['cpu part']}"
    return model or "unknown", sorted(_SIMD.intersection(flags))


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _quota() -> float | None:
    """CPUs that the control group allows, or None without a limit."""
    words = (_read("/sys/fs/cgroup/cpu.max") or "max").split()
    return None if words[0] == "max" else round(int(words[0]) / int(words[1]), 2)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


SINCE_IMPORTS = "the kernel's high-water mark, reset after the imports, above what was held then"

if sys.platform == "linux":
    LIFETIME_MARK = (
        "the process's lifetime high-water mark (VmHWM, which this kernel does not reset) above"
        " what was held after the imports: too much where importing needed more"
    )

    def reset_peak() -> bool:
        """Forget this process's high-water mark of memory; False where the kernel refuses."""
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True

    def memory_bytes(field: str) -> int:
        """``VmRSS`` or ``VmHWM`` (the high-water mark) of this process, in bytes."""
        for line in (_read("/proc/self/status") or "").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {field}")

else:
    LIFETIME_MARK = (
        "growth of the process's lifetime high-water mark (ru_maxrss) since the imports: too little"
        " where importing needed more than it kept"
    )

    def reset_peak() -> bool:
        return False

    def memory_bytes(field: str) -> int:
        """The lifetime high-water mark: bytes on macOS, the only other system that is measured."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
