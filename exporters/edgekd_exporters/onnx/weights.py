"""The weighted nodes of a graph: what precisions apply to, and the groups they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekd.errors import InputError, nearest
from edgekd.exporter import Plan

# Tables and matrices below this gain less than their scales and extra nodes cost.
SMALLEST_BYTES = 16 * 1024


@dataclass(frozen=True)
class Weighted:
    """A node with a constant weight, the weight's value, and the module that it came from."""

    node: ir.Node
    kind: Literal["linear", "table", "conv"]
    index: int  # which input of the node is the weight
    weight: np.ndarray

    @property
    def module(self) -> str:
        return (self.node.name or "").rpartition("/")[0]

    @property
    def name(self) -> str:
        """The weight's own name: nodes that share a weight then share what is made of it."""
        value = self.node.inputs[self.index]
        assert value is not None and value.name
        return value.name

    @property
    def matrix(self) -> np.ndarray:
        """A linear node's weight as [inputs, outputs]."""
        transposed = self.node.op_type == "Gemm" and _flag(self.node, "transB")
        return self.weight.T if transposed else self.weight


def weighted(model: ir.Model) -> Iterator[Weighted]:
    """Yield every float node that multiplies by, convolves with or looks up a constant."""
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm"):
            value = _constant(node, 1)
            plain = node.op_type == "MatMul" or _plain_gemm(node)
            if value is not None and value.ndim == 2 and plain:
                yield Weighted(node, "linear", 1, value)
        elif node.op_type in ("Conv", "ConvTranspose"):
            value = _constant(node, 1)
            if value is not None:
                yield Weighted(node, "conv", 1, value)
        elif node.op_type == "Gather":
            value = _constant(node, 0)
            first = node.attributes["axis"].as_int() == 0 if "axis" in node.attributes else True
            if value is not None and value.ndim == 2 and first:
                yield Weighted(node, "table", 0, value)


class PlanReader:
    """Answers which modules a plan compresses; longer group names win over shorter."""

    def __init__(self, plan: Plan, modules: list[str]) -> None:
        """Raise :class:`InputError` for an override of no module, or to a third precision."""
        for name, precision in plan.overrides.items():
            if precision not in ("fp32", plan.default):
                raise InputError(
                    f"group '{name}' asks for {precision} beside {plan.default};"
                    " a plan mixes one precision with fp32"
                )
            if not any(_inside(module, name) for module in modules):
                raise InputError(
                    f"the precision plan names the group '{name}'{nearest(name, modules)},"
                    f" which the model lacks; its groups are {', '.join(modules[:6])}, …"
                )
        self._default = plan.default
        self._overrides: Mapping[str, str] = plan.overrides

    def compressed(self, module: str) -> bool:
        """Whether ``module`` has the plan's own precision; else it stays in float."""
        names = [name for name in self._overrides if _inside(module, name)]
        return not names or self._overrides[max(names, key=len)] == self._default


def _inside(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index]
    if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return None
    return value.const_value.numpy()


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())


def _plain_gemm(node: ir.Node) -> bool:
    factors = [node.attributes[k].as_float() for k in ("alpha", "beta") if k in node.attributes]
    return not _flag(node, "transA") and all(factor == 1 for factor in factors)
