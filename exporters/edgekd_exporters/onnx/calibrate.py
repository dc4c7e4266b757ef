"""Activation ranges from example rows: min-max, percentile and entropy.

onnxruntime's histogram calibrators need every row in one shape and keep every activation in
memory; these read rows of any length, one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekd_exporters.onnx.files import session

BINS = 2048
PERCENTILE = 99.99  # of the values, kept between the two ends
_LEVELS = 128

Method = Literal["minmax", "percentile", "entropy"]
Range = tuple[np.float32, np.float32]
_last: dict[tuple[str, str], dict[str, Range | None]] = {}  # None: no float activation


def ranges(
    model: ir.Model, names: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]], method: Method
) -> dict[str, Range]:
    """The range of each named float activation over ``rows`` (encoded inputs of one example each).

    ``minmax`` takes the extremes; ``percentile`` leaves out the rarest 0.01 % of values;
    ``entropy`` clips where 128 levels lose the least information (Migacz, "8-bit inference with
    TensorRT", 2017). A search asks about the same graph and rows again and again: what the last
    answer held is not computed twice.
    """
    asked = _digest(model, rows), method
    known = _last.get(asked, {})
    missing = [name for name in names if name not in known]
    if missing:
        found = _ranges(model, missing, rows, method)
        known = known | {name: found.get(name) for name in missing}
        _last.clear()
        _last[asked] = known
    return {name: value for name in names if (value := known[name]) is not None}


def _digest(model: ir.Model, rows: Sequence[Mapping[str, np.ndarray]]) -> str:
    found = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):  # the proto has its place alone
            found.update(value.const_value.numpy().tobytes())
    for row in rows:
        for name in sorted(row):
            found.update(f"{name} {row[name].dtype} {row[name].shape}".encode())
            found.update(np.ascontiguousarray(row[name]).tobytes())
    return found.hexdigest()


def _ranges(
    model: ir.Model, names: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]], method: Method
) -> dict[str, Range]:
    ends: dict[str, Range] = {}
    for values in _activations(model, names, rows):
        for name, value in values.items():
            low, high = ends.get(name, (np.float32(np.inf), np.float32(-np.inf)))
            ends[name] = (min(low, value.min()), max(high, value.max()))
    if method == "minmax":
        return ends
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for values in _activations(model, names, rows):
        for name, value in values.items():
            low, high = ends[name]
            counts[name] += np.histogram(value, BINS, (float(low), float(high)))[0]
    clip = percentile if method == "percentile" else entropy
    return {name: clip(counts[name], *ends[name]) for name in ends}


def percentile(counts: np.ndarray, low: np.float32, high: np.float32) -> Range:
    """The narrowest bin edges that keep :data:`PERCENTILE` of the values, half off each end."""
    edges = np.linspace(low, high, len(counts) + 1, dtype=np.float32)
    total = np.cumsum(counts)
    tail = total[-1] * (1 - PERCENTILE / 100) / 2
    first = int(np.searchsorted(total, tail, "right"))
    last = int(np.searchsorted(total, total[-1] - tail, "left"))
    return edges[first], edges[last + 1]


def entropy(counts: np.ndarray, low: np.float32, high: np.float32) -> Range:
    """Clip symmetrically in magnitude where the rounded distribution stays closest (in KL)."""
    edges = np.linspace(low, high, len(counts) + 1, dtype=np.float32)
    centres = (edges[1:] + edges[:-1]) / 2
    top = max(abs(float(low)), abs(float(high)))
    if not top > 0:
        return low, high
    magnitude = np.histogram(np.abs(centres), BINS, (0.0, top), weights=counts)[0]
    best = min(
        range(_LEVELS, BINS + 1, _LEVELS // 8), key=lambda size: _divergence(magnitude, size)
    )
    limit = np.float32(top * best / BINS)
    return max(low, -limit), min(high, limit)


def _divergence(counts: np.ndarray, size: int) -> float:
    """KL divergence of the first ``size`` bins, outliers in the last, from its rounded form."""
    kept = counts[:size].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += counts[size:].sum()
    level = np.arange(size) * _LEVELS // size
    used = kept > 0
    mass = np.bincount(level, kept, _LEVELS)
    width = np.bincount(level, used, _LEVELS)
    rounded = np.where(used, (mass / np.maximum(width, 1))[level], 0.0)
    present = clipped > 0
    if not rounded.any() or not present.any():
        return np.inf
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    # A bin that holds outliers alone has no rounded mass: it costs, and stays finite.
    return float((p[present] * np.log(p[present] / np.maximum(q[present], 1e-12))).sum())


def _activations(
    model: ir.Model, names: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """Run every row and yield the named values."""
    watched = model.clone()
    known = {value.name for value in watched.graph.outputs}
    wanted = [
        value
        for node in watched.graph
        for value in node.outputs
        if value.name in names and value.name not in known
    ]
    watched.graph.outputs.extend(wanted)
    opened = session(watched)
    fetched = [value.name for value in opened.get_outputs() if value.name in names]
    for row in rows:  # asked for no output by name, onnxruntime returns all
        said = opened.run(fetched, dict(row)) if fetched else []
        values = dict(zip(fetched, said, strict=True))
        values |= {name: row[name] for name in row if name in names}
        yield {name: value for name, value in values.items() if value.dtype == np.float32}
