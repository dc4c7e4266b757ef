"""Random inputs for any registered loss, by the names of what it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgekd.distill.losses import Loss
from edgekd.signals.sampled import sample

CLASSES, WIDTH, LAYERS, HEADS = 7, 8, 3, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "hidden": {"layers": ((0, 0), (-1, -1))},
    "attention": {"layers": ((0, 0), (-1, -1))},
    "relation": {"heads": HEADS, "pairs": ("q-k", "q-q", "k-k", "v-v")},
}
KEPT = 3


def positional(loss: Loss) -> bool:
    return "student.embedding" not in loss.reads


def make(
    loss: Loss, seed: int, batch: int, lengths: list[int], scale: float = 2.0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Student outputs and a batch, float64, padded to the longest of ``lengths``."""
    random = torch.Generator().manual_seed(seed)
    width = max(*lengths, 1)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64) * scale

    def attentions() -> list[torch.Tensor]:
        scores = [normal(batch, HEADS, width, width) for _ in range(LAYERS)]
        floor = [s.masked_fill(~mask[:, None, None, :], -1e9) for s in scores]
        return [s.softmax(-1) for s in floor]

    kinds = {
        "logits": lambda: normal(batch, width, CLASSES),
        "hidden_states": lambda: [normal(batch, width, WIDTH) for _ in range(LAYERS)],
        "attentions": attentions,
        "qkv": lambda: normal(batch, width, 3, WIDTH),
        "embedding": lambda: normal(batch, WIDTH),
        "start_logits": lambda: normal(batch, width),
        "end_logits": lambda: normal(batch, width),
        "labels": lambda: labels(loss, random, batch, width),
    }
    outputs: dict[str, Any] = {}
    entries: dict[str, Any] = {"mask": mask, "attention_mask": mask}
    for name in loss.reads:
        source, _, kind = name.rpartition(".")
        if source == "student":
            outputs[kind] = kinds[kind]()
        elif kind in kinds:
            entries[name] = kinds[kind]()
    if "teacher.indices" in loss.reads:
        entries |= reduced(normal(batch, width, CLASSES))
    return outputs, entries


def labels(loss: Loss, random: torch.Generator, batch: int, width: int) -> torch.Tensor:
    if loss.name in ("binary_cross_entropy", "regression_labels"):
        values = torch.randint(0, 2, (batch, width, CLASSES), generator=random).double()
        values[torch.rand(values.shape, generator=random) < 0.1] = torch.nan
        return values
    shape = (batch, width) if positional(loss) else (batch,)
    values = torch.randint(0, CLASSES, shape, generator=random)
    values[torch.rand(values.shape, generator=random) < 0.1] = -100
    return values


def reduced(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Some classes of logits, as the store would keep them before it cuts them to fp16."""
    *lead, classes = logits.shape
    values = logits.detach().double().numpy().reshape(-1, classes)
    draw = np.random.default_rng(len(values)).uniform(0.01, 0.99, len(values))
    signals = sample(values, KEPT, draw)
    return {f"teacher.{n}": torch.from_numpy(a.reshape(*lead, -1)) for n, a in signals.items()}


def as_teacher(outputs: dict[str, Any]) -> dict[str, Any]:
    """Teacher signals that are the student's own outputs."""
    same = {f"teacher.{name}": value for name, value in outputs.items()}
    return same | (reduced(outputs["logits"]) if "logits" in outputs else {})


def leaves(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)


def map_tensors(value: Any, function: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list):
        return [map_tensors(item, function) for item in value]
    return {name: map_tensors(item, function) for name, item in value.items()}
