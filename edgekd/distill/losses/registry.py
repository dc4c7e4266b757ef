"""All losses by name. A new one is one file and one line here."""

from __future__ import annotations

from edgekd.distill.losses import (
    attention,
    binary,
    decoupled,
    dist,
    embedding,
    hard,
    hidden,
    logits,
    regression,
    relation,
    sampled,
    span,
    standardised,
)
from edgekd.distill.losses.base import Law, Loss

_FILES = (
    hard,
    binary,
    regression,
    logits,
    standardised,
    decoupled,
    dist,
    sampled,
    hidden,
    attention,
    relation,
    embedding,
    span,
)

LOSSES: dict[str, Loss] = {loss.name: loss for file in _FILES for loss in file.LOSSES}


def table() -> str:
    """The losses and the laws that each declares, as Markdown."""
    head = ["loss", "weight", *Law, "couples samples", "source"]
    rows = [
        [
            loss.name,
            loss.weight,
            *("yes" if law in loss.laws else "–" for law in Law),
            "yes" if loss.couples_samples else "–",
            loss.source,
        ]
        for loss in LOSSES.values()
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
