"""What a ``tune`` section may search: ranges and choices, each checked like the value it replaces.

.. code-block:: yaml

    space:
      temperature: {low: 1, high: 8, log: true}
      method: [softened_kl, dist]
      losses: [{}, {relation: 0.1}, {relation: 0.1, dist: 0.5}]
      student: [{layers: [0, 5]}, {layers: [0, 2, 5], vocabulary: trim}]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekd.errors import nearest


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; drawn evenly, or so on a log scale."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Choices:
    """A few values, each plain JSON."""

    values: tuple[Any, ...]


Space = Mapping[str, Range | Choices]


def parse(raw: Any, known: Mapping[str, TypeAdapter[Any]]) -> dict[str, Range | Choices]:
    """Read a space; ``known`` checks a value of each key that may be searched.

    Raises :class:`ValueError` with one line: the unknown key with the nearest valid one, an empty
    range, a value that the key cannot have.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError("name what is searched, as temperature: {low: 1, high: 8}")
    found: dict[str, Range | Choices] = {}
    for key, value in raw.items():
        if key not in known:
            raise ValueError(
                f"unknown key '{key}'{nearest(str(key), list(known))}; valid here:"
                f" {', '.join(known)}"
            )
        kind = known[key].json_schema().get("type")
        if isinstance(value, Mapping) and kind in ("number", "integer"):
            found[key] = _range(key, value, known[key], whole=kind == "integer")
        elif isinstance(value, list):
            found[key] = _choices(key, value, known[key])
        elif kind in ("number", "integer"):
            raise ValueError(f"{key}: write {{low: 1, high: 8}} or a list of values")
        else:
            raise ValueError(f"{key}: write a list of values to choose from")
    return found


def _range(key: str, value: Mapping[str, Any], adapter: TypeAdapter[Any], *, whole: bool) -> Range:
    names = ("low", "high", "log")
    for name in value:
        if name not in names:
            raise ValueError(
                f"{key}: unknown key '{name}'{nearest(str(name), names)}; a range has"
                f" {', '.join(names)}"
            )
    if "low" not in value or "high" not in value:
        raise ValueError(f"{key}: a range has low and high, as {{low: 1, high: 8}}")
    low, high = (_checked(key, value[name], adapter) for name in ("low", "high"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{key}: log is true or false")
    if not low < high:
        raise ValueError(f"{key}: the range is empty, low {low:g} is not below high {high:g}")
    if log and not low > 0:
        raise ValueError(f"{key}: a log range begins above 0, not at {low:g}")
    return Range(low, high, log, whole)


def _choices(key: str, values: list[Any], adapter: TypeAdapter[Any]) -> Choices:
    if not values:
        raise ValueError(f"{key}: there is nothing to choose from; list at least one value")
    checked = [plain(_checked(key, value, adapter)) for value in values]
    for i, value in enumerate(checked):
        if value in checked[:i]:
            raise ValueError(f"{key}: {values[i]} is listed twice")
    return Choices(tuple(checked))


def _checked(key: str, value: Any, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (key, *first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(f"unknown key '{where}' in {value!r}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {message} (got {value!r})") from error


def plain(value: Any) -> Any:
    """A section of the recipe, or sections by name, as plain JSON without what is the default."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value.model_dump(exclude_defaults=True) if hasattr(value, "model_dump") else value
