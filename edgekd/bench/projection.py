"""From this machine's measurement to hardware that is elsewhere: a range, or the reason for none.

    projected = measured here x (calibration models there / the same models here)

A ratio holds within a family of models and a precision, and nowhere else: applied to a vision
transformer, a CNN's ratio is off by x8 at its 90th percentile. So there has to be a calibration of
that very family, from ``edgekd calibrate`` on the device or from the published table, and this
machine must have run the same models. The range is as wide as leaving one calibration model out
was wrong; from the published table, at least the 90th percentile of that error over the table.

That table is of another runtime than the bundle's (ncnn on both its sides). Its error is thus the
ratio's alone: how a device fares with ONNX Runtime instead is in no published figure, so it is in
no range, and every range from the table says so. ``edgekd calibrate`` on the device has both.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from edgekd.errors import InputError

if TYPE_CHECKING:
    from edgekd.profiles import Profile

SCHEMA = "edgekd.calibration/1"
_TABLE = Path(__file__).parent / "published.yaml"
_REFERENCE = "Azure D64s v6"  # the table's server, which stands for "host" in the error estimate
_LEAST_FACTOR = 1.10  # few models may agree by luck, and no machine repeats itself to the percent


@dataclass(frozen=True)
class Projection:
    """A range in ms with what it rests on. ``factor`` is the error it allows each way.

    ``excludes`` names the error that it does not allow for; None where there is none known.
    """

    low: float
    high: float
    factor: float
    method: str
    calibration: str
    excludes: str | None = None


@dataclass(frozen=True)
class Calibration:
    """Undisturbed p50 in ms of calibration models, by ``family/name``, at one precision.

    ``host`` holds the same models on the machine that calibrated, measured in turn with those on
    the device; it equals ``models`` where the two are one, and is empty for published figures.
    """

    where: str  # a profile's name; "host" for the machine at hand
    threads: int
    models: Mapping[str, float]
    host: Mapping[str, float]
    precision: str
    environment: Mapping[str, Any]  # of the machine that calibrated
    source: str

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


def default_folder() -> Path:
    """Where ``edgekd calibrate`` keeps what it learned about machines."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "edgekd" / "calibration"


def read(file: Path) -> Calibration:
    """Read a calibration; raise :class:`InputError` where it is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return Calibration(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no calibration ({error}); run 'edgekd calibrate'") from error


def find(folder: Path, name: str) -> Calibration | None:
    file = folder / f"{name}.json"
    return read(file) if file.is_file() else None


def family(operators: Mapping[str, int]) -> str | None:
    """``cnn``, ``transformer`` or None, from an operator histogram."""
    names = {name.lower() for name in operators}
    attention = any("attention" in n or "softmax" in n for n in names) and any(
        "matmul" in n or "gemm" in n or "attention" in n for n in names
    )
    convolutions = sum(count for name, count in operators.items() if "conv" in name.lower())
    if attention and convolutions <= 4:  # a patch embedding is a convolution too
        return "transformer"
    return "cnn" if convolutions and not attention else None


def project(
    undisturbed: float,
    exact: Mapping[str, Any],
    precision: str,
    profile: Profile,
    machine: Mapping[str, Any],
    folder: Path | None = None,
) -> Projection | str:
    """The range of ``profile``'s p50 given this machine's, or why there is none.

    ``undisturbed`` is the median of the fastest process, in ms: neighbours only ever add time.
    ``machine`` is the environment that it was measured in.
    """
    kind = family(exact.get("ops") or {})
    if kind is None:
        return "its operators belong to no family that is calibrated"
    folder = folder or default_folder()
    measured = find(folder, profile.name)
    there = measured or from_table(profile.device, profile.runtime.threads, kind)
    if there is None:
        return (
            f"no {kind} calibration for {profile.name}; run 'edgekd calibrate --profile"
            f" {profile.name} --on ssh:ADDRESS' on the device"
        )
    if there.precision != precision:
        return f"the {kind} calibration for {profile.name} is {there.precision}, not {precision}"
    here = measured or find(folder, "host")
    if here is None or here.threads != profile.runtime.threads:
        return (
            "this machine has not run the calibration models itself; run 'edgekd calibrate'"
            f" (threads: {profile.runtime.threads})"
        )
    if any(here.environment.get(name) != machine.get(name) for name in ("cpu", "flags")):
        return "it was calibrated from a machine with another CPU; run 'edgekd calibrate' here"
    shared = sorted(name for name in there.models if name.startswith(kind) and name in here.host)
    if len(shared) < 2:
        return f"fewer than two {kind} models ran on both machines; run 'edgekd calibrate' on both"
    logs = [math.log(there.models[name] / here.host[name]) for name in shared]
    error = max(left_out(logs))
    if measured is None:
        error = max(error, math.log(table_error(kind)[1]))
    factor = max(math.exp(error), _LEAST_FACTOR)
    middle = undisturbed * math.exp(float(np.mean(logs)))
    excludes = None
    if measured is None:
        excludes = (
            f"the change of runtime, from {table()[kind]['runtime']} on the device to this one"
        )
    return Projection(
        low=middle / factor,
        high=middle * factor,
        factor=factor,
        method=(
            f"this machine's undisturbed p50 x the mean ratio of {len(shared)} {kind} models;"
            f" expected error x{factor:.2f} (leave one out)"
            + (f", of the ratio alone: {excludes}, is not in it" if excludes else "")
        ),
        calibration=f"{', '.join(shared)} ({there.source})",
        excludes=excludes,
    )


def left_out(logs: Sequence[float]) -> list[float]:
    """|log error| of each model's ratio predicted by the others' mean."""
    values = np.asarray(logs)
    return [abs(float(values[i] - np.delete(values, i).mean())) for i in range(len(values))]


@cache
def table() -> dict[str, Any]:
    """The published latencies that ship with edgekd."""
    return yaml.safe_load(_TABLE.read_text(encoding="utf-8"))


def from_table(device: str | None, threads: int, kind: str) -> Calibration | None:
    """The published calibration of a device, or None where the table has no such row."""
    section = table().get(kind, {"devices": ()})
    for row in section["devices"]:
        if row["device"] == device and row["threads"] == threads:
            models = {f"{kind}/{name}": float(ms) for name, ms in row["ms"].items()}
            source = f"published, {section['runtime']}, {section['source']}"
            return Calibration(row["device"], threads, models, {}, section["precision"], {}, source)
    return None


def table_errors(kind: str, host: str = _REFERENCE) -> list[float]:
    """Leave-one-model-out errors over the published table, as factors of at least 1.

    Each device's model is predicted from the host's time and the other models' mean ratio, at one
    thread, as :func:`project` does.
    """
    rows = [row for row in table()[kind]["devices"] if row["threads"] == 1]
    base = next(row["ms"] for row in rows if row["device"] == host)
    errors = []
    for row in rows:
        if row["device"] != host:
            logs = [math.log(ms / base[name]) for name, ms in row["ms"].items()]
            errors += [math.exp(error) for error in left_out(logs)]
    return errors


def table_error(kind: str) -> tuple[float, float]:
    """(median, 90th percentile) of :func:`table_errors`."""
    errors = table_errors(kind)
    return float(np.median(errors)), float(np.quantile(errors, 0.9))


def nearest_published(exact: Mapping[str, Any], target: str) -> str | None:
    """One sentence: the published model of this family and target nearest in MACs."""
    kind, macs = family(exact.get("ops") or {}), exact.get("macs")
    anchors = [a for a in table()["anchors"] if (a["family"], a["target"]) == (kind, target)]
    if not anchors or not macs:
        return None
    anchor = min(anchors, key=lambda a: abs(math.log(a["macs"] / macs)))
    tokens = f" of this model at {exact['length']} tokens" if exact.get("length") else ""
    return (
        f"nearest published: {anchor['model']} at {anchor['at']}, {anchor['ms']:g} ms on"
        f" {anchor['device']}, {anchor['macs'] / macs:.3g} x the MACs{tokens}"
        f" ({anchor['source']})"
    )
