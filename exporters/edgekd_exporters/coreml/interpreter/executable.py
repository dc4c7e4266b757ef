"""A MIL function compiled once into a list of closures over torch tensors.

Constants are read and decompressed here, once; running is a walk over the list. In ``half``
mode each op's result is rounded to fp16 wherever the program's type says fp16, with products
and statistics accumulated in fp32 inside the op: an estimate of a device's numerics that shows
overflow, underflow and loss of precision, not its order of accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.errors import InputError
from edgekd_exporters.coreml.interpreter import (  # noqa: F401  (they fill the table)
    conv,
    elementwise,
    gather,
    matrix,
    norm,
    quantization,
    reduce,
    shape,
)
from edgekd_exporters.coreml.interpreter.quantization import CONSTEXPR
from edgekd_exporters.coreml.interpreter.registry import KERNELS

Environment = list[Any]
_UNTYPED_AXES = {"_true_fn", "_false_fn", "_existing_blocks", "_cond", "_body"}


@dataclass(frozen=True)
class Step:
    """One op: ``run(env)`` reads its inputs from the environment and writes its outputs."""

    op_type: str
    name: str
    run: Callable[[Environment], None]
    inputs: tuple[str, ...]  # names of the variables it reads
    outputs: tuple[str, ...]
    slots: tuple[int, ...]
    dead: tuple[int, ...] = ()  # slots that nothing reads after this step


@dataclass(frozen=True)
class Executable:
    """A compiled function. ``labels`` are the classes of a ``classify`` op, if there is one."""

    steps: tuple[Step, ...]
    slots: Mapping[str, int]
    inputs: Mapping[str, str]  # name -> MIL type (``fp32``, ``int32``, …)
    outputs: tuple[str, ...]
    half: bool

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Run once; a ``classify`` output is its probabilities (under both of its names)."""
        with torch.inference_mode():
            env = self._environment(feeds)
            for step in self.steps:
                step.run(env)
                for slot in step.dead:
                    env[slot] = None
            return {name: _to_numpy(env[self.slots[name]]) for name in self.outputs}

    def trace(self, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[Step, tuple[Any, ...]]]:
        """Run, yielding every op with its results: what calibration and the guards look at."""
        with torch.inference_mode():
            env = self._environment(feeds)
        for step in self.steps:
            with torch.inference_mode():
                step.run(env)
            yield step, tuple(env[slot] for slot in step.slots)
            for slot in step.dead:
                env[slot] = None

    def _environment(self, feeds: Mapping[str, np.ndarray]) -> Environment:
        missing = self.inputs.keys() - feeds.keys()
        if missing:
            raise InputError(
                f"the model's input '{min(missing)}' was not given; it takes"
                f" {', '.join(self.inputs)}"
            )
        env: Environment = [None] * len(self.slots)
        for name, kind in self.inputs.items():
            tensor = torch.from_numpy(np.ascontiguousarray(feeds[name]))
            if kind.startswith("fp"):
                tensor = tensor.float()
                tensor = _rounded(tensor) if self.half and kind == "fp16" else tensor
            else:
                tensor = tensor.bool() if kind == "bool" else tensor.to(torch.int32)
            env[self.slots[name]] = tensor
        return env


def compile_function(
    function: Any, half: bool, modules: Mapping[str, str] | None = None
) -> Executable:
    """Compile a PyMIL function; ``modules`` names the layer each op came from, for errors.

    Raises :class:`InputError` for an op without a kernel.
    """
    slots: dict[str, int] = {name: index for index, name in enumerate(function.inputs)}
    constants: dict[str, Any] = {}
    steps = _compile_block(function, slots, constants, half, modules or {})
    inputs = {name: _dtype(var) for name, var in function.inputs.items()}
    outputs = tuple(var.name for var in function.outputs)
    for name in outputs:  # an output may be a constant, in a model that ignores its input
        if name not in slots:
            slots[name] = len(slots)
            value = _tensor(constants[name], half)
            steps.append(_constant_step(name, slots[name], value))
    return Executable(_with_last_reads(steps, slots, outputs), slots, inputs, outputs, half)


def _with_last_reads(
    steps: list[Step], slots: Mapping[str, int], outputs: tuple[str, ...]
) -> tuple[Step, ...]:
    """Each step with the slots that it is the last to use, so that a run holds what is live."""
    used = {slots[name] for name in outputs}
    result = []
    for step in reversed(steps):
        touched = {*step.slots, *(slots[name] for name in step.inputs)}
        result.append(replace(step, dead=tuple(sorted(touched - used))))
        used |= touched
    return tuple(reversed(result))


def _constant_step(name: str, slot: int, value: Any) -> Step:
    def run(env: Environment) -> None:
        env[slot] = value

    return Step("const", name, run, (), (name,), (slot,))


def _compile_block(
    block: Any,
    slots: dict[str, int],
    constants: dict[str, Any],
    half: bool,
    modules: Mapping[str, str],
) -> list[Step]:
    steps = []
    for op in block.operations:
        if op.op_type == "const":
            constants[op.outputs[0].name] = op.outputs[0].val
        elif op.op_type.startswith("constexpr_"):
            _decompress(op, constants)
        else:
            steps.append(_compile_op(op, slots, constants, half, modules))
    return steps


def _decompress(op: Any, constants: dict[str, Any]) -> None:
    arguments = {name: constants[var.name] for name, var in op.inputs.items() if var is not None}
    values = CONSTEXPR[op.op_type](**arguments)
    values = values if isinstance(values, tuple) else (values,)
    constants.update({var.name: value for var, value in zip(op.outputs, values, strict=True)})


def _compile_op(
    op: Any,
    slots: dict[str, int],
    constants: Mapping[str, Any],
    half: bool,
    modules: Mapping[str, str],
) -> Step:
    entry = KERNELS.get(op.op_type)
    where = modules.get(op.name, "")
    if op.op_type == "classify":
        return _compile_classify(op, slots)
    if entry is None:
        raise InputError(
            f"the interpreter has no kernel for the op '{op.op_type}' ('{op.name}'"
            f"{f' in {where}' if where else ''}); replace that layer, or add the op to"
            " edgekd_exporters/coreml/interpreter"
        )
    fixed: dict[str, Any] = {}
    moving: list[tuple[str, Any, bool]] = []
    for name, var in op.inputs.items():
        if var is None or name in _UNTYPED_AXES:
            continue
        if name not in entry.parameters:
            raise InputError(
                f"the interpreter's '{op.op_type}' does not take '{name}' ('{op.name}')"
            )
        attribute = name in entry.attributes
        if isinstance(var, tuple | list):
            parts = [
                slots[v.name] if v.name in slots else _constant(constants[v.name], attribute, half)
                for v in var
            ]
            moving.append((name, parts, attribute))
        elif var.name in constants:
            fixed[name] = _constant(constants[var.name], attribute, half)
        else:
            moving.append((name, slots[var.name], attribute))
    first = len(slots)
    for index, var in enumerate(op.outputs):
        slots[var.name] = first + index
    rounds = [half and not entry.exact and _dtype(var) == "fp16" for var in op.outputs]
    read = tuple(
        v.name
        for var in op.inputs.values()
        for v in (var if isinstance(var, tuple | list) else (var,))
        if v is not None and v.name in slots
    )
    outs = tuple(range(first, len(slots)))
    names = tuple(var.name for var in op.outputs)
    run = _closure(entry.run, fixed, moving, outs, rounds)
    return Step(op.op_type, op.name, run, read, names, outs)


def _closure(
    function: Callable[..., Any],
    fixed: dict[str, Any],
    moving: list[tuple[str, Any, bool]],
    outs: tuple[int, ...],
    rounds: list[bool],
) -> Callable[[Environment], None]:
    """Bind an op to its slots, with the common case (one or two tensors, one result) direct."""
    if any(attribute or isinstance(source, list) for _, source, attribute in moving):
        return _general_closure(function, fixed, moving, outs, rounds)
    names = [(name, slot) for name, slot, _ in moving]
    if len(outs) > 1:
        return _general_closure(function, fixed, moving, outs, rounds)
    (out,), (rounded,) = outs, rounds
    if len(names) == 1:
        ((name, slot),) = names

        def run_one(env: Environment) -> None:
            value = function(**{name: env[slot]}, **fixed)
            env[out] = _rounded(value) if rounded else value

        return run_one

    def run_many(env: Environment) -> None:
        value = function(**{name: env[slot] for name, slot in names}, **fixed)
        env[out] = _rounded(value) if rounded else value

    return run_many


def _general_closure(
    function: Callable[..., Any],
    fixed: dict[str, Any],
    moving: list[tuple[str, Any, bool]],
    outs: tuple[int, ...],
    rounds: list[bool],
) -> Callable[[Environment], None]:
    def fetch(env: Environment, source: Any, attribute: bool) -> Any:
        if isinstance(source, list):
            parts = [env[item] if isinstance(item, int) else item for item in source]
            return [_plain(part) for part in parts] if attribute else parts
        return _plain(env[source]) if attribute else env[source]

    def run(env: Environment) -> None:
        arguments = {name: fetch(env, source, kind) for name, source, kind in moving}
        values = function(**arguments, **fixed)
        values = values if isinstance(values, tuple | list) else (values,)
        for slot, value, rounded in zip(outs, values, rounds, strict=True):
            env[slot] = _rounded(value) if rounded else value

    return run


def _compile_classify(op: Any, slots: dict[str, int]) -> Step:
    """The label and the dictionary both come from the probabilities, which are what we keep."""
    source = slots[op.inputs["probabilities"].name]
    first = len(slots)
    for index, var in enumerate(op.outputs):
        slots[var.name] = first + index

    def run(env: Environment) -> None:
        env[first] = env[first + 1] = env[source]

    names = tuple(var.name for var in op.outputs)
    read = (op.inputs["probabilities"].name,)
    return Step("classify", op.name, run, read, names, (first, first + 1))


def _dtype(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    if types.is_tensor(var.sym_type) or types.is_scalar(var.sym_type):
        return types.builtin_to_string(var.dtype)
    return "other"


def _rounded(value: Tensor) -> Tensor:
    return value.half().float()


def _constant(value: Any, attribute: bool, half: bool) -> Any:
    return _plain(value) if attribute else _tensor(value, half)


def _tensor(value: Any, half: bool) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "f":
        kind: Any = np.float32
    else:
        kind = np.bool_ if array.dtype.kind == "b" else np.int32
    # A weight of fp32 is shared with the program that was read, not held twice.
    array = np.require(array, kind, ["C", "W"])
    return torch.from_numpy(array.reshape(np.shape(value)))


def _plain(value: Any) -> Any:
    """A Python value: what a kernel's keyword-only attributes are."""
    return value.tolist() if hasattr(value, "tolist") else value


def _to_numpy(value: Tensor) -> np.ndarray:
    return value.contiguous().numpy()
