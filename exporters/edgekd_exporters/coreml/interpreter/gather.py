"""Indexed reads and writes. Negative indices count from the end, as in the definition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel

_COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _wrapped(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@kernel(exact=True)
def gather(
    x: Tensor,
    indices: Tensor,
    *,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    axis %= x.ndim
    at = _wrapped(indices, x.shape[axis])
    if batch_dims == 0:
        taken = x.index_select(axis, at.reshape(-1))
        return taken.reshape([*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]])
    batch = x.shape[:batch_dims]
    rows = zip(x.flatten(0, batch_dims - 1), at.flatten(0, batch_dims - 1), strict=True)
    parts = [gather(row, index, axis=axis - batch_dims) for row, index in rows]
    return torch.stack(parts).reshape(*batch, *parts[0].shape)


@kernel(exact=True)
def gather_along_axis(
    x: Tensor, indices: Tensor, *, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@kernel(exact=True)
def gather_nd(
    x: Tensor, indices: Tensor, *, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    if batch_dims:
        batch = x.shape[:batch_dims]
        rows = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
        parts = [gather_nd(row, index) for row, index in rows]
        return torch.stack(parts).reshape(*batch, *parts[0].shape)
    keys = tuple(_wrapped(i, n) for i, n in zip(indices.unbind(-1), x.shape, strict=False))
    return x[keys]


@kernel()
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    axis %= data.ndim
    result = data.clone().movedim(axis, 0)
    at = _wrapped(indices, data.shape[axis]).reshape(-1)
    values = updates.reshape(*data.shape[:axis], at.numel(), *data.shape[axis + 1 :])
    for position, value in zip(at.tolist(), values.movedim(axis, 0), strict=True):
        result[position] = _COMBINE[mode](result[position], value)
    return result.movedim(0, axis)


@kernel()
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    at = _wrapped(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, at, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, at, updates if mode == "add" else -updates)
    names = {"mul": "prod", "max": "amax", "min": "amin", "div": "prod"}
    return data.scatter_reduce(axis, at, 1 / updates if mode == "div" else updates, names[mode])


@kernel()
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    result = data.clone()
    depth = indices.shape[-1]
    at = indices.reshape(-1, depth).tolist()
    values = updates.reshape(len(at), *data.shape[depth:])
    for key, value in zip(at, values, strict=True):
        result[tuple(key)] = _COMBINE[mode](result[tuple(key)], value)
    return result


@kernel()
def one_hot(
    indices: Tensor,
    *,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: float = 1,
    off_value: float = 0,
) -> Tensor:
    axis = axis % (indices.ndim + 1)
    at = _wrapped(indices, one_hot_vector_size).unsqueeze(axis)
    shape = [1] * at.ndim
    shape[axis] = one_hot_vector_size
    hit = at == torch.arange(one_hot_vector_size).reshape(shape)
    on, off = torch.tensor(on_value), torch.tensor(off_value)
    kind = torch.float32 if on.is_floating_point() else torch.int32
    return torch.where(hit, on, off).to(kind)


@kernel()
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).to(torch.int32)
