"""Widen a transfer set: variants of rows that the teacher will label.

The variants keep the task's meaning roughly, not exactly, and carry no label: what they mean is
for the teacher to say. (Of a language model the text is the truth; the pipeline marks such rows as
taught by the teacher alone.) Each is seeded by the content of its row, so the same row gives the same
variants in any order and any run, and their signals are found in the store again.

Text: Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks",
2019 (arXiv:1903.12136), masking and n-gram windows; Wei & Zou, "EDA", EMNLP 2019
(arXiv:1901.11196), deletion and swaps. Images: Zhong et al., "Random Erasing", AAAI 2020
(arXiv:1708.04896), beside the classical shifts, rotations and noise. Audio: Ko et al., "Audio
Augmentation for Speech Recognition", Interspeech 2015, speed perturbation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgekd.data import content_key
from edgekd.errors import InputError, nearest
from edgekd.preprocess import Row
from edgekd.signals.keys import NOT_CONTENT, key

SHARE = 0.1  # of words masked, deleted or swapped; of an image's side or a clip shifted

Random = np.random.Generator
Words = list[str]


def mask(words: Words, random: Random, token: str = "[MASK]") -> Words:
    """Replace each word by the mask token with a chance of ``SHARE``, one at least."""
    return [token if hit else word for word, hit in zip(words, _hits(words, random), strict=True)]


def delete(words: Words, random: Random) -> Words:
    """Drop each word with a chance of ``SHARE``, one at least, never the last one left."""
    kept = [word for word, hit in zip(words, _hits(words, random), strict=True) if not hit]
    return kept or words


def swap(words: Words, random: Random) -> Words:
    """Swap neighbours, one pair in every 1 / ``SHARE`` words, one at least."""
    words = list(words)
    for _ in range(max(1, round(SHARE * len(words))) if len(words) > 1 else 0):
        place = int(random.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
    return words


def window(words: Words, random: Random) -> Words:
    """Keep an n-gram of at least half of the words."""
    size = int(random.integers((len(words) + 1) // 2, len(words) + 1))
    start = int(random.integers(len(words) - size + 1))
    return words[start : start + size]


def shift_image(image: np.ndarray, random: Random) -> np.ndarray:
    """Move by up to ``SHARE`` of each side (a pixel at least), repeating the border."""
    reach = [max(1, round(SHARE * side)) for side in image.shape[:2]]
    moves = [int(random.integers(-limit, limit + 1)) for limit in reach]
    rows, columns = (
        np.clip(np.arange(side) - move, 0, side - 1)
        for side, move in zip(image.shape, moves, strict=False)
    )
    return image[rows][:, columns]


def rotate(image: np.ndarray, random: Random) -> np.ndarray:
    """Turn by up to 10 degrees about the centre, bilinear, repeating the border."""
    from scipy.ndimage import rotate as turn

    angle = float(random.uniform(-10, 10))
    return turn(image, angle, reshape=False, order=1, mode="nearest")


def noise_image(image: np.ndarray, random: Random) -> np.ndarray:
    """Add Gaussian noise with a standard deviation of up to 10 of 255 levels."""
    noise = random.normal(0, random.uniform(2, 10), image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(image.dtype)


def erase(image: np.ndarray, random: Random) -> np.ndarray:
    """Paint a rectangle of 2 to 10 % of the area with the mean colour."""
    height, width = image.shape[:2]
    area, aspect = random.uniform(0.02, 0.1) * height * width, random.uniform(0.5, 2)
    tall = int(np.clip(round((area * aspect) ** 0.5), 1, height))
    wide = int(np.clip(round((area / aspect) ** 0.5), 1, width))
    top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
    out = image.copy()
    out[top : top + tall, left : left + wide] = image.mean((0, 1))
    return out


def shift_audio(samples: np.ndarray, random: Random) -> np.ndarray:
    """Move in time by up to ``SHARE`` of the clip; silence fills the gap."""
    limit = max(1, round(SHARE * len(samples)))
    move = int(random.integers(-limit, limit + 1))
    out = np.zeros_like(samples)
    if move >= 0:
        out[move:] = samples[: len(samples) - move]
    else:
        out[:move] = samples[-move:]
    return out


def gain(samples: np.ndarray, random: Random) -> np.ndarray:
    """Make louder or softer by up to 6 dB, clipped to the range of the dtype (±1 for floats)."""
    return _limited(samples * 10 ** (random.uniform(-6, 6) / 20), samples)


def noise_audio(samples: np.ndarray, random: Random) -> np.ndarray:
    """Add white noise 20 to 40 dB below the clip's own power."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) ** 0.5
    level = power * 10 ** (-random.uniform(20, 40) / 20)
    return _limited(samples + random.normal(0, 1, samples.shape) * level, samples)


def speed(samples: np.ndarray, random: Random) -> np.ndarray:
    """Play 0.9 to 1.1 times as fast: the length and the pitch change together."""
    factor = float(random.uniform(0.9, 1.1))
    places = np.arange(0, len(samples) - 1, factor)
    return _limited(np.interp(places, np.arange(len(samples)), samples), samples)


Operation = Callable[[Any, Random], Any]
OPERATIONS: dict[str, dict[str, Operation]] = {
    "text": {"mask": mask, "delete": delete, "swap": swap, "window": window},
    "image": {"shift": shift_image, "rotate": rotate, "noise": noise_image, "erase": erase},
    "audio": {"shift": shift_audio, "gain": gain, "noise": noise_audio, "speed": speed},
}
COLUMNS = {
    "text": "text",
    "text_pair": "text",
    "tokens": "text",
    "image": "image",
    "audio": "audio",
}


def augment(
    row: Row,
    number: int,
    operations: Sequence[str] | None = None,
    seed: int = 0,
    mask_token: str | None = None,
) -> dict[str, Any]:
    """Return variant ``number`` of a row, without its label.

    Each of ``operations`` (names of ``OPERATIONS`` for the row's kind; all by default) is applied
    with a chance of one half, one at least. Words are what white space separates; ``mask_token``
    is the teacher's tokenizer's own, and without one no word is masked. Images are
    uint8 [height, width(, channels)]; audio is [samples], floats in ±1 or integers.
    Raises :class:`InputError` for an unknown operation or a row with nothing to augment.
    """
    content = {k: v for k, v in row.items() if k not in NOT_CONTENT}
    columns = [name for name in COLUMNS if content.get(name) is not None]
    if not columns:
        raise InputError(f"a row with the columns {list(row)} has nothing to augment")
    digest = hashlib.blake2b(key(row) + f"{seed}/{number}".encode(), digest_size=16).digest()
    random = np.random.default_rng(int.from_bytes(digest, "little"))
    for column in columns:
        kind = COLUMNS[column]
        names = check_operations(kind, operations, mask_token)
        known = dict(OPERATIONS[kind])
        if kind == "text" and mask_token is not None:
            known["mask"] = partial(mask, token=mask_token)
        chosen = [name for name in names if random.random() < 0.5]
        chosen = chosen or [names[int(random.integers(len(names)))]]
        value = content[column]
        if isinstance(value, str):
            words = value.split()
            for name in chosen if words else []:
                words = known[name](words, random)
            content[column] = " ".join(words)
        elif len(value):
            value = list(value) if kind == "text" else np.asarray(value)
            for name in chosen:
                value = known[name](value, random)
            content[column] = value
    return content


def check_operations(
    kind: str, operations: Sequence[str] | None, mask_token: str | None = None
) -> list[str]:
    """Return the operations to draw from, or refuse an unknown one by its nearest name."""
    known = dict(OPERATIONS[kind])
    if kind == "text" and mask_token is None:
        del known["mask"]
        if operations and "mask" in operations:
            raise InputError(
                "the teacher's tokenizer has no mask token, so data.augment.operations cannot have"
                f" mask; there are {', '.join(known)}"
            )
    for name in operations or ():
        if name not in known:
            raise InputError(
                f"unknown {kind} augmentation '{name}'{nearest(name, list(known))};"
                f" there are {', '.join(known)}"
            )
    return list(operations or known)


def widen(
    rows: Iterable[Row],
    copies: int,
    *,
    test: Iterable[Row] = (),
    operations: Sequence[str] | None = None,
    seed: int = 0,
    mask_token: str | None = None,
) -> list[dict[str, Any]]:
    """Return up to ``copies`` new, unlabelled variants of each row.

    What equals a row, another variant, or a row of ``test`` is left out (text is compared without
    case and spacing), so a transfer set can never hold what it will be judged on.
    """
    if copies < 0:
        raise InputError(f"the number of augmented copies must be 0 or more, not {copies}")
    originals = list(rows)
    seen = {_identity(row) for row in (*originals, *test)}
    variants = []
    for row in originals:
        for number in range(copies):
            variant = augment(row, number, operations, seed, mask_token)
            identity = _identity(variant)
            if identity not in seen:
                seen.add(identity)
                variants.append(variant)
    return variants


def _identity(row: Mapping[str, Any]) -> bytes:
    """Two rows with the same identity are the same example."""
    if row.get("text") is not None or row.get("image") is not None:
        return content_key(row)
    return key({name: v for name, v in row.items() if name in COLUMNS})


def _hits(words: Words, random: Random) -> np.ndarray:
    hits = random.random(len(words)) < SHARE
    if not hits.any():
        hits[int(random.integers(len(words)))] = True
    return hits


def _limited(samples: np.ndarray, like: np.ndarray) -> np.ndarray:
    if like.dtype.kind == "f":
        return np.clip(samples, -1, 1).astype(like.dtype)
    limits = np.iinfo(like.dtype)
    return np.clip(np.rint(samples), limits.min, limits.max).astype(like.dtype)
