"""Encode rows as a peer's user does: with transformers' own processors, in the peer's environment.

A row is encoded alone, without padding, as the peers' pipelines do for a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def encode(student: Path, rows: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Model inputs of each row, batch 1."""
    if "text" in rows[0]:
        return _texts(student, rows)
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if "image" in rows[0]:
        images = AutoImageProcessor.from_pretrained(student, use_fast=False)
        return [_image(images, row["image"]) for row in rows]
    sounds = AutoFeatureExtractor.from_pretrained(student)
    return [_arrays(sounds(row["audio"], sampling_rate=int(row["sampling_rate"]))) for row in rows]


def of_one_length(
    student: Path, rows: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Texts cut to their median length, batch 1; those that are shorter are left out."""
    lengths = [feed["input_ids"].shape[1] for feed in _texts(student, rows)]
    length = int(np.median(lengths))
    long = [row for row, own in zip(rows, lengths, strict=True) if own >= length]
    return _texts(student, long, max_length=length)


def _texts(
    student: Path, rows: Sequence[Mapping[str, np.ndarray]], **limits: int
) -> list[dict[str, np.ndarray]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student)
    return [
        _arrays(
            tokenizer(
                *([str(row[name])] for name in ("text", "text_pair") if name in row),
                truncation=True,
                **limits,
            )
        )
        for row in rows
    ]


def _image(processor: Any, image: np.ndarray) -> dict[str, Any]:
    """Grey images get their channel axis, which the processor does not add by itself."""
    shaped = image if image.ndim == 3 else image[:, :, None]
    return _arrays(processor([shaped], input_data_format="channels_last"))


def _arrays(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in batch.items()}
