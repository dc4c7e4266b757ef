"""Reductions, scans and sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel

Axes = Sequence[int] | None


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    def run(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
        result = function(x, list(axes) if axes is not None else list(range(x.ndim)), keep_dims)
        return result if x.is_floating_point() else result.to(torch.int32)

    kernel(name, exact=name in ("reduce_max", "reduce_min"))(run)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _whole_mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=keep)


_reduction("reduce_mean", _whole_mean)
_reduction("reduce_sum", lambda x, a, k: x.sum(a, keepdim=k))
_reduction("reduce_max", lambda x, a, k: x.amax(a, keepdim=k))
_reduction("reduce_min", lambda x, a, k: x.amin(a, keepdim=k))
_reduction("reduce_prod", _prod)
_reduction("reduce_l1_norm", lambda x, a, k: x.abs().sum(a, keepdim=k))
_reduction("reduce_l2_norm", lambda x, a, k: x.square().sum(a, keepdim=k).sqrt())
_reduction("reduce_log_sum", lambda x, a, k: x.sum(a, keepdim=k).log())
_reduction("reduce_log_sum_exp", lambda x, a, k: torch.logsumexp(x, a, keepdim=k))
_reduction("reduce_sum_square", lambda x, a, k: x.square().sum(a, keepdim=k))


@kernel()
def reduce_argmax(
    x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    return x.argmax(axis, keepdim=keep_dims).to(torch.int32)


@kernel()
def reduce_argmin(
    x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    return x.argmin(axis, keepdim=keep_dims).to(torch.int32)


@kernel()
def cumsum(x: Tensor, *, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    total = (x.flip(axis) if reverse else x).cumsum(axis).to(x.dtype)
    if exclusive:
        total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total], axis)
        total = total.narrow(axis, 0, x.shape[axis])
    return total.flip(axis) if reverse else total


@kernel(exact=True)
def topk(
    x: Tensor,
    *,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    order = torch.argsort(x, dim=axis, descending=not ascending, stable=True)
    order = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = torch.gather(x, axis, order)
    return (values, order.to(torch.int32)) if return_indices else (values,)


@kernel()
def argsort(x: Tensor, *, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(torch.int32)
