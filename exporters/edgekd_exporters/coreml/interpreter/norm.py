"""Normalisations. Statistics are taken in fp32; only the result is rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel


@kernel()
def layer_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    axes: Sequence[int] | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    axes = sorted(a % x.ndim for a in (axes if axes is not None else range(x.ndim)))
    if axes == list(range(axes[0], x.ndim)):
        return F.layer_norm(x, x.shape[axes[0] :], gamma, beta, epsilon)
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    shape = [x.shape[a] if a in axes else 1 for a in range(x.ndim)]
    normal = normal * gamma.view(shape) if gamma is not None else normal
    return normal + beta.view(shape) if beta is not None else normal


@kernel()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@kernel()
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, epsilon: float = 1e-5
) -> Tensor:
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    shape = (1, -1) + (1,) * len(axes)
    normal = normal * gamma.view(shape) if gamma is not None else normal
    return normal + beta.view(shape) if beta is not None else normal


@kernel()
def l2_norm(x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes: x / sqrt(sum(x²) + epsilon)."""
    axes = list(range(-min(3, x.ndim), 0))
    return x * torch.rsqrt(x.square().sum(axes, keepdim=True) + epsilon)


@kernel()
def local_response_norm(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, k)
