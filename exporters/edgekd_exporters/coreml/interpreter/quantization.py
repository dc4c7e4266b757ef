"""Activations to 8 bit and back, and the decompression of compressed weights.

The ``constexpr_*`` kernels run once, when a program is compiled: Core ML, too, decompresses
when it loads or computes, never while converting. They take numpy arrays and keep the width
in which the package stores the result (fp16 scales give fp16 weights).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel


def _along(value: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """Reshape a scale or zero point per channel so that it broadcasts along ``axis``."""
    if value.ndim == 0 or axis is None:
        return value
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


@kernel()
def quantize(
    input: Tensor,  # the MIL definition's own parameter name
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int | None = None,
    output_dtype: str,
) -> Tensor:
    low, high = (-128, 127) if output_dtype == "int8" else (0, 255)
    levels = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        levels = levels + _along(zero_point, input, axis)
    return levels.clamp(low, high).to(torch.int32)


@kernel()
def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int | None = None
) -> Tensor:
    levels = input.float()
    if zero_point is not None:
        levels = levels - _along(zero_point, input, axis)
    return levels * _along(scale, input, axis)


def unpacked(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Read ``count`` unsigned integers of up to 8 ``bits``, least significant bit first."""
    if bits == 8:
        return data[:count]
    stream = np.unpackbits(data, count=bits * count, bitorder="little").reshape(count, bits)
    values = np.zeros(count, np.uint8)
    for bit in range(bits):  # a byte per value: an embedding has tens of millions of them
        values |= stream[:, bit] << bit
    return values


def _blocks(parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat one value per block until it has the size of the data on every axis."""
    for axis, size in enumerate(shape):
        if parameter.shape[axis] != size:
            parameter = np.repeat(parameter, size // parameter.shape[axis], axis)
    return parameter


def affine_dequantize(
    quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: int
) -> np.ndarray:
    shape = [1] * quantized_data.ndim
    shape[axis] = -1
    zero, scale = np.asarray(zero_point), np.asarray(scale)
    centred = quantized_data.astype(np.float32) - (
        zero.reshape(shape) if zero.ndim else zero
    ).astype(np.float32)
    wide = centred * (scale.reshape(shape) if scale.ndim else scale).astype(np.float32)
    return wide.astype(scale.dtype)


def blockwise_shift_scale(
    data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None
) -> np.ndarray:
    wide = data.astype(np.float32)
    if offset is not None:
        wide = wide - _blocks(offset, data.shape).astype(np.float32)
    return (wide * _blocks(scale, data.shape).astype(np.float32)).astype(scale.dtype)


def lut_to_dense(
    indices: np.ndarray,
    lut: np.ndarray,
    shape: np.ndarray | None = None,
    vector_axis: int | None = None,
) -> np.ndarray:
    """iOS 16: packed ``indices`` and one table; iOS 18: a table (of vectors) per group."""
    if shape is not None:
        size = tuple(int(n) for n in shape)
        return lut[unpacked(indices, int(lut.size).bit_length() - 1, int(np.prod(size)))].reshape(
            size
        )
    groups, (palettes, width) = lut.shape[:-2], lut.shape[-2:]
    tables = lut.reshape(-1, palettes, width)
    group = np.arange(len(tables)).reshape(groups)
    dense = tables[_blocks(group, indices.shape), indices.astype(np.int64)]  # [..., width]
    if width == 1:
        return dense[..., 0]
    axis = int(vector_axis or 0) % indices.ndim
    merged = list(indices.shape)
    merged[axis] *= width
    return np.moveaxis(dense, -1, axis + 1).reshape(merged)


def sparse_to_dense(
    nonzero_data: np.ndarray, mask: np.ndarray, shape: np.ndarray | None = None
) -> np.ndarray:
    if shape is not None:
        size = tuple(int(n) for n in shape)
        mask = unpacked(mask, 1, int(np.prod(size))).reshape(size)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


def lut_to_sparse(
    indices_mask: np.ndarray,
    indices_nonzero_data: np.ndarray,
    lut: np.ndarray,
    vector_axis: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    dense = lut_to_dense(
        sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis=vector_axis
    )
    mask = indices_mask
    if vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(
    data_mask: np.ndarray,
    nonzero_data: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def cast_constant(source_val: np.ndarray, output_dtype: str) -> np.ndarray:
    return np.asarray(source_val, np.float32 if output_dtype == "fp32" else np.float16)


CONSTEXPR: dict[str, Any] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_cast": cast_constant,
}
