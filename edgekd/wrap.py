"""Wrap a Hugging Face model for deployment: named tensors in, plain tensors out.

transformers builds its attention masks from ops that converters lack and from values that
overflow in fp16. The wrapper therefore hands the model a ready additive mask (0 / -1e4), which
its mask code passes through untouched, and proves on the program's own rows that the outputs are
the model's; a family that does its own mask arithmetic (DeBERTa-v2) keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.audio import AudioPreprocessor
from edgekd.bundle import TensorSpec
from edgekd.errors import InputError
from edgekd.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor
from edgekd.program import MASKED, Program
from edgekd.tasks.base import Task

# The wrapped mask must reproduce the model's own outputs to this relative error.
MASK_TOLERANCE = 1e-4


class Wrapped(nn.Module):
    """Calls ``model`` with ``names`` bound to positional tensors and reads the task's outputs."""

    def __init__(self, model: nn.Module, names: Sequence[str], task: Task, mask: str) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.task = task
        self.mask = mask  # "additive", "causal" (additive, lower triangular) or "own"

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feeds = dict(zip(self.names, tensors, strict=True))
        real = feeds.get("attention_mask")
        if real is not None and self.mask != "own":
            # Scaled in float32: 0 where attended, -1e4 where padded, shape [batch, 1, 1, keys].
            keep = real.to(torch.float32)[:, None, None, :]
            additive = (1.0 - keep) * MASKED
            if self.mask == "causal":
                length = real.shape[1]
                future = torch.ones(length, length).triu(1) * MASKED
                additive = torch.clamp(additive + future, min=MASKED)
            feeds["attention_mask"] = additive
        read = self.task.read(self.model(**feeds), self.model.config, real)
        return tuple(read[name] for name in self.task.outputs)


def wrap(
    model: nn.Module,
    task: Task,
    preprocessor: Preprocessor,
    labels: Sequence[str],
    rows: Sequence[Row],
    provenance: Mapping[str, Any] | None = None,
) -> Program:
    """Return the deployable program of a Hugging Face ``model``.

    ``rows`` are real examples (8 to 32 of them); they prove the mask here and become the golden
    samples of each bundle. Raises :class:`InputError` where the model lacks an output that the
    task needs.
    """
    model = model.eval().float()
    config = model.config
    inputs = _input_specs(preprocessor, config)
    arrays = preprocessor.encode(rows)
    module = _choose_mask(model, [spec.name for spec in inputs], task, arrays)
    with torch.inference_mode():
        values = module(*(torch.from_numpy(arrays[spec.name]) for spec in inputs))
    outputs = tuple(
        TensorSpec(name, "float32", _output_shape(value, arrays, inputs, task.per_token))
        for name, value in zip(task.outputs, values, strict=True)
    )
    return Program(
        module=module,
        task=task.name,
        inputs=inputs,
        outputs=outputs,
        labels=tuple(labels),
        preprocessor=preprocessor,
        rows=list(rows),
        provenance={
            "architecture": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "mask": module.mask,
            **(provenance or {}),
        },
    )


def _input_specs(preprocessor: Preprocessor, config: Any) -> tuple[TensorSpec, ...]:
    if isinstance(preprocessor, TextPreprocessor):
        tops = {"input_ids": config.vocab_size - 1, "attention_mask": 1}
        tops["token_type_ids"] = max(getattr(config, "type_vocab_size", 1) - 1, 0)
        return tuple(
            TensorSpec(name, "int64", ("batch", "sequence"), (0, tops[name]))
            for name in preprocessor.inputs
        )
    if isinstance(preprocessor, ImagePreprocessor):
        size = (preprocessor.channels, preprocessor.height, preprocessor.width)
        low, high = preprocessor.value_range()
        return (TensorSpec(preprocessor.inputs[0], "float32", ("batch", *size), (low, high)),)
    if isinstance(preprocessor, AudioPreprocessor):
        sizes = {"input_values": preprocessor.shape, "attention_mask": (preprocessor.length,)}
        return tuple(
            TensorSpec(name, "int64", ("batch", *sizes[name]), (0, 1))
            if name == "attention_mask"
            else TensorSpec(name, "float32", ("batch", *sizes[name]), preprocessor.value_range())
            for name in preprocessor.inputs
        )
    raise InputError(f"cannot deploy preprocessing of kind {preprocessor.kind!r}")


def _choose_mask(
    model: nn.Module, names: list[str], task: Task, arrays: Mapping[str, np.ndarray]
) -> Wrapped:
    """The first mask form whose outputs on real rows are the model's own."""
    from edgekd.exporter import relative_error

    own = Wrapped(model, names, task, "own").eval()
    if "attention_mask" not in names:
        return own
    tensors = [torch.from_numpy(arrays[name]) for name in names]
    attended = arrays["attention_mask"].astype(bool)

    def outputs(module: Wrapped) -> list[np.ndarray]:
        with torch.inference_mode():
            values = [value.numpy() for value in module(*tensors)]
        # Per-token outputs at padded positions are nobody's business.
        return [v[attended] if v.shape[:2] == attended.shape else v for v in values]

    try:
        expected = outputs(own)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{type(model).__name__} has no output {', '.join(task.outputs)} for the task"
            f" {task.name}: {error}"
        ) from error
    for mask in ("additive", "causal"):
        candidate = Wrapped(model, names, task, mask).eval()
        try:
            found = outputs(candidate)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue  # the family does its own mask arithmetic
        if all(
            relative_error(a, b) <= MASK_TOLERANCE for a, b in zip(found, expected, strict=True)
        ):
            return candidate
    return own


def _output_shape(
    value: torch.Tensor,
    arrays: Mapping[str, np.ndarray],
    inputs: Sequence[TensorSpec],
    per_token: bool,
) -> tuple[int | str, ...]:
    """Name the batch axis, and the sequence axis where an output keeps it."""
    first = arrays[inputs[0].name]
    shape: list[int | str] = list(value.shape)
    shape[0] = "batch"
    if (
        inputs[0].shape[1:2] == ("sequence",)
        and (per_token or len(shape) > 2)
        and shape[1] == first.shape[1]
    ):
        shape[1] = "sequence"
    return tuple(shape)
