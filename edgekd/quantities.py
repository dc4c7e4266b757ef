"""Sizes, shares and durations as users write them, for recipes, profiles and options."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(value: Any) -> int:
    """``6 MB`` -> 6,000,000; ``6 MiB`` -> 6,291,456; a bare number is bytes."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([kmg]?i?b)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a size; write it as 6 MB")
    return round(float(match[1]) * _UNITS[match[2] or "b"])


def parse_share(value: Any) -> float:
    """``98.5%`` -> 0.985."""
    text = str(value).strip()
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"'{value}' is not a share; write it as 98.5% or 0.985") from None


def parse_parameters(value: Any) -> float:
    """``12%`` -> 0.12, a share of the teacher's; ``2M`` -> 2,000,000 parameters."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([km%]?)\s*", str(value).lower().replace(",", ""))
    if not match or (match[2] == "%" and float(match[1]) > 100):
        raise ValueError(f"'{value}' is neither a share nor a number; write it as 12% or 2M")
    return float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "%": 0.01}[match[2]]


def parse_milliseconds(value: Any) -> float:
    """``5 ms`` -> 5.0; ``0.5 s`` -> 500.0."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(ms|s)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a duration; write it as 5 ms")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def parse_seconds(value: Any) -> float:
    """``30 min`` -> 1800.0; a bare number is seconds."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(s|min|h)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a duration; write it as 30 min")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2] or "s"]


def parse_factor(value: Any) -> float:
    """``5x`` -> 5.0."""
    try:
        return float(str(value).strip().lower().removesuffix("x").removesuffix("×"))
    except ValueError:
        raise ValueError(f"'{value}' is not a factor; write it as 5x") from None


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Share = Annotated[float, BeforeValidator(parse_share), Field(ge=0)]
Milliseconds = Annotated[float, BeforeValidator(parse_milliseconds), Field(gt=0)]
Factor = Annotated[float, BeforeValidator(parse_factor), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]
Parameters = Annotated[float, BeforeValidator(parse_parameters), Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
