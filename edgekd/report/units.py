"""Numbers as people read them: three digits that mean something, and always the unit.

Sizes are decimal (1 MB = 1,000,000 bytes), as stores and download pages count them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import floor, log10
from typing import Any

MISSING = "–"


def size(value: float | None) -> str:
    """Bytes: ``5.75 MB``."""
    if value is None:
        return MISSING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= scale:
            return f"{_three(value / scale)} {unit}"
    return f"{value:.0f} B"


def duration_ms(value: float | None) -> str:
    """Milliseconds: ``1.24 ms``, ``850 µs``, ``2.31 s``."""
    if value is None:
        return MISSING
    if value >= 1000:
        return f"{_three(value / 1000)} s"
    if 0 < value < 0.1:
        return f"{_three(value * 1000)} µs"
    return f"{_three(value)} ms"


def seconds(value: float | None) -> str:
    """Seconds of work: ``0.4 s``, ``2 min 05 s``, ``1 h 20 min``."""
    if value is None:
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(value: float | None, digits: int = 1) -> str:
    """A share or ratio: ``99.4 %``."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of two shares, in percentage points and with its sign: ``+0.3 points``."""
    return MISSING if value is None else f"{100 * value:+.{digits}f} points".replace("-", "−")


def times(value: float | None) -> str:
    """A factor: ``5.8×``."""
    return MISSING if value is None else f"{_three(value, 2)}×"


def count(value: float | None) -> str:
    """A count: ``3,080``, ``22.7 M``."""
    if value is None:
        return MISSING
    if abs(value) >= 1e9:
        return f"{_three(value / 1e9)} G"
    if abs(value) >= 1e6:
        return f"{_three(value / 1e6)} M"
    return f"{value:,.0f}"


def number(value: float | None) -> str:
    """A metric that is not a share (perplexity, correlation): ``0.847``."""
    return MISSING if value is None else _three(value).replace("-", "−")


def setting(value: Any) -> str:
    """A hyper-parameter or a section of a recipe: ``0.00031``, ``softened_kl``, ``layers 0, 5``."""
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {setting(item)}" for key, item in value.items()) or "none given"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short(text: str) -> str:
    """Drop zeros that say nothing, for limits and axes: ``6.00 MB`` becomes ``6 MB``."""
    return re.sub(r"(?:(\.\d*?[1-9])|\.)0+(?=\D|$)", r"\1", text)


def span(low: str, high: str, dash: str = "–") -> str:
    """Two printed numbers with the unit once where it is the same: ``1.37–1.47 ms``."""
    number, _, unit = low.rpartition(" ")
    return f"{number if unit and high.endswith(unit) else low}{dash}{high}"


def _three(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, never in exponent form, whole numbers kept whole."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:,.{decimals}f}"
