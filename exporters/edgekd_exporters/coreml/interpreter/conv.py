"""Convolutions, pooling and resizing. Images are [batch, channels, *spatial]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import InputError
from edgekd_exporters.coreml.interpreter.registry import kernel

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def padding(
    pad_type: str,
    pad: Sequence[int] | None,
    size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Padding before and after each spatial axis, in axis order, for every MIL ``pad_type``."""
    if pad_type == "valid":
        return [0] * (2 * len(size))
    if pad_type == "custom":
        return list(pad or [0] * (2 * len(size)))
    pads = []
    for n, k, s, d in zip(size, kernel_size, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        pads += [large, small] if pad_type == "same_lower" else [small, large]
    return pads


def _reversed(pads: Sequence[int]) -> list[int]:
    """torch's order: last axis first."""
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    return [value for pair in reversed(pairs) for value in pair]


@kernel()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    even = pads[::2]
    if even != pads[1::2]:
        x, even = F.pad(x, _reversed(pads)), [0] * rank
    return _CONV[rank](x, weight, bias, strides, even, dilations, groups)


@kernel()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pad: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    full = _TRANSPOSED[rank](x, weight, bias, strides, 0, 0, groups, dilations)
    if pad_type == "custom":
        crops = list(pad or [0] * (2 * rank))
    elif pad_type == "valid":
        crops = [0] * (2 * rank)
    else:  # the output is the input's size times the stride; the surplus is cut evenly
        crops = []
        for n, size, s in zip(x.shape[2:], full.shape[2:], strides, strict=True):
            total = max(size - n * s, 0)
            small, large = total // 2, total - total // 2
            crops += [large, small] if pad_type == "same_lower" else [small, large]
    target = list(output_shape)[-rank:] if output_shape else None
    for axis in range(rank):
        begin, size = crops[2 * axis], full.shape[2 + axis]
        length = target[axis] if target else size - begin - crops[2 * axis + 1]
        if begin + length > size:  # output padding: zeros (and the bias) beyond the last stride
            shape = list(full.shape)
            shape[2 + axis] = begin + length - size
            value = 0 if bias is None else bias.view(1, -1, *[1] * rank)
            full = torch.cat([full, full.new_zeros(shape) + value], 2 + axis)
        full = full.narrow(2 + axis, begin, length)
    return full


def _pool_pads(
    x: Tensor,
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int] | None,
    ceil_mode: bool,
) -> tuple[list[int], list[int]]:
    """The padding of the definition, and what ``ceil_mode`` adds after each axis."""
    rank = x.ndim - 2
    pads = padding(pad_type, pad, x.shape[2:], kernel_sizes, strides, [1] * rank)
    extra = [0] * rank
    if ceil_mode:
        for axis, (n, k, s) in enumerate(zip(x.shape[2:], kernel_sizes, strides, strict=True)):
            covered = n + pads[2 * axis] + pads[2 * axis + 1] - k
            windows = -(-covered // s)
            if windows * s >= n + pads[2 * axis]:  # a window must start inside the input
                windows -= 1
            extra[axis] = max(windows * s - covered, 0)
    return pads, extra


def _padded(x: Tensor, pads: Sequence[int], extra: Sequence[int], value: float) -> Tensor:
    total = list(pads)
    for axis, more in enumerate(extra):
        total[2 * axis + 1] += more
    return F.pad(x, _reversed(total), value=value) if any(total) else x


@kernel(exact=True)
def max_pool(
    x: Tensor,
    *,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or kernel_sizes
    pads, extra = _pool_pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _MAX[x.ndim - 2](_padded(x, pads, extra, float("-inf")), kernel_sizes, strides)


def _sums(x: Tensor, kernel_sizes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Sum of each window: a convolution with ones, per channel."""
    channels = x.shape[1]
    ones = x.new_ones(channels, 1, *kernel_sizes)
    return _CONV[x.ndim - 2](x, ones, None, strides, 0, 1, channels)


@kernel()
def avg_pool(
    x: Tensor,
    *,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str,
    pad: Sequence[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or kernel_sizes
    pads, extra = _pool_pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = torch.ones_like(x[:1, :1])
    if not exclude_padding_from_average:
        counted = _padded(counted, pads, [0] * len(extra), 1.0)
        counted = _padded(counted, [0] * len(pads), extra, 0.0)
    else:
        counted = _padded(counted, pads, extra, 0.0)
    totals = _sums(_padded(x, pads, extra, 0.0), kernel_sizes, strides)
    return totals / _sums(counted, kernel_sizes, strides)


@kernel()
def l2_pool(
    x: Tensor,
    *,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or kernel_sizes
    pads, extra = _pool_pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _sums(_padded(x * x, pads, extra, 0.0), kernel_sizes, strides).sqrt()


@kernel(exact=True)
def upsample_nearest_neighbor(
    x: Tensor, *, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    return F.interpolate(x, scale_factor=(scale_factor_height, scale_factor_width), mode="nearest")


@kernel()
def upsample_bilinear(
    x: Tensor,
    *,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    height, width = x.shape[-2:]
    size = int(height * scale_factor_height), int(width * scale_factor_width)
    if align_corners:
        return _bilinear(x, size, _corner_positions)
    half = half_pixel_centers is None or half_pixel_centers
    return _bilinear(x, size, _half_pixel_positions if half else _edge_positions)


@kernel(exact=True)
def resize_nearest_neighbor(
    x: Tensor, *, target_size_height: int, target_size_width: int
) -> Tensor:
    return F.interpolate(x, size=(target_size_height, target_size_width), mode="nearest")


@kernel()
def resize_bilinear(
    x: Tensor,
    *,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    size = target_size_height, target_size_width
    positions = {
        "STRICT_ALIGN_CORNERS": _corner_positions,
        "ALIGN_CORNERS": _corner_positions,
        "UNALIGN_CORNERS": _half_pixel_positions,
        "DEFAULT": _edge_positions,
    }
    if sampling_mode not in positions:
        raise InputError(
            f"the interpreter has no resize_bilinear with sampling_mode {sampling_mode}; it knows"
            f" {', '.join(positions)}: export the model with one of these"
        )
    return _bilinear(x, size, positions[sampling_mode])


def _corner_positions(source: int, target: int) -> Tensor:
    return torch.linspace(0, source - 1, target) if target > 1 else torch.zeros(1)


def _half_pixel_positions(source: int, target: int) -> Tensor:
    return ((torch.arange(target) + 0.5) * source / target - 0.5).clamp(0, source - 1)


def _edge_positions(source: int, target: int) -> Tensor:
    return (torch.arange(target) * source / target).clamp(0, source - 1)


def _bilinear(x: Tensor, size: tuple[int, int], positions) -> Tensor:
    """Separable linear interpolation at the source positions of each target row and column."""
    for axis, target in ((-2, size[0]), (-1, size[1])):
        source = x.shape[axis]
        at = positions(source, target).to(x.dtype)
        low = at.floor().long().clamp(0, source - 1)
        high = (low + 1).clamp(max=source - 1)
        weight = at - low
        if axis == -2:
            weight = weight[:, None]
        x = x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight
    return x
