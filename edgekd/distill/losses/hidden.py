"""Hidden-state matching: some of the student's layers learn to say what the teacher's say.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv:1412.6550); Jiao et al.,
"TinyBERT", Findings of EMNLP 2020 (arXiv:1909.10351).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.reduction import check_same_shape, per_sample, wide
from edgekd.errors import InputError

LayerMap = Sequence[tuple[int, int]]


class HiddenMatching(nn.Module):
    """Squared difference of hidden states, mean over features and over matched layers: [batch].

    ``layers`` holds pairs (student layer, teacher layer). Where the widths differ, one linear
    projection per pair maps the student's states to the teacher's width; it belongs to the loss,
    is trained with it, and is gone when the loss is.
    """

    def __init__(
        self,
        layers: LayerMap = ((-1, -1),),
        student_width: int | None = None,
        teacher_width: int | None = None,
    ) -> None:
        super().__init__()
        if not layers:
            raise InputError("hidden-state matching needs at least one pair of layers")
        self.layers = tuple((int(s), int(t)) for s, t in layers)
        self.projections = nn.ModuleList(projection(student_width, teacher_width) for _ in layers)

    def forward(
        self,
        student: Sequence[Tensor] | Tensor,
        teacher: Sequence[Tensor] | Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """``student`` and ``teacher`` are layers, each [batch, positions, width], or stacked
        [batch, positions, layers, width] as the signal store keeps them."""
        ours, theirs = unstack(student), unstack(teacher)
        values = []
        for (left, right), project in zip(self.layers, self.projections, strict=True):
            mine, goal = project(wide(ours[left])), wide(theirs[right])
            check_same_shape(mine, goal, "hidden states")
            values.append(per_sample((mine - goal).square().mean(-1), mask))
        return torch.stack(values).mean(0)


def projection(student_width: int | None, teacher_width: int | None) -> nn.Module:
    """A linear map to the teacher's width, or nothing where the widths are the same."""
    if student_width is None or teacher_width is None or student_width == teacher_width:
        return nn.Identity()
    return nn.Linear(student_width, teacher_width, bias=False)


def unstack(layers: Sequence[Tensor] | Tensor) -> Sequence[Tensor]:
    """Layers as a sequence, from that or from [batch, positions, layers, ...]."""
    return layers.unbind(2) if isinstance(layers, Tensor) else layers


def layer_map(
    student_layers: int, teacher_layers: int, chosen: LayerMap | None = None
) -> list[tuple[int, int]]:
    """Return checked pairs of layers, counted from 0; by default evenly spaced, last to last.

    Raises :class:`InputError` for a pair that points past either model.
    """
    if chosen is None:
        return [
            (layer, (layer + 1) * teacher_layers // student_layers - 1)
            for layer in range(student_layers)
            if (layer + 1) * teacher_layers >= student_layers
        ]
    for pair in chosen:
        for layer, count, who in zip(
            pair, (student_layers, teacher_layers), ("student", "teacher"), strict=True
        ):
            if not -count <= layer < count:
                raise InputError(
                    f"the layer map names layer {layer} of the {who}, which has {count} layers"
                    f" (0 to {count - 1})"
                )
    return [(int(s) % student_layers, int(t) % teacher_layers) for s, t in chosen]


LOSSES = (
    Loss(
        name="hidden",
        term="hidden",
        function=HiddenMatching,
        reads=("student.hidden_states", "teacher.hidden_states"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.PADDING, Law.FINITE}),
        source="Romero 2015, arXiv:1412.6550",
        mask="attention_mask",
    ),
)
