"""Ops that rearrange, cut, join, pad or create tensors without computing on their values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel


@kernel(exact=True)
def reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """A 0 keeps the size of that axis (of ``x``), a -1 is inferred."""
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


@kernel(exact=True)
def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    *,
    begins: Sequence[int],
    ends: Sequence[int],
    end_masks: Sequence[bool],
) -> Tensor:
    sizes: list[int] = []
    for tensor, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += tensor.shape[begin : None if whole else end]
    return x.reshape(sizes)


@kernel(exact=True)
def flatten2d(x: Tensor, *, axis: int = 1) -> Tensor:
    first = int(torch.tensor(x.shape[: axis % (x.ndim + 1)]).prod()) if axis else 1
    return x.reshape(first, -1)


@kernel()
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@kernel(exact=True)
def transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(list(perm))


@kernel(exact=True)
def expand_dims(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@kernel(exact=True)
def squeeze(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@kernel(exact=True)
def concat(values: Sequence[Tensor], *, axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        stacked = torch.stack(list(values), axis + 1 if axis >= 0 else axis)
        return stacked.flatten(axis, axis + 1) if axis >= 0 else stacked.flatten(axis - 1, axis)
    # With flexible shapes, coremltools joins sizes that are scalars.
    return torch.cat([value if value.ndim else value[None] for value in values], axis)


@kernel(exact=True)
def stack(values: Sequence[Tensor], *, axis: int) -> Tensor:
    return torch.stack(list(values), axis)


@kernel(exact=True)
def split(
    x: Tensor,
    *,
    axis: int,
    num_splits: int | None = None,
    split_sizes: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    return torch.tensor_split(x, num_splits or 1, axis)


@kernel(exact=True)
def slice_by_index(
    x: Tensor,
    *,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    for axis, keys in enumerate(_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        if keys is not None:
            start, stop, step = keys
            if step == 1:
                x = x.narrow(axis, start, max(stop - start, 0))
            else:
                at = torch.arange(start, stop, step)
                x = x.index_select(axis, at)
    if squeeze_mask and any(squeeze_mask):
        x = x.squeeze(tuple(i for i, drop in enumerate(squeeze_mask) if drop))
    return x


@kernel(exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    *,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    result = x.clone()
    if squeeze_mask:
        for axis, drop in enumerate(squeeze_mask):
            update = update.unsqueeze(axis) if drop else update
    keys = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    grid = [torch.arange(*(k or (0, n, 1))) for k, n in zip(keys, x.shape, strict=True)]
    result[torch.meshgrid(*grid, indexing="ij")] = update
    return result


def _slices(
    x, begin, end, stride, begin_mask, end_mask, squeeze_mask
) -> list[tuple[int, int, int] | None]:
    """(start, stop, step) of each axis as ``range`` takes them; None where the axis is whole."""
    keys: list[tuple[int, int, int] | None] = []
    for axis, size in enumerate(x.shape):
        step = stride[axis] if stride else 1
        if squeeze_mask and squeeze_mask[axis]:
            start = begin[axis] + (size if begin[axis] < 0 else 0)
            keys.append((start, start + 1, 1))
            continue
        start = None if begin_mask and begin_mask[axis] else begin[axis]
        stop = None if end_mask and end_mask[axis] else end[axis]
        if start is None and stop is None and step == 1:
            keys.append(None)
        else:
            keys.append(slice(start, stop, step).indices(size))
    return keys


@kernel(exact=True)
def slice_by_size(x: Tensor, *, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


@kernel(exact=True)
def pad(
    x: Tensor, *, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0
) -> Tensor:
    """``pad`` holds (before, after) of the last axes in axis order; torch wants the last first."""
    pairs = [list(pad[i : i + 2]) for i in range(0, len(pad), 2)]
    if mode == "constant":
        return F.pad(x, [v for pair in reversed(pairs) for v in pair], value=constant_val)
    for offset, (before, after) in enumerate(reversed(pairs)):
        axis, size = x.ndim - 1 - offset, x.shape[-1 - offset]
        at = torch.arange(-before, size + after)
        if mode == "reflect":
            at = at.abs()
            at = (size - 1) - (size - 1 - at).abs()
        else:
            at = at.clamp(0, size - 1)
        x = x.index_select(axis, at) if before or after else x
    return x


@kernel(exact=True)
def tile(x: Tensor, *, reps: Sequence[int]) -> Tensor:
    return x.tile(tuple(reps))


@kernel(exact=True)
def reverse(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else list(axes))


@kernel(exact=True)
def fill(*, shape: Sequence[int], value: float = 0.0) -> Tensor:
    dtype = torch.bool if isinstance(value, bool) else None
    dtype = dtype or (torch.int32 if isinstance(value, int) else torch.float32)
    return torch.full(list(shape), value, dtype=dtype)


@kernel(exact=True)
def fill_like(ref_tensor: Tensor, *, value: float = 0.0) -> Tensor:
    return fill(shape=ref_tensor.shape, value=value)


@kernel()
def range_1d(*, start: float, end: float, step: float) -> Tensor:
    whole = all(isinstance(v, int) for v in (start, end, step))
    return torch.arange(start, end, step, dtype=torch.int32 if whole else torch.float32)


@kernel(exact=True)
def depth_to_space(x: Tensor, *, block_size: int) -> Tensor:
    """Channels are split [block, block, channels], unlike ``pixel_shuffle``."""
    batch, channels, height, width = x.shape
    b = block_size
    x = x.reshape(batch, b, b, channels // (b * b), height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * b, width * b)


@kernel(exact=True)
def space_to_depth(x: Tensor, *, block_size: int) -> Tensor:
    batch, channels, height, width = x.shape
    b = block_size
    x = x.reshape(batch, channels, height // b, b, width // b, b)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // b, width // b)


@kernel(exact=True)
def pixel_shuffle(x: Tensor, *, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@kernel(exact=True)
def pixel_unshuffle(x: Tensor, *, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, int(downscale_factor))


@kernel(exact=True)
def space_to_batch(
    x: Tensor, *, block_shape: Sequence[int], paddings: Sequence[Sequence[int]]
) -> Tensor:
    (top, bottom), (left, right) = paddings
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    by, bx = block_shape
    x = x.reshape(n, c, h // by, by, w // bx, bx)
    return x.permute(3, 5, 0, 1, 2, 4).reshape(by * bx * n, c, h // by, w // bx)


@kernel(exact=True)
def batch_to_space(
    x: Tensor, *, block_shape: Sequence[int], crops: Sequence[Sequence[int]]
) -> Tensor:
    by, bx = block_shape
    (top, bottom), (left, right) = crops
    n, c, h, w = x.shape
    x = x.reshape(by, bx, n // (by * bx), c, h, w).permute(2, 3, 4, 0, 5, 1)
    x = x.reshape(n // (by * bx), c, h * by, w * bx)
    return x[:, :, top : h * by - bottom, left : w * bx - right]


@kernel(exact=True)
def sliding_windows(x: Tensor, *, axis: int, size: int, stride: int = 1) -> Tensor:
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@kernel(exact=True)
def band_part(x: Tensor, *, lower: int = -1, upper: int = -1) -> Tensor:
    rows, columns = x.shape[-2:]
    offset = torch.arange(columns)[None] - torch.arange(rows)[:, None]
    keep = torch.ones(rows, columns, dtype=torch.bool)
    if lower >= 0:
        keep &= offset >= -lower
    if upper >= 0:
        keep &= offset <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


@kernel(exact=True)
def crop(x: Tensor, *, crop_height: Sequence[int], crop_width: Sequence[int]) -> Tensor:
    height, width = x.shape[-2:]
    return x[
        ...,
        crop_height[0] : height - crop_height[1],
        crop_width[0] : width - crop_width[1],
    ]
