"""Decode the pictures and sounds of a data set into arrays, whatever form they come in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import InputError


def located(value: Any, folder: Path) -> Any:
    """A path in a data file is meant from that file's folder, or from here."""
    if isinstance(value, Mapping) and not value.get("bytes"):
        return {**value, "path": located(value.get("path"), folder)}
    if isinstance(value, str) and not Path(value).is_absolute():
        near = folder / value
        return str(near) if near.is_file() else value
    return value


def sound(value: Any, where: str, number: int) -> tuple[np.ndarray, int]:
    """Decode a path, encoded bytes or samples with their rate to mono float32, and the rate."""
    from edgekd import audio

    if isinstance(value, Mapping) and value.get("array") is not None:
        samples = np.asarray(value["array"], np.float32)
        if samples.ndim == 1 and len(samples) and value.get("sampling_rate"):
            return samples, int(value["sampling_rate"])
        raise InputError(f"{where}, row {number}: a sound is mono samples with a sampling_rate")
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes):
        kind = type(value).__name__
        raise InputError(f"{where}, row {number}: a {kind} is no sound; give the path of a file")
    try:
        return audio.read(value)
    except InputError as error:
        raise InputError(f"{where}, row {number}: {error}") from error


def pixels(value: Any, where: str, number: int) -> np.ndarray:
    """Decode a path, a PIL image, encoded bytes or nested lists to uint8 [H, W] or [H, W, C]."""
    from PIL import Image

    try:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            value = io.BytesIO(value)
        if isinstance(value, str | io.BytesIO):
            value = Image.open(value)
        return eight_bits(value)
    except (OSError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}, row {number}: not a readable image ({error})") from error


def eight_bits(image: Any) -> np.ndarray:
    """Grey [H, W] or colour [H, W, 3] in uint8, upright, whatever the file's own mode."""
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode == "I":
            return (np.asarray(image, np.uint32) >> 8).astype(np.uint8)
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an array of shape {array.shape} is no image")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError("pixels are whole numbers from 0 to 255")
    return array[..., :3].astype(np.uint8) if array.ndim == 3 else array.astype(np.uint8)
