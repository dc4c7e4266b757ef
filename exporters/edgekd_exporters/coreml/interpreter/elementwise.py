"""Unary, binary and activation ops, casts, comparisons and selection.

Integers of every width are held as int32 and booleans as bool; ``cast`` wraps to the width that
the program names, so a narrow integer overflows here as it does on the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel

UNARY = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": F.softsign,
}

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "floor_div": torch.floor_divide,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


def _unary(function):
    return lambda x: function(x)


def _binary(function):
    return lambda x, y: function(x, y)


_EXACT = {"abs", "relu", "sign", "maximum", "minimum", "logical_not", "ceil", "floor", "round"}
for _name, _function in UNARY.items():
    kernel(_name, exact=_name in _EXACT)(_unary(_function))
for _name, _function in BINARY.items():
    kernel(_name, exact=_name in _EXACT)(_binary(_function))


@kernel()
def real_div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.floor_divide(x, y)


@kernel()
def cast(x: Tensor, *, dtype: str) -> Tensor:
    if dtype == "bool":
        return x.bool()
    if dtype.startswith("fp"):
        return x.float()  # the compiler rounds what the program calls fp16
    whole = x.to(torch.int64)
    if dtype in ("int8", "int16"):
        return whole.to(getattr(torch, dtype)).to(torch.int32)
    if dtype in ("uint8", "uint16"):
        return (whole & (0xFF if dtype == "uint8" else 0xFFFF)).to(torch.int32)
    return whole.to(torch.int32)


@kernel(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


@kernel(exact=True)
def identity(x: Tensor) -> Tensor:
    return x


@kernel()
def clip(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@kernel()
def threshold(x: Tensor, *, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


@kernel()
def inverse(x: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


@kernel()
def log(x: Tensor, *, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@kernel()
def rsqrt(x: Tensor, *, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@kernel()
def gelu(x: Tensor, *, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@kernel()
def elu(x: Tensor, *, alpha: float) -> Tensor:
    return F.elu(x, alpha)


@kernel()
def leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@kernel()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.prelu(x, alpha)


@kernel()
def clamped_relu(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@kernel()
def linear_activation(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@kernel()
def scaled_tanh(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@kernel()
def sigmoid_hard(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@kernel()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)  # one alpha and beta per channel
    return alpha.view(shape) * torch.log1p(torch.exp(beta.view(shape) * x))


@kernel()
def thresholded_relu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@kernel()
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)
