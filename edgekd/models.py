"""Load a Hugging Face model with everything a stage needs beside the weights.

A model comes from a directory or a hub id. Weights are safetensors only, code is never
downloaded, and the preprocessing is turned into edgekd's own, which is compared with the
library's on real rows before it is trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgekd import tasks
from edgekd.errors import InputError, MissingDependency, nearest
from edgekd.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor
from edgekd.tasks import Task

# The last part of an architecture's class name says what its head does.
_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
}


@dataclass
class LoadedModel:
    """A model in eval mode, what encodes its rows, and its labels in output order."""

    model: nn.Module
    preprocessor: Preprocessor
    labels: tuple[str, ...]
    source: str
    revision: str  # sha256 over config, weights and preprocessing: what the signals depend on

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Write a directory that transformers and :func:`load` read back."""
        folder.mkdir(parents=True, exist_ok=True)
        config: Any = self.model.config
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {label: i for i, label in enumerate(self.labels)}
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.preprocessor.save(folder)
        (folder / "preprocess.json").write_text(json.dumps(self.preprocessor.describe(), indent=2))


def load_config(source: str, revision: str | None = None) -> Any:
    """Read a model's config; every reason why it can't be read is one clear line."""
    from transformers import AutoConfig

    path = Path(source).expanduser()
    local = path.is_dir()
    if not local and (path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise InputError(f"the model directory {source} does not exist")
    if local and not (path / "config.json").is_file():
        raise InputError(f"{source} is not a model directory: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text or "custom code" in text:
            raise InputError(
                f"{source} needs code from its repository to load, and edgekd never runs remote"
                " code; use a model whose architecture is part of transformers"
            ) from error
        if local:
            raise InputError(f"{source}/config.json cannot be used: {text[:200]}") from error
        raise MissingDependency(
            f"cannot fetch '{source}' from the Hugging Face hub ({text[:120]}); check the id and the"
            " network, or give a local directory"
        ) from error
    if getattr(config, "auto_map", None):
        raise InputError(
            f"{source} needs code from its repository (auto_map in config.json), and edgekd never"
            " runs remote code; use a model whose architecture is part of transformers"
        )
    return config


def detect_task(source: str) -> str:
    """Return the task that a model's architecture names."""
    architectures = load_config(source).architectures or [""]
    for ending, name in _HEADS.items():
        if architectures[0].endswith(ending):
            return name
    raise InputError(
        f"{source} is a {architectures[0] or 'model without a head'}; say which task it does with"
        f" --task, one of {', '.join(tasks.TASKS)}"
    )


def load(
    source: str,
    task: Task,
    *,
    revision: str | None = None,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
) -> LoadedModel:
    """Load ``source`` for ``task`` in float32.

    ``labels`` sizes a fresh head where ``source`` is a base model; without them the model must
    already be fine-tuned. Raises :class:`InputError` for a directory that is no model, a pickle
    instead of safetensors, remote code or a head of another task, and
    :class:`MissingDependency` where the hub can't be reached.
    """
    import torch
    import transformers

    config = load_config(source, revision)
    _refuse_pickle(source)
    options: dict[str, Any] = {}
    if labels is not None:
        options = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,
        }
    auto = getattr(transformers, task.auto_class)
    with quiet():
        try:
            model, info = auto.from_pretrained(
                source,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"cannot load {source} for {task.name}: {text[:240]}") from error
    missing = sorted(info["missing_keys"])
    if labels is None and missing:
        raise InputError(
            f"{source} has no trained weights for {missing[0]} (+{len(missing) - 1} more): it is not"
            f" fine-tuned for {task.name}; give it as 'base:' to have it fitted on your data"
        )
    preprocessor = preprocessor_of(source, config, revision=revision, max_length=max_length)
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return LoadedModel(model.eval(), preprocessor, names, source, revision_of(model, preprocessor))


def from_config(
    settings: dict[str, Any],
    task: Task,
    preprocessor: Preprocessor,
    labels: Sequence[str],
    seed: int,
) -> LoadedModel:
    """Build a model with fresh, seeded weights from config values that name a ``model_type``."""
    import torch
    import transformers

    values = dict(settings)
    kind = values.pop("model_type", None)
    known = sorted(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind not in known:
        raise InputError(
            f"unknown model_type {kind!r}{nearest(str(kind), known)} in a model config"
        )
    if isinstance(preprocessor, ImagePreprocessor):
        values.setdefault("num_channels", preprocessor.channels)
        values.setdefault("image_size", preprocessor.height)
    if isinstance(preprocessor, TextPreprocessor):
        values.setdefault("vocab_size", preprocessor.tokenizer.get_vocab_size())
        values.setdefault("pad_token_id", preprocessor.pad_id)
    config = transformers.AutoConfig.for_model(
        kind,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **values,
    )
    torch.manual_seed(seed)
    with quiet():
        model = getattr(transformers, task.auto_class).from_config(config)
    return LoadedModel(
        model.eval(),
        preprocessor,
        tuple(labels),
        f"config:{kind}",
        revision_of(model, preprocessor),
    )


def preprocessor_of(
    source: str, config: Any, *, revision: str | None = None, max_length: int | None = None
) -> Preprocessor:
    """Read a model directory's preprocessing as edgekd's own.

    A directory that edgekd wrote says it in ``preprocess.json``; any other is read through its
    tokenizer or its ``preprocessor_config.json``.
    """
    from edgekd import preprocess

    own = Path(source) / "preprocess.json"
    if own.is_file():
        description = json.loads(own.read_text())
        if max_length and "max_length" in description:
            description["max_length"] = min(max_length, description["max_length"])
        return preprocess.load(description, Path(source))
    if getattr(config, "vocab_size", None):
        return _text_preprocessor(source, config, revision, max_length)
    return _image_preprocessor(source, config, revision)


def _text_preprocessor(
    source: str, config: Any, revision: str | None, max_length: int | None
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
    size, table = len(tokenizer), config.vocab_size
    if size > table:
        raise InputError(
            f"the tokenizer of {source} has {size} pieces and the model only {table} embeddings:"
            " they do not belong together"
        )
    positions = getattr(config, "max_position_embeddings", None) or 512
    limit = min(int(tokenizer.model_max_length), positions - position_offset(config))
    names = [n for n in ("input_ids", "attention_mask") if n in tokenizer.model_input_names]
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


def position_offset(config: Any) -> int:
    """Rows of the position table that serve no token: RoBERTa counts from its padding index."""
    roberta_like = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
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


def _refuse_pickle(source: str) -> None:
    path = Path(source)
    if path.is_dir() and not list(path.glob("*.safetensors")):
        pickles = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
        if pickles:
            raise InputError(
                f"{pickles[0]} is a pickle, which can run code when loaded; save the model as"
                " safetensors (model.save_pretrained does) and try again"
            )
        raise InputError(f"{source} has no *.safetensors file: the weights are missing")


def revision_of(model: nn.Module, preprocessor: Preprocessor) -> str:
    """A hash of what a signal depends on: weights and preprocessing, not file names or times."""
    digest = hashlib.sha256(json.dumps(preprocessor.describe(), sort_keys=True).encode())
    digest.update(getattr(preprocessor, "tokenizer_json", "").encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def example_rows(task: Task, preprocessor: Preprocessor, count: int = 8) -> list[Row]:
    """Rows to check an export with where the user gives no data: sentences, seeded images."""
    if isinstance(preprocessor, ImagePreprocessor):
        shape = (preprocessor.height, preprocessor.width, preprocessor.channels)
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (count, 4, 4, preprocessor.channels))
        repeats = (-(-shape[0] // 4), -(-shape[1] // 4))
        images = coarse.repeat(repeats[0], 1).repeat(repeats[1], 2)[:, : shape[0], : shape[1]]
        return [{"image": image.squeeze().astype(np.uint8)} for image in images]
    sentences = (
        "Where is the card that I ordered two weeks ago?",
        "Play something slow by a band I have never heard of.",
        "No.",
        "The quick brown fox jumps over the lazy dog, again and again, until both are tired.",
        "Book a table for four at eight o'clock tomorrow evening near the river.",
        "It was not as bad as everybody said; I would even watch it twice.",
        "7 × 6 = 42",
        "¿Dónde está la biblioteca? Überraschend gut!",
    )
    return [{"text": sentence} for sentence in sentences[:count]]


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


def fresh_preprocessor(rows: Sequence[Row]) -> ImagePreprocessor:
    """Preprocessing for a model that is trained from nothing: the images' own size, 0..1 to -1..1.

    Raises :class:`InputError` for text, whose tokenizer has to come from a model.
    """
    if "image" not in rows[0]:
        raise InputError(
            "a text teacher needs a base model, whose tokenizer it uses; set teacher.base"
        )
    image = np.asarray(rows[0]["image"])
    channels = 1 if image.ndim == 2 else image.shape[2]
    half = (0.5,) * channels
    return ImagePreprocessor(image.shape[0], image.shape[1], channels, mean=half, std=half)
