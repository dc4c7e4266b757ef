"""Read the preprocessing that a Hugging Face model comes with, as edgekd's own.

What was read is compared with the library's on real rows before it is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import audio, preprocess
from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError
from edgekd.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor


def preprocessor_of(
    source: str,
    config: Any,
    *,
    revision: str | None = None,
    max_length: int | None = None,
    pairs: bool = False,
) -> Preprocessor:
    """Read a model directory's preprocessing as edgekd's own.

    ``pairs`` adds the input that tells the two texts of a pair apart, where the model has one.

    A directory that edgekd wrote says it in ``preprocess.json``; any other is read through its
    tokenizer or its ``preprocessor_config.json``.
    """
    own = Path(source) / "preprocess.json"
    if own.is_file():
        description = json.loads(own.read_text())
        if max_length and "max_length" in description:
            description["max_length"] = min(max_length, description["max_length"])
        return preprocess.load(description, Path(source))
    if is_audio(config):
        return _audio_preprocessor(source, config, revision, max_length)
    if getattr(config, "vocab_size", None):
        return _text_preprocessor(source, config, revision, max_length, pairs)
    return _image_preprocessor(source, config, revision)


def _text_preprocessor(
    source: str, config: Any, revision: str | None, max_length: int | None, pairs: bool
) -> TextPreprocessor:
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"{source} has no usable tokenizer ({' '.join(str(error).split())[:160]}); save the"
            " tokenizer beside the model"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {source} has no tokenizer.json; convert it to a fast one"
        )
    if tokenizer.init_kwargs.get("auto_map"):
        raise InputError(
            f"the tokenizer of {source} needs code from its repository, and edgekd never runs"
            " remote code; use a model whose tokenizer is part of transformers"
        )
    # Without any vocabulary file the library makes up a tokenizer of special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"{source} has no tokenizer; save the tokenizer beside the model")
    size, table = len(tokenizer), config.vocab_size
    if size > table:
        raise InputError(
            f"the tokenizer of {source} has {size} pieces and the model only {table} embeddings:"
            " they do not belong together"
        )
    # XLNet counts positions relatively and says -1.
    positions = max(getattr(config, "max_position_embeddings", None) or 512, 0) or 512
    limit = min(int(tokenizer.model_max_length), positions - position_offset(config))
    wanted = ["input_ids", "attention_mask"]
    if pairs and getattr(config, "type_vocab_size", 0) > 1:
        wanted.append("token_type_ids")
    names = [n for n in wanted if n in tokenizer.model_input_names]
    init = {k: v for k, v in tokenizer.init_kwargs.items() if isinstance(v, str | int | bool)}
    private = ("name_or_path", "is_local", "local_files_only", "backend")
    preprocessor = TextPreprocessor(
        tokenizer_json=tokenizer.backend_tokenizer.to_str(),
        max_length=min(max_length or limit, limit),
        inputs=tuple(names) or ("input_ids", "attention_mask"),
        pad_id=tokenizer.pad_token_id or 0,
        pad_token=tokenizer.pad_token or "",
        padding_side=tokenizer.padding_side,
        tokenizer_config={
            **{k: v for k, v in init.items() if k not in private},
            "tokenizer_class": type(tokenizer).__name__,
        },
    )
    _compare_with_library(source, tokenizer, preprocessor)
    return preprocessor


# Families whose positions start after the padding index, as fairseq counted them.
_FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def position_offset(config: Any) -> int:
    """Rows of the position table that serve no token: RoBERTa counts from its padding index."""
    roberta_like = config.model_type in _FROM_PADDING
    return (config.pad_token_id or 0) + 1 if roberta_like else 0


def _compare_with_library(source: str, tokenizer: Any, preprocessor: TextPreprocessor) -> None:
    """Our encoder must give the ids that transformers' own gives."""
    texts = ["A short sentence, with punctuation.", "Ünïcödé 123 — and EMOJI 🙂 " * 8, "x"]
    theirs = tokenizer(texts, truncation=True, max_length=preprocessor.max_length)["input_ids"]
    ours = [e.ids for e in preprocessor.tokens([{"text": text} for text in texts])]
    if theirs != ours:
        raise InputError(
            f"the tokenizer of {source} does more than its tokenizer.json says; save it again with a"
            " current transformers"
        )


def _image_preprocessor(source: str, config: Any, revision: str | None) -> ImagePreprocessor:
    from transformers.utils import cached_file

    name = "preprocessor_config.json"
    try:
        file = cached_file(source, name, revision=revision)
        values = json.loads(Path(str(file)).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} has no readable {name}; save the image processor there"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("size", {}), dict | int):
        raise InputError(f"{source}/{name} is not an image processor; save it there again")
    channels = getattr(config, "num_channels", 3)
    size, cut = values.get("size", {}), values.get("crop_size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if isinstance(cut, int):
        cut = {"height": cut, "width": cut}
    edge = size.get("shortest_edge")
    if edge and not (values.get("do_center_crop") and cut):
        # The ConvNeXt rule: resize the shorter side to edge / crop_pct, cut edge x edge.
        cut, edge = {"height": edge, "width": edge}, round(edge / values.get("crop_pct", 224 / 256))
    target = cut if edge or values.get("do_center_crop") else size
    if not target:
        raise InputError(f"{name} of {source} names no image size; add 'size'")
    normalise = values.get("do_normalize", True)
    return ImagePreprocessor(
        height=target["height"],
        width=target["width"],
        channels=channels,
        mean=tuple(values.get("image_mean", [0.5] * channels) if normalise else [0.0] * channels),
        std=tuple(values.get("image_std", [0.5] * channels) if normalise else [1.0] * channels),
        scale=values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0,
        resample=values.get("resample", 2),
        shortest_edge=edge,
    )


def is_audio(config: Any) -> bool:
    """Whether a config's family has a head for audio classification."""
    from transformers.models.auto import modeling_auto

    return config.model_type in modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES


def _audio_preprocessor(
    source: str, config: Any, revision: str | None, max_length: int | None
) -> AudioPreprocessor:
    """A waveform's length is ``max_length`` samples, or what the file says, or one second."""
    from transformers import AutoFeatureExtractor

    try:
        with quiet():
            extractor: Any = AutoFeatureExtractor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"{source} has no readable preprocessor_config.json ({' '.join(str(error).split())[:120]});"
            " save the feature extractor there"
        ) from error
    kind, rate = type(extractor).__name__, extractor.sampling_rate
    if kind == "ASTFeatureExtractor":
        length = extractor.max_length  # the position table's own size: it cannot be another
        mels = extractor.num_mel_bins
        normal = {"mean": extractor.mean, "std": extractor.std, "normalise": extractor.do_normalize}
        found = AudioPreprocessor(rate, length, "fbank", mels, **normal)
    elif kind == "Wav2Vec2FeatureExtractor":
        length = max_length or getattr(extractor, "max_length", None) or rate
        names = ("input_values", "attention_mask")[: 2 if extractor.return_attention_mask else 1]
        found = AudioPreprocessor(rate, length, normalise=extractor.do_normalize, inputs=names)
    else:
        raise InputError(
            f"{source} has a {kind}, which edgekd does not read yet; it reads ASTFeatureExtractor"
            " and Wav2Vec2FeatureExtractor"
        )
    _compare_with_extractor(source, extractor, found)
    return found


def _compare_with_extractor(source: str, extractor: Any, ours: AudioPreprocessor) -> None:
    """Our features of a short, a whole and a long clip must be those of transformers' own."""
    generator = np.random.default_rng(0)
    sizes = (max(ours.samples // 2, audio.FRAME), ours.samples, ours.samples * 3 // 2)
    clips = [generator.normal(0.05, 0.1, size).astype(np.float32) for size in sizes]
    options: dict[str, Any] = {"sampling_rate": ours.sampling_rate, "return_tensors": "np"}
    if ours.features == "waveform":
        options |= {"padding": "max_length", "max_length": ours.length, "truncation": True}
    with quiet():
        theirs = extractor(clips, **options)
    for name, array in ours.encode([{"audio": clip} for clip in clips]).items():
        other = np.asarray(theirs[name])
        if array.shape != other.shape or not np.allclose(array, other, atol=1e-3):
            raise InputError(
                f"the feature extractor of {source} does more than its preprocessor_config.json"
                " says; save it again with a current transformers"
            )


def fresh_preprocessor(
    rows: Sequence[Row], settings: Mapping[str, Any]
) -> ImagePreprocessor | AudioPreprocessor:
    """Preprocessing for a model that is trained from nothing.

    Images keep their own size, 0..1 to -1..1; sounds become a filter bank that fits ``rows`` and
    the model's ``settings``. Raises :class:`InputError` for text, whose tokenizer has to come from a model.
    """
    if "audio" in rows[0]:
        return audio.fresh(rows, settings)
    if "image" not in rows[0]:
        raise InputError(
            "a text teacher needs a base model, whose tokenizer it uses; set teacher.base"
        )
    image = np.asarray(rows[0]["image"])
    channels = 1 if image.ndim == 2 else image.shape[2]
    half = (0.5,) * channels
    return ImagePreprocessor(image.shape[0], image.shape[1], channels, mean=half, std=half)


class quiet:
    """Silence transformers' loading bars and notes that a user cannot act on."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)
