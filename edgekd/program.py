"""A student wrapped for deployment, with its input spec: what every target lowers.

The wrapper hands the model a ready 4-D additive float mask (0 and -1e4), takes named inputs in
order and returns plain tensors. ``torch.export`` captures of it are memoised, one per shape
signature, so that ONNX and Core ML start from the same graph and cannot drift apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.bundle import TensorSpec
from edgekd.preprocess import Preprocessor, Row

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

MASKED = -1e4  # far below any score, and finite in fp16, where finfo(float32).min is -inf


@dataclass(frozen=True)
class Shapes:
    """The shape signature of a capture.

    ``batch`` None is dynamic. ``lengths`` names the sizes of the variable axis (``sequence``):
    empty is dynamic up to the preprocessor's maximum, one value is fixed, several are
    enumerated (captured dynamic; the exporter restricts them).
    """

    batch: int | None = None
    lengths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Short form for a bundle's variant: ``dynamic``, ``b1-l64``, ``b1-l16.32.64``."""
        if self.batch is None and not self.lengths:
            return "dynamic"
        length = ".".join(map(str, self.lengths)) or "dynamic"
        return f"b{self.batch or 'dynamic'}-l{length}"


@dataclass
class Program:
    """A wrapped module in eval mode, its specs, and what a bundle must know about it."""

    module: torch.nn.Module  # positional inputs in the order of ``inputs``; returns a tuple
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    preprocessor: Preprocessor
    rows: Sequence[Row]  # real examples: numerics are checked and golden samples taken on these
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _captures: dict[Shapes, ExportedProgram] = field(default_factory=dict, repr=False)

    def capture(self, shapes: Shapes) -> ExportedProgram:
        """Return the ``torch.export`` program for ``shapes``, captured once."""
        if shapes not in self._captures:
            self._captures[shapes] = _capture(self, shapes)
        return self._captures[shapes]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the wrapped module in torch: the reference that every export is compared with."""
        import torch

        with torch.inference_mode():
            values = self.module(*(torch.from_numpy(arrays[spec.name]) for spec in self.inputs))
        return {
            spec.name: value.float().numpy()
            for spec, value in zip(self.outputs, values, strict=True)
        }

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def _capture(program: Program, shapes: Shapes) -> ExportedProgram:
    import torch

    from edgekd.passes import drop_full_mask, select_first_token

    # Two rows and a middling length: sizes 0 and 1 would be specialised into the graph.
    example_batch = shapes.batch or 2
    maximum = getattr(program.preprocessor, "max_length", 0)
    fixed = len(shapes.lengths) == 1
    example_length = shapes.lengths[0] if fixed else max(2, min(maximum, 16))
    sizes: dict[Any, int] = {"batch": example_batch, "sequence": example_length}
    dims: dict[Any, Any] = {}
    if shapes.batch is None:
        dims["batch"] = torch.export.Dim("batch")
    if not fixed:
        top = max(shapes.lengths) if shapes.lengths else maximum
        dims["sequence"] = torch.export.Dim("sequence", max=top) if top else None
    example, dynamic = [], []
    for spec in program.inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        dtype = getattr(torch, spec.dtype)
        example.append(torch.ones(shape, dtype=dtype))
        dynamic.append({i: dims[d] for i, d in enumerate(spec.shape) if dims.get(str(d))})
    # torch.export sees `forward(*tensors)` as one argument that is a tuple.
    kinds = [p.kind for p in inspect.signature(program.module.forward).parameters.values()]
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds
    dynamic_shapes: Any = (tuple(dynamic),) if variadic else tuple(dynamic)
    with torch.no_grad():
        exported = torch.export.export(
            program.module,
            tuple(example),
            dynamic_shapes=dynamic_shapes if any(dynamic) else None,
            strict=False,
        )
    drop_full_mask.apply(exported)
    select_first_token.apply(exported)
    return exported
