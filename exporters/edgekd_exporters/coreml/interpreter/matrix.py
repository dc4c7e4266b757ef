"""Matrix products: linear, matmul, einsum, attention, and the recurrent LSTM and GRU.

Products accumulate in fp32 whatever the program's type: a device accumulates at least that
widely in most of its kernels, and where it does not, nobody documents how.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_exporters.coreml.interpreter.registry import kernel


@kernel()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@kernel()
def matmul(x: Tensor, y: Tensor, *, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


@kernel()
def einsum(values: Sequence[Tensor], *, equation: str) -> Tensor:
    return torch.einsum(equation, *values)


@kernel()
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


@kernel()
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    *,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` is [steps, batch, input]; the gates are packed in the order i, f, o, z."""
    gate, cell, out = (_ACTIVATIONS[n] for n in (recurrent_activation, cell_activation, activation))

    def scan(x, h, c, w_ih, w_hh, b):
        outputs = []
        for step in F.linear(x, w_ih, b):
            i, f, o, z = (step + F.linear(h, w_hh)).chunk(4, -1)
            if clip is not None:
                i, f, o, z = (t.clamp(-clip, clip) for t in (i, f, o, z))
            c = gate(f) * c + gate(i) * cell(z)
            h = gate(o) * out(c)
            outputs.append(h)
        return torch.stack(outputs), h, c

    if direction != "bidirectional":
        backward = direction == "reverse"
        steps, h, c = scan(
            x.flip(0) if backward else x, initial_h, initial_c, weight_ih, weight_hh, bias
        )
        steps = steps.flip(0) if backward and output_sequence else steps
        return steps if output_sequence else h[None], h, c
    h_forward, h_back = initial_h.chunk(2, -1)
    c_forward, c_back = initial_c.chunk(2, -1)
    ahead, h1, c1 = scan(x, h_forward, c_forward, weight_ih, weight_hh, bias)
    back, h2, c2 = scan(x.flip(0), h_back, c_back, weight_ih_back, weight_hh_back, bias_back)
    h, c = torch.cat([h1, h2], -1), torch.cat([c1, c2], -1)
    both = torch.cat([ahead, back.flip(0)], -1)
    return both if output_sequence else h[None], h, c


@kernel()
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    input_bias: Tensor | None = None,
    *,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
) -> tuple[Tensor, Tensor]:
    """``x`` is [steps, batch, input]; the gates are packed in the order r, z, o."""
    gate, out = _ACTIVATIONS[recurrent_activation], _ACTIVATIONS[activation]
    size = initial_h.shape[-1]
    inputs = F.linear(x, weight_ih, input_bias)
    if bias is None:
        bias = x.new_zeros(3 * size)
    if direction == "reverse":
        inputs = inputs.flip(0)
    h, outputs = initial_h, []
    for step in inputs:
        xr, xz, xo = step.chunk(3, -1)
        hr, hz = F.linear(h, weight_hh[: 2 * size], bias[: 2 * size]).chunk(2, -1)
        r, z = gate(xr + hr), gate(xz + hz)
        w, b = weight_hh[2 * size :], bias[2 * size :]
        candidate = r * F.linear(h, w, b) if reset_after else F.linear(r * h, w, b)
        o = out(xo + candidate)
        h = z * h + (1 - z) * o
        outputs.append(h)
    steps = torch.stack(outputs)
    if direction == "reverse":
        steps = steps.flip(0)
    return steps if output_sequence else h[None], h
