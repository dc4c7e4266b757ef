"""The compressible weights of a package, and the precision that a plan gives each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.bundle import Bundle
from edgekd.errors import InputError, nearest
from edgekd.exporter import Plan
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.session import package_path, read_modules

# The input by which each op takes its weight, and the weight's output-channel axis.
CONSUMERS = {
    "linear": ("weight", 0),
    "conv": ("weight", 0),
    "conv_transpose": ("weight", 1),
    "matmul": ("y", -1),
    "gather": ("x", 0),
    "lstm": ("weight_ih", 0),
    "gru": ("weight_ih", 0),
}
LEAST = 2048  # elements; below, a scale or a table costs more than it saves
_SUFFIX = re.compile(r"(_to_fp16|_quantized|_palettized(_pcs)?|_sparsified)+$")


@dataclass(frozen=True)
class Weight:
    """One weight: ``name`` is the op that yields it, ``group`` the module it belongs to."""

    name: str
    group: str
    shape: tuple[int, ...]
    channels: int  # along the output axis
    inputs: int  # along the axis that blocks divide; 0 where there is none
    bytes: int
    compressed: bool
    consumer: str  # the first op that reads it
    source: Any  # the PyMIL op that yields it

    @property
    def stem(self) -> str:
        """Its name without what casts and compressors append."""
        return _stem(self.name)


def weighted(bundle: Bundle) -> list[Weight]:
    """The compressible weights of a bundle, in graph order, each once."""
    program = Package.open(package_path(bundle)).program()
    return find(program, read_modules(bundle.path))


def find(program: Any, modules: Mapping[str, str]) -> list[Weight]:
    """The compressible weights of a PyMIL program."""
    known = {_stem(name): path for name, path in modules.items()}
    found: dict[str, Weight] = {}
    for function in program.functions.values():
        for op in function.operations:
            parameter, axis = CONSUMERS.get(op.op_type, ("", 0))
            var = op.inputs.get(parameter) if parameter else None
            source = getattr(var, "op", None)
            if var is None or source is None or source.name in found:
                continue
            packed = source.op_type.startswith("constexpr_")
            if not packed and source.op_type != "const":
                continue
            shape = tuple(int(n) for n in var.shape)
            if len(shape) < 2 or int(np.prod(shape)) < LEAST:
                continue
            stem = _stem(source.name)
            if op.op_type == "matmul" and op.inputs["transpose_y"].val:
                axis = -2
            found[source.name] = Weight(
                name=source.name,
                group=known.get(stem) or modules.get(op.name) or stem,
                shape=shape,
                channels=shape[axis],
                inputs=0 if op.op_type == "gather" else shape[1 - axis if axis >= 0 else -3 - axis],
                bytes=_stored(source),
                compressed=packed,
                consumer=op.op_type,
                source=source,
            )
    return list(found.values())


def dense(op: Any) -> np.ndarray:
    """The values that a chain of ``constexpr_*`` ops yields, by our own decompression."""
    from edgekd_exporters.coreml.interpreter.quantization import CONSTEXPR

    if op.op_type == "const":
        return np.asarray(op.outputs[0].val)
    arguments = {}
    for name, var in op.inputs.items():
        if var is not None:
            value = dense(var.op)
            several = isinstance(value, tuple)
            arguments[name] = value[var.op.outputs.index(var)] if several else value
    return CONSTEXPR[op.op_type](**arguments)


def chosen(weights: list[Weight], plan: Plan) -> dict[str, str]:
    """The precision of each weight by name; an override names a group or a prefix of groups.

    Raises :class:`InputError` where an override names no group.
    """
    groups = sorted({weight.group for weight in weights})
    for name in plan.overrides:
        if not any(_inside(group, name) for group in groups):
            raise InputError(
                f"the precision plan names the group '{name}'{nearest(name, groups)}, which the"
                f" model lacks; its groups are {', '.join(groups[:6])}, …"
            )
    overrides = sorted(plan.overrides, key=len)  # the longest name that fits wins
    precision = {}
    for weight in weights:
        fitting = [name for name in overrides if _inside(weight.group, name)]
        precision[weight.name] = plan.overrides[fitting[-1]] if fitting else plan.default
    return precision


def _inside(group: str, name: str) -> bool:
    return group == name or group.startswith(f"{name}.")


def _stem(name: str) -> str:
    return _SUFFIX.sub("", name)


def _stored(op: Any) -> int:
    """Bytes of an op's constant inputs in the weight file, at the width they are stored in."""
    from coremltools.converters.mil.mil import types

    if op.op_type == "const":
        return int(op.outputs[0].val.nbytes)
    total = 0
    for var in op.inputs.values():
        if var is None:
            continue
        if var.op is not None and var.op.op_type.startswith("constexpr_"):
            total += _stored(var.op)
        elif isinstance(var.val, np.ndarray):
            bits = var.dtype.get_bitwidth() if types.is_int(var.dtype) else var.val.itemsize * 8
            total += -(-var.val.size * bits // 8)
    return total
