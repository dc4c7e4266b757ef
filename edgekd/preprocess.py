"""Raw rows in, model inputs out: the one encoder of training, evaluation and the device.

Training, evaluation, the exporters and the shipped bundle all call the classes below, and the
bundle ships exactly what they need, so what the student learned on and what it is served cannot
drift apart. Nothing here imports torch or transformers: a phone-side or browser-side user
installs only ``numpy`` and ``tokenizers`` (or ``pillow``).

A *row* is a dict. Text tasks read ``text`` and optionally ``text_pair``, or ``tokens`` (a list
of words); image tasks read ``image`` (a path, a PIL image, or an array of shape [H, W] or
[H, W, C], uint8); audio tasks read ``audio`` (a path, or mono samples as float32 [samples] with
``sampling_rate`` beside them).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from edgekd.errors import InputError

MASK_TOKENS = ("[MASK]", "<mask>")
Row = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


class Preprocessor(Protocol):
    """Turns rows into named arrays, and writes itself into a folder that ships."""

    kind: ClassVar[str]

    def encode(self, rows: Sequence[Row], length: int | None = None) -> Arrays:
        """Encode rows as one batch.

        ``length`` pads (and cuts) the variable axis to a fixed size; ``None`` pads to the
        longest row. Preprocessors without a variable axis ignore it.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the JSON form that :func:`load` reads back; file names are relative."""
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the files that :meth:`describe` names into ``folder``; return their names."""
        ...


@dataclass(frozen=True)
class TextPreprocessor:
    """A fast tokenizer and the padding rules around it.

    Outputs are int64 arrays of shape [batch, sequence] named as in ``inputs``, a subset of
    ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    """

    kind: ClassVar[str] = "text"
    tokenizer_json: str = field(repr=False)
    max_length: int = 128
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    pad_id: int = 0
    pad_token: str = "[PAD]"
    padding_side: str = "right"
    # What other runtimes (transformers.js) want to read beside tokenizer.json.
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        object.__setattr__(self, "_tokenizer", tokenizer)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer  # type: ignore[attr-defined]

    @property
    def mask_token(self) -> str | None:
        """What stands for a hidden word and is read as one piece; None where there is no such."""
        for token in MASK_TOKENS:
            number = self.tokenizer.token_to_id(token)
            if number is not None:
                read = self.tokenizer.encode(token, add_special_tokens=False).ids
                return token if read == [number] else None
        return None

    def encode(self, rows: Sequence[Row], length: int | None = None) -> Arrays:
        return self.pad(self.tokens(rows), length)

    def tokens(self, rows: Sequence[Row]) -> list[Any]:
        """Tokenize without padding: one ``tokenizers.Encoding`` per row.

        Rows with ``tokens`` are words already; the tokenizer only cuts them further.
        """
        if rows and rows[0].get("tokens") is not None:
            words = [list(row["tokens"]) for row in rows]
            return self.tokenizer.encode_batch(words, is_pretokenized=True)
        pairs = [
            (row["text"], row["text_pair"]) if row.get("text_pair") is not None else row["text"]
            for row in rows
        ]
        return self.tokenizer.encode_batch(pairs)

    def each(self, rows: Sequence[Row]) -> Iterator[Any]:
        """What :meth:`tokens` returns, one by one: encodings are large, and few are kept at once."""
        for begin in range(0, len(rows), 1024):
            yield from self.tokens(rows[begin : begin + 1024])

    def pad(self, encodings: Sequence[Any], length: int | None = None) -> Arrays:
        """Pad tokenized rows to ``length`` or to the longest of them."""
        width = length or max((len(e.ids) for e in encodings), default=1) or 1
        shape = (len(encodings), width)
        columns = {
            "input_ids": (np.full(shape, self.pad_id, np.int64), "ids"),
            "attention_mask": (np.zeros(shape, np.int64), "attention_mask"),
            "token_type_ids": (np.zeros(shape, np.int64), "type_ids"),
        }
        for name in self.inputs:
            array, attribute = columns[name]
            for index, encoding in enumerate(encodings):
                values = getattr(encoding, attribute)[:width]
                if self.padding_side == "right":
                    array[index, : len(values)] = values
                else:
                    array[index, width - len(values) :] = values
        return {name: columns[name][0] for name in self.inputs}

    def lengths(self, rows: Sequence[Row]) -> np.ndarray:
        """Tokens per row after truncation: int64 [len(rows)]."""
        return np.array([len(e.ids) for e in self.each(rows)], np.int64)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "tokenizer": "tokenizer.json",
            "max_length": self.max_length,
            "inputs": list(self.inputs),
            "pad_id": self.pad_id,
            "pad_token": self.pad_token,
            "padding_side": self.padding_side,
        }

    def save(self, folder: Path) -> list[str]:
        (folder / "tokenizer.json").write_text(self.tokenizer_json, encoding="utf-8")
        config = {
            **self.tokenizer_config,
            "model_max_length": self.max_length,
            "padding_side": self.padding_side,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        return ["tokenizer.json", "tokenizer_config.json"]


@dataclass(frozen=True)
class ImagePreprocessor:
    """Resize, rescale and normalise images into float32 [batch, channels, height, width].

    With ``shortest_edge`` the shorter side is resized to it and the middle cut out, as the
    convolutional families were trained; without, the image is resized to its target directly.
    """

    kind: ClassVar[str] = "image"
    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1 / 255
    resample: int = 2  # PIL's numbering: 0 nearest, 2 bilinear, 3 bicubic
    shortest_edge: int | None = None
    inputs: tuple[str, ...] = ("pixel_values",)

    def __post_init__(self) -> None:
        # numpy would broadcast three means over one channel, and make three channels of it.
        if not len(self.mean) == len(self.std) == self.channels:
            raise InputError(
                f"the preprocessing has {len(self.mean)} means and {len(self.std)} deviations for"
                f" images of {self.channels} channels; give one of each per channel"
            )

    def encode(self, rows: Sequence[Row], length: int | None = None) -> Arrays:
        shape = (len(rows), self.channels, self.height, self.width)
        pixels = np.empty(shape, np.float32)
        for index, row in enumerate(rows):
            pixels[index] = self.pixels(row["image"])
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        return {self.inputs[0]: (pixels * np.float32(self.scale) - mean) / std}

    def pixels(self, image: Any) -> np.ndarray:
        """Return one image as float32 [channels, height, width] in 0..255, resized."""
        from PIL import Image

        if isinstance(image, str | Path):
            try:
                image = Image.open(image)
                image.load()
            except OSError as error:
                raise InputError(f"cannot read the image {image}: {error}") from error
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.asarray(image, np.uint8))
        image = image.convert("L" if self.channels == 1 else "RGB")
        if self.shortest_edge:
            image = _centre_cut(image, self.shortest_edge, self.width, self.height, self.resample)
        elif image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), self.resample)
        array = np.asarray(image, np.float32)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def value_range(self) -> tuple[float, float]:
        """The least and greatest value that a pixel can take after normalisation."""
        ends = [
            (v * self.scale - m) / s
            for v in (0, 255)
            for m, s in zip(self.mean, self.std, strict=True)
        ]
        return min(ends), max(ends)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    def save(self, folder: Path) -> list[str]:
        # transformers.js and AutoImageProcessor read this file.
        config = {
            "do_convert_rgb": self.channels == 3,
            "do_resize": True,
            "size": {"shortest_edge": self.shortest_edge}
            if self.shortest_edge
            else {"height": self.height, "width": self.width},
            "do_center_crop": bool(self.shortest_edge),
            "crop_size": {"height": self.height, "width": self.width},
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "image_processor_type": "ViTImageProcessor",
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
        return ["preprocessor_config.json"]


def _centre_cut(image: Any, edge: int, width: int, height: int, resample: int) -> Any:
    factor = edge / min(image.size)
    size = tuple(max(round(side * factor), 1) for side in image.size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.resize(size, resample).crop((left, top, left + width, top + height))


def load(description: Mapping[str, Any], folder: Path) -> Preprocessor:
    """Read a preprocessor back from what :meth:`Preprocessor.describe` returned.

    Raises :class:`InputError` for a kind that this version does not know or a missing file.
    """
    kind = description.get("kind")
    if kind not in ("audio", "image", "text"):
        raise InputError(
            f"unknown preprocessing kind {kind!r} in {folder}; it needs a newer edgekd"
        )
    try:
        return _load(description, folder)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower for a broken tokenizer.json
        text = " ".join(str(error).split())[:160]
        raise InputError(f"the preprocessing in {folder} cannot be read ({text})") from error


def _load(description: Mapping[str, Any], folder: Path) -> Preprocessor:
    values: dict[str, Any] = dict(description)
    kind = values.pop("kind")
    if kind == "audio":
        from edgekd.audio import AudioPreprocessor

        return AudioPreprocessor(**{**values, "inputs": tuple(values["inputs"])})
    if kind == "image":
        for listed in ("mean", "std", "inputs"):
            values[listed] = tuple(values[listed])
        return ImagePreprocessor(**values)
    path = folder / values.pop("tokenizer")
    config = folder / "tokenizer_config.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; the bundle is incomplete, export it again")
    return TextPreprocessor(
        tokenizer_json=path.read_text(encoding="utf-8"),
        tokenizer_config=json.loads(config.read_text()) if config.is_file() else {},
        **{**values, "inputs": tuple(values["inputs"])},
    )
