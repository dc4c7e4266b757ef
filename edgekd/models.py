"""Load a Hugging Face model with everything a stage needs beside the weights.

A model comes from a directory or a hub id. Weights are safetensors only, and code is never
downloaded.
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
from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError, MissingDependency, nearest
from edgekd.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor
from edgekd.processors import preprocessor_of, quiet
from edgekd.tasks import Task

# The last part of an architecture's class name says what its head does.
_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


# What libraries raise for config values of the wrong type or size.
_MISFITS = (LookupError, TypeError, ValueError, RuntimeError, ZeroDivisionError)


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
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {label: i for i, label in enumerate(self.labels)}
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.preprocessor.save(folder)
        (folder / "preprocess.json").write_text(json.dumps(self.preprocessor.describe(), indent=2))


def load_config(source: str, revision: str | None = None) -> Any:
    """Read a model's config; every reason why it can't be read is one clear line."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    path = Path(source).expanduser()
    local = path.is_dir()
    if not local and (path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise InputError(f"the model directory {source} does not exist")
    if local and not (path / "config.json").is_file():
        raise InputError(f"{source} is not a model directory: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, *_MISFITS, StrictDataclassError) as error:
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
    from transformers.models.auto import modeling_auto

    config = load_config(source)
    architectures = config.architectures or [""]
    # Wav2Vec2ForSequenceClassification reads sound, whatever its name says.
    if architectures[0] in modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values():
        return "audio-classification"
    for ending, name in _HEADS.items():
        if architectures[0].endswith(ending):
            return _variant(name, config)
    if getattr(config, "vocab_size", None) and architectures[0] == _headless(config):
        return "feature-extraction"
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
        options = {**task.head(labels), "ignore_mismatched_sizes": True}
    from safetensors import SafetensorError

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
        except SafetensorError as error:
            raise InputError(
                f"the weights in {source} are cut off or not safetensors ({error}); fetch or save"
                " the model again"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(_why_not_loaded(source, config, task, str(error))) from error
    # A pooler that no embedding reads may be absent.
    missing = sorted(key for key in info["missing_keys"] if task.has_head or "pooler" not in key)
    if labels is None and missing:
        raise InputError(
            f"{source} has no trained weights for {missing[0]} (+{len(missing) - 1} more): it is not"
            f" fine-tuned for {task.name}; give it as 'base:' to have it fitted on your data"
        )
    pairs = "text_pair" in task.default_columns
    preprocessor = preprocessor_of(
        source, config, revision=revision, max_length=max_length, pairs=pairs
    )
    preprocessor = task.prepare(preprocessor)
    if not task.has_head:
        model.config.sentence_pooling = _pooling(source, model.config, revision)
        for key in info["missing_keys"]:  # never read, and the same at each load
            torch.nn.init.zeros_(model.get_parameter(key))
    _refuse_variant(source, model.config, task)
    names = class_names(model.config, task)
    return LoadedModel(model.eval(), preprocessor, names, source, revision_of(model, preprocessor))


def _headless(config: Any) -> str | None:
    """The class of a model of this family without a head."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    found = MODEL_MAPPING_NAMES.get(config.model_type)
    return found if isinstance(found, str) else None


def _variant(task: str, config: Any) -> str:
    """Which kind of text classification a config's ``problem_type`` or single class means."""
    if task != "text-classification":
        return task
    if getattr(config, "sentence_transformers", None):  # how it marks its cross-encoders
        return "text-ranking"
    if config.problem_type == "multi_label_classification":
        return "text-classification/multi-label"
    return "text-classification/regression" if config.num_labels == 1 else task


def _refuse_variant(source: str, config: Any, task: Task) -> None:
    """Raise :class:`InputError` where a classifier's logits mean something else than the task."""
    if task.auto_class != "AutoModelForSequenceClassification":
        return
    found = _variant("text-classification", config)
    scalar = config.num_labels == 1
    if task.name == "text-ranking" and not scalar:
        raise InputError(
            f"{source} gives {config.num_labels} classes, and text-ranking needs one score; use a"
            " cross-encoder with num_labels 1"
        )
    if task.name != "text-ranking" and found != task.name and (scalar or "/" in found + task.name):
        raise InputError(f"{source} is a model for {found}, not {task.name}; say task: {found}")


def _pooling(source: str, config: Any, revision: str | None) -> str:
    """How a sentence-transformers folder makes one embedding of a text; ``mean`` elsewhere.

    Raises :class:`InputError` for poolings and further layers that would be lost.
    """
    own = getattr(config, "sentence_pooling", None)
    if own:
        return str(own)
    modules = [
        str(m["type"]).rsplit(".", 1)[-1] for m in _json_of(source, "modules.json", revision)
    ]
    odd = set(modules) - {"Transformer", "Pooling", "Normalize"}
    settings = dict(_json_of(source, "1_Pooling/config.json", revision))
    chosen = [name for name, value in settings.items() if name.startswith("pooling_mode") and value]
    if odd or set(chosen) - set(_POOLINGS) or len(chosen) > 1:
        raise InputError(
            f"{source} makes embeddings with {', '.join([*odd, *chosen])}, which is not supported;"
            " use a model with mean or CLS pooling and no layers after it"
        )
    return _POOLINGS[chosen[0]] if chosen else "mean"


def _json_of(source: str, name: str, revision: str | None) -> Any:
    """A JSON file that a model may come with; empty where it does not."""
    from transformers.utils import cached_file

    path = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else []


def class_names(config: Any, task: Task) -> tuple[str, ...]:
    """The model's classes in output order; none where the task has none."""
    if not task.has_classes:
        return ()
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def _why_not_loaded(source: str, config: Any, task: Task, error: str) -> str:
    if "ignore_mismatched_sizes" in error:
        return f"the weights in {source} do not fit its config.json; they belong to another model"
    if "Unrecognized configuration class" in error:
        return f"{source} is a {config.model_type} model, which has no head for {task.name}"
    return f"cannot load {source} for {task.name}: {' '.join(error.split())[:240]}"


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
    from huggingface_hub.errors import StrictDataclassError

    values = dict(settings)
    kind = values.pop("model_type", None)
    known = sorted(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind not in known:
        raise InputError(
            f"unknown model_type {kind!r}{nearest(str(kind), known)} in a model config"
        )
    defaults = transformers.AutoConfig.for_model(kind)
    for key in values:
        if not hasattr(defaults, key):
            own = list(defaults.to_dict())
            raise InputError(f"unknown key '{key}'{nearest(key, own)} in a {kind} config")
    if isinstance(preprocessor, ImagePreprocessor):
        values.setdefault("num_channels", preprocessor.channels)
        values.setdefault("image_size", preprocessor.height)
    if isinstance(preprocessor, TextPreprocessor):
        values.setdefault("vocab_size", preprocessor.tokenizer.get_vocab_size())
        values.setdefault("pad_token_id", preprocessor.pad_id)
    if isinstance(preprocessor, AudioPreprocessor) and preprocessor.features == "fbank":
        values.setdefault("num_mel_bins", preprocessor.mels)
        values.setdefault("max_length", preprocessor.length)
    torch.manual_seed(seed)
    try:
        config = transformers.AutoConfig.for_model(
            kind,
            **task.head(labels),
            **values,
        )
        with quiet():
            model = getattr(transformers, task.auto_class).from_config(config).eval()
        # Some sizes that cannot be are only seen when the model runs.
        arrays = preprocessor.encode(example_rows(task, preprocessor, 2))
        with torch.inference_mode():
            model(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    except (*_MISFITS, StrictDataclassError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"the {kind} config cannot be built for {task.name}: {text}") from error
    return LoadedModel(
        model,
        preprocessor,
        tuple(labels),
        f"config:{kind}",
        revision_of(model, preprocessor),
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
    """Rows to check an export with where the user gives no data: sentences, seeded media."""
    if isinstance(preprocessor, AudioPreprocessor):
        return [_chirp(preprocessor, number / count) for number in range(count)]
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
    if "text_pair" in task.default_columns:
        pairs = zip(sentences, (*sentences[1:], sentences[0]), strict=True)
        rows: list[Row] = [{"text": text, "text_pair": pair} for text, pair in pairs]
        return rows[:count]
    return [{"text": sentence} for sentence in sentences[:count]]


def _chirp(preprocessor: AudioPreprocessor, place: float) -> Row:
    """A rising tone in a little noise; ``place`` in 0..1 sets its pitch and its length."""
    rate = preprocessor.sampling_rate
    seconds = np.arange(max(int(preprocessor.samples * (0.4 + 0.6 * place)), 1)) / rate
    pitch = 100 + 0.2 * rate * place * (1 + seconds)
    noise = np.random.default_rng(int(place * 1000)).normal(0, 0.01, len(seconds))
    tone = 0.3 * np.sin(2 * np.pi * pitch * seconds) + noise
    return {"audio": tone.astype(np.float32), "sampling_rate": rate}
