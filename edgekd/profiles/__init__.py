"""Target hardware and its budget: one YAML file each.

A profile ships with edgekd or lies beside the user's recipe (``my-kiosk.yaml``). Every hardware
figure carries its source; a figure without one is an error, not a footnote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekd import exporter
from edgekd.errors import InputError, nearest
from edgekd.quantities import Bytes
from edgekd.sections import Budget

__all__ = ["Figure", "Price", "Profile", "Runtime", "available", "here", "load"]

_SHIPPED = Path(__file__).parent
_REQUIRED = ("cpu", "memory")  # of hardware that is elsewhere: what a reader needs to judge it


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Section):
    """One fact about the hardware and where it was read."""

    value: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(pattern=r"^https?://\S+$")]


class Runtime(_Section):
    """How a session runs on the hardware; ``affinity`` lists the CPUs it is pinned to."""

    threads: Annotated[int, Field(ge=1)] = 1
    spinning: bool = False
    affinity: tuple[int, ...] | None = None
    options: dict[str, Any] = {}

    def for_session(self) -> exporter.Runtime:
        """As an exporter opens a bundle with it; pinning is the process's matter."""
        return exporter.Runtime(self.threads, self.spinning, self.options)


class Price(_Section):
    """What an hour of the hardware costs: the only ground for a cost per inference."""

    per_hour: Annotated[float, Field(gt=0)]
    currency: str = "USD"
    of: Annotated[str, Field(min_length=1)]  # the machine that the price buys
    cores: Annotated[int, Field(ge=1)]
    source: Annotated[str, Field(pattern=r"^https?://\S+$")]


class Profile(_Section):
    """One target. ``where: host`` means that this machine is the hardware."""

    name: str
    title: str
    target: str  # the exporter whose bundles run here
    where: Literal["host", "elsewhere"]
    runtime: Runtime = Runtime()
    also: tuple[Runtime, ...] = ()  # settings that the bench tabulates beside ``runtime``
    memory_cap: Bytes | None = None
    budget: Budget = Budget()
    clients: tuple[Annotated[int, Field(ge=1)], ...] = ()  # concurrent clients to load it with
    price: Price | None = None
    hardware: dict[str, Figure] = {}
    device: str | None = None  # its name in the calibration table, where it has one

    @property
    def memory_cap_bytes(self) -> int | None:
        return self.memory_cap

    @model_validator(mode="after")
    def _complete(self) -> Profile:
        missing = [name for name in _REQUIRED if name not in self.hardware]
        if self.where == "elsewhere" and missing:
            raise ValueError(f"hardware has no figure '{missing[0]}'; give its value and source")
        return self


def available(beside: Path | None = None) -> dict[str, Path]:
    """Every profile by name: those shipped, and those in the folder ``beside``, which win."""
    shipped = {file.stem: file for file in sorted(_SHIPPED.glob("*.yaml"))}
    if beside is None or not beside.is_dir():
        return shipped
    own = {f.stem: f for f in sorted(beside.glob("*.yaml")) if _looks_like_profile(f)}
    return shipped | own


def load(name_or_path: str | Path, beside: Path | None = None) -> Profile:
    """Read and validate one profile, by name or by path.

    Raises :class:`InputError` for an unknown name, an unknown key, or a figure that is missing or
    has no source.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = available(beside)
        own = (beside or Path()) / f"{name_or_path}.yaml"
        if beside is not None and own.is_file():
            known[str(name_or_path)] = own  # even one that lacks a key: it is told which
        if str(name_or_path) not in known:
            raise InputError(
                f"unknown profile '{name_or_path}'{nearest(str(name_or_path), list(known))}; the"
                f" profiles are {', '.join(known)}, or give the path of a YAML file"
            )
        path = known[str(name_or_path)]
    elif not path.is_absolute() and beside is not None and not path.is_file():
        path = beside / path
    if not path.is_file():
        raise InputError(f"the profile {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a profile: it has to be a mapping with target and where")
    try:
        return Profile.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from error


def here(target: str) -> Profile:
    """This machine as hardware for ``target``: the shipped profile for that, or ``host``'s."""
    shipped = [load(name) for name in available()]
    mine = [p for p in shipped if p.where == "host" and p.target == target and not p.clients]
    return mine[0] if mine else load("host").model_copy(update={"target": target})


def _looks_like_profile(file: Path) -> bool:
    """Recipes lie in the same folder; only a profile says where its hardware is."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(values, dict) and {"target", "where"} <= values.keys()


def _first(error: ValidationError) -> str:
    """The first fault in one line: where, what, and for an unknown key the nearest known one."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        model: Any = Profile
        for part in fault["loc"][:-1]:
            field = getattr(model, "model_fields", {}).get(part)
            model = field.annotation if field is not None else Figure
        known = list(getattr(model, "model_fields", Figure.model_fields))
        return f"unknown key '{where}'{nearest(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"'{where}' is missing"
    if fault["loc"] and fault["loc"][-1] == "source":
        return f"'{where}' is not a source: give the address where the figure can be read"
    return f"'{where}': {fault['msg']}" if where else fault["msg"].removeprefix("Value error, ")
