"""The machine that a benchmark's numbers belong to, in a line of its results' page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def machine_line(environments: Sequence[Mapping[str, Any] | None]) -> str:
    """``Machine: AMD EPYC …`` of what ``environment.describe()`` said at each measurement.

    ``not recorded`` where results were kept without it; all machines where there were several.
    """
    told = [each for each in environments if each]
    if not told:
        return "Machine: not recorded."
    machines = dict.fromkeys(
        f"{each['cpu']}, {each['usable_cores']} usable cores, {_int8(each['flags'])}, {each['os']}"
        for each in told
    )
    loads = [each["load"] for each in told if each.get("load") is not None]
    load = f"; load {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return f"Machine: {'; '.join(machines)}{load} (of one minute, at the measurements)."


def _int8(flags: Sequence[str]) -> str:
    vnni = [flag for flag in flags if "vnni" in flag]
    return f"VNNI ({', '.join(vnni)})" if vnni else "no VNNI"
