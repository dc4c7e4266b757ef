"""Encode rows as a peer's user does: with transformers' own processors, in the peer's environment.

A row is encoded alone, without padding, as the peers' pipelines do for a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def encode(
    student: Path, rows: Sequence[Mapping[str, np.ndarray]], length: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Model inputs of each row, batch 1; ``length`` pads texts to that many tokens."""
    if "text" in rows[0]:
        return [_text(_tokenizer(student), row, length) for row in rows]
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if "image" in rows[0]:
        images = AutoImageProcessor.from_pretrained(student, use_fast=False)
        return [_image(images, row["image"]) for row in rows]
    sounds = AutoFeatureExtractor.from_pretrained(student)
    return [_arrays(sounds(row["audio"], sampling_rate=sounds.sampling_rate)) for row in rows]


_tokenizers: dict[Path, Any] = {}


def _tokenizer(student: Path) -> Any:
    from transformers import AutoTokenizer

    if student not in _tokenizers:
        _tokenizers[student] = AutoTokenizer.from_pretrained(student)
    return _tokenizers[student]


def _text(tokenizer: Any, row: Mapping[str, np.ndarray], length: int | None) -> dict[str, Any]:
    texts = [str(row[name]) for name in ("text", "text_pair") if name in row]
    padding = {"padding": "max_length", "max_length": length} if length else {}
    return _arrays(tokenizer(*[[text] for text in texts], truncation=True, **padding))


def _image(processor: Any, image: np.ndarray) -> dict[str, Any]:
    """Grey images get their channel axis, which the processor does not add by itself."""
    shaped = image if image.ndim == 3 else image[:, :, None]
    return _arrays(processor([shaped], input_data_format="channels_last"))


def _arrays(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in batch.items()}
