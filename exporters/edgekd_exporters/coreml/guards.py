"""What is wrong with a package, found without a Mac: numbers first, then the Neural Engine.

Numbers: NaN and infinities with the first op that makes them, constants that fp16 cannot hold,
and the op where fp16 first departs from fp32. The Neural Engine: what is known to keep a model
off it. Its rules are Apple's guidance and other people's measurements, so these are warnings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bundle import Bundle
from edgekd.exporter import Finding
from edgekd_exporters.coreml.interpreter import Executable, compile_function
from edgekd_exporters.coreml.package import Package, image_shape
from edgekd_exporters.coreml.session import (
    package_path,
    pixel_scale,
    read_modules,
    threads,
    to_pixels,
)

HALF_MAX = 65504.0
DEPARTURE = 0.02  # relative error of one op's result at which fp16 counts as having departed
ROWS = 2  # golden rows that the numeric checks run
# What hands a program's fp32 inputs and outputs over, without computing on them.
MOVES = {"cast", "identity", "classify"}
MAX_RANK = 5
MAX_SIZE = 16384
# Ops without a Neural Engine kernel: control flow, data-dependent shapes, sorting, recurrence.
OFF_ENGINE = {
    "cond",
    "while_loop",
    "non_zero",
    "argsort",
    "topk",
    "gather_nd",
    "scatter",
    "scatter_along_axis",
    "scatter_nd",
    "one_hot",
    "range_1d",
    "cumsum",
    "lstm",
    "gru",
    "rnn",
    "non_maximum_suppression",
    "random_normal",
    "random_uniform",
    "random_bernoulli",
    "random_categorical",
}


def check(bundle: Bundle) -> list[Finding]:
    """Every finding about a bundle, errors first."""
    _, inputs, _ = bundle.golden()
    scale = pixel_scale(bundle.manifest)
    feeds = []
    for index in range(min(ROWS, len(next(iter(inputs.values()))))):
        row = {name: value[index : index + 1] for name, value in inputs.items()}
        feeds.append(
            {n: to_pixels(v, *scale) for n, v in row.items()} if scale is not None else row
        )
    found = check_package(package_path(bundle), feeds, read_modules(bundle.path))
    return found + exceptions(bundle)


def exceptions(bundle: Bundle) -> list[Finding]:
    """What the precision was not given to, or not in full: a note for each reason."""
    groups: dict[str, list[str]] = {}
    for line in bundle.manifest.provenance.get("exceptions", ()):
        group, _, reason = line.partition(": ")
        groups.setdefault(reason, []).append(group)
    found = []
    for reason, names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        message = f"{bundle.manifest.precision}: {reason}, in {names[0]}{more}"
        found.append(Finding("note", message, names[0]))
    return found


def check_package(
    path: Path,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    modules: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Check a package alone. Without ``feeds`` it is run on ones, fully and half masked."""
    package, modules = Package.open(path), modules or {}
    program = package.program()
    function = next(iter(program.functions.values()))
    feeds = list(feeds) or plain_feeds(package)
    half = compile_function(function, half=True, modules=modules)
    full = compile_function(function, half=False, modules=modules)
    with threads(1):
        found = numeric(half, full, feeds, modules)
    found += overflowing_constants(program)
    found += lint(package, program, modules)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def plain_feeds(package: Package) -> list[dict[str, np.ndarray]]:
    """Inputs for a package that came without any: ones, and ones with the second half zero."""
    from coremltools import proto

    whole: dict[str, np.ndarray] = {}
    halved: dict[str, np.ndarray] = {}
    for feature in package.spec.description.input:
        kind = feature.type.WhichOneof("Type")
        if kind == "imageType":
            shape = image_shape(feature.type.imageType)
            whole[feature.name] = halved[feature.name] = np.full(shape, 128, np.float32)
            continue
        array = feature.type.multiArrayType
        integer = array.dataType == proto.FeatureTypes_pb2.ArrayFeatureType.INT32
        values = np.ones(list(array.shape), np.int32 if integer else np.float32)
        whole[feature.name], halved[feature.name] = values, values.copy()
        if values.ndim and values.shape[-1] > 1:
            halved[feature.name][..., values.shape[-1] // 2 :] = 0
    return [whole, halved]


def first_non_finite(
    executable: Executable, feeds: Iterable[Mapping[str, np.ndarray]], modules: Mapping[str, str]
) -> Finding | None:
    """The first op that makes NaN or infinity: an error where it reaches an output.

    An infinity may be meant: a softmax of it is 0.
    """
    for arrays in feeds:
        first, bad = None, set()
        for step, values in executable.trace(arrays):
            for name, value in zip(step.outputs, values, strict=True):
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    bad.add(name)
                    what = "NaN" if bool(value.isnan().any()) else "infinity"
                    first = first or (step, what)
        if first:
            step, what = first
            reached = [name for name in executable.outputs if name in bad]
            message = f"the op '{step.name}' ({step.op_type}) makes {what}{_place(step, modules)}"
            if not reached:
                return Finding("warning", f"{message}; no output shows it", step.name)
            message += f", and the output '{reached[-1]}' is not finite"
            return Finding("error", f"{message}; {_advice(step.op_type)}", step.name)
    return None


def numeric(
    half: Executable,
    full: Executable,
    feeds: Iterable[Mapping[str, np.ndarray]],
    modules: Mapping[str, str],
) -> list[Finding]:
    """What fp16 breaks, or the first op whose result it moves by more than ``DEPARTURE``."""
    departure = meant = None
    for arrays in feeds:
        broken = False
        for (step, rounded), (_, exact) in zip(half.trace(arrays), full.trace(arrays), strict=True):
            for a, b in zip(rounded, exact, strict=True):
                if not a.is_floating_point() or not b.numel():
                    continue
                error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
                broken = broken or not math.isfinite(error)
                if DEPARTURE < error < math.inf and departure is None:
                    message = (
                        f"fp16 first departs from fp32 at the op '{step.name}' ({step.op_type})"
                        f"{_place(step, modules)}: {error:.2g} relative"
                    )
                    departure = Finding("warning", message, step.name)
        found = first_non_finite(half, [arrays], modules) if broken else None
        if found and found.level == "error":
            return [found]
        meant = meant or found  # an infinity of one row says nothing about the next
    return [finding for finding in (meant, departure) if finding]


def overflowing_constants(program: Any) -> list[Finding]:
    """Constants that fp16 cannot hold: infinite already, or above 65504 in a program of fp16."""
    found = []
    for function in program.functions.values():
        if not any(_computes(op, "fp16") for op in function.operations):
            continue
        for op in function.operations:
            value = op.outputs[0].val if op.op_type == "const" else None
            if value is None or np.asarray(value).dtype.kind != "f":
                continue
            largest = float(np.abs(np.asarray(value, np.float64)).max(initial=0.0))
            users = [user for user in op.outputs[0].child_ops if user.op_type != "clip"]
            if largest <= HALF_MAX or not users:
                continue
            holds = f"{largest:.3g}" if np.isfinite(largest) else "infinity"
            message = (
                f"the constant '{op.name}' of the op '{users[0].name}' ({users[0].op_type}) holds"
                f" {holds}, fp16 ends at {HALF_MAX:.0f}; a mask of -1e4 does the same"
            )
            found.append(Finding("warning", message, users[0].name))
    return found


def lint(package: Package, program: Any, modules: Mapping[str, str]) -> list[Finding]:
    """What keeps a model, or a part of it, off the Neural Engine."""
    found = []
    for name, shapes in package.allowed_shapes().items():
        if any(low != high for shape in shapes for low, high in shape):
            found.append(
                Finding(
                    "warning",
                    f"input '{name}' takes a range of shapes, which runs on CPU and GPU only;"
                    " export a fixed length, or a few enumerated ones",
                    name,
                )
            )
        elif len(shapes) > 1:
            found.append(
                Finding(
                    "warning",
                    f"input '{name}' has {len(shapes)} enumerated shapes; the Neural Engine may"
                    " take only one of them, measure before relying on it",
                    name,
                )
            )
    wide: set[str] = set()
    for function in program.functions.values():
        operations = [op for op in function.operations if op.op_type != "const"]
        found += _lint_width(operations, modules)
        for op in operations:
            found += _lint_op(op, modules, wide)
    return found


def _lint_width(operations: Sequence[Any], modules: Mapping[str, str]) -> list[Finding]:
    """The ops that compute in fp32: the Neural Engine has fp16 and integers only."""
    wide = [op for op in operations if op.op_type not in MOVES and _computes(op, "fp32")]
    if not wide:
        return []
    place = f" in {modules[wide[0].name]}" if modules.get(wide[0].name) else ""
    message = (
        f"{len(wide)} ops compute in fp32, the first is '{wide[0].name}' ({wide[0].op_type})"
        f"{place}; they run on CPU and GPU only, export with fp16"
    )
    return [Finding("warning", message, wide[0].name)]


def _lint_op(op: Any, modules: Mapping[str, str], wide: set[str]) -> list[Finding]:
    place = f" in {modules[op.name]}" if modules.get(op.name) else ""
    found = []
    for var in op.outputs:
        shape = getattr(var, "shape", ())
        if len(shape) > MAX_RANK:
            message = f"the op '{op.name}' ({op.op_type}){place} has rank {len(shape)}, the Neural"
            found.append(Finding("warning", f"{message} Engine takes up to {MAX_RANK}", op.name))
        sizes = [int(n) for n in shape if isinstance(n, int | np.integer)]
        if max(sizes, default=0) > MAX_SIZE and not op.op_type.startswith("constexpr"):
            message = f"the op '{op.name}' ({op.op_type}){place} has an axis of {max(sizes)};"
            found.append(
                Finding("note", f"{message} chips before A16 take up to {MAX_SIZE}", op.name)
            )
    if op.op_type in OFF_ENGINE and op.op_type not in wide:
        wide.add(op.op_type)
        message = f"the op '{op.op_type}' ('{op.name}'{place}) has no Neural Engine kernel"
        found.append(Finding("warning", message, op.name))
    return found


def _computes(op: Any, kind: str) -> bool:
    """Whether a result of ``op`` is a tensor of ``kind`` (``fp16``, ``fp32``)."""
    from coremltools.converters.mil.mil import types

    wanted = getattr(types, kind)
    return any(types.is_tensor(var.sym_type) and var.dtype == wanted for var in op.outputs)


def _place(step: Any, modules: Mapping[str, str]) -> str:
    return f" in {modules[step.name]}" if modules.get(step.name) else ""


def _advice(op_type: str) -> str:
    if op_type in ("mul", "add", "sub", "select", "softmax", "cast"):
        return "a mask value that fp16 cannot hold? use -1e4; or export with fp32"
    return "export with fp32, or rescale the layer before it"
