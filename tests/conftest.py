"""Shared fixtures: tiny seeded models, a task small enough to learn in a second, the command line."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings

# An example of a law may take its time: the machine is shared with another worker.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Nothing is fetched: a test that reaches for the hub fails instead of waiting for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_runtest_setup() -> None:
    """torch.onnx parses the source of all its operators at each export: here once is enough."""
    registry = sys.modules.get("torch.onnx._internal.exporter._registration")
    operators = getattr(registry, "onnxscript_apis", None)
    if operators is not None and not hasattr(operators.get_torchlib_ops, "cache_info"):
        operators.get_torchlib_ops = cache(operators.get_torchlib_ops)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker per file, and one for a folder of exporters' tests, which share what they export."""
    from xdist.scheduler import LoadFileScheduling

    class ByRoom(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file.rpartition("/")[0] if file.startswith("tests/exporters/") else file

    return ByRoom(config, log)


LABELS = ("card", "money", "größe")
CUES = {
    "card": ("card", "visa", "plastic"),
    "money": ("money", "transfer", "pay"),
    "größe": ("größe", "size", "long"),
}
FILLER = ("my", "the", "a", "where", "is", "please", "about", "it", "not", "how", "does", "did")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with the shared data and models, for tests marked ``assets``."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("EDGEKD_ASSETS") or root.parent / "shared")
    if not (folder / "models").is_dir():
        pytest.skip("EDGEKD_ASSETS does not name a folder with data/ and models/")
    return folder


def intent_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Sentences whose class is told by one cue word among fillers; no two are the same."""
    random = np.random.default_rng(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = LABELS[len(rows) % len(LABELS)]
        words = list(random.choice(FILLER, random.integers(3, 9)))
        words.insert(int(random.integers(len(words))), str(random.choice(CUES[label])))
        rows.setdefault(" ".join(words), label)
    return [{"text": text, "label": label} for text, label in rows.items()]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass(frozen=True)
class Intents:
    """A three-class text task: its rows, and the same rows as CSV files."""

    train_rows: list[dict[str, str]]
    test_rows: list[dict[str, str]]
    train: Path
    test: Path


@pytest.fixture(scope="session")
def intents(tmp_path_factory: pytest.TempPathFactory) -> Intents:
    folder = tmp_path_factory.mktemp("intents")
    rows = intent_rows(144, seed=3)
    train, test = rows[:96], rows[96:]
    files = write_csv(folder / "train.csv", train), write_csv(folder / "test.csv", test)
    return Intents(train, test, *files)


def wordpiece(folder: Path) -> Any:
    """A WordPiece tokenizer that knows the task's words and falls back to characters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizer

    words = [*FILLER, *(cue for cues in CUES.values() for cue in cues)]
    letters = sorted(set("".join(words)) | set("0123456789.,?!'"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + [w for w in words if len(w) > 1]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = BertTokenizer(tokenizer_object=tokenizer, strip_accents=False, model_max_length=48)
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory: pytest.TempPathFactory, intents: Intents) -> Path:
    """A Hugging Face directory: a BERT of 2 layers, 16 wide, fitted to the three intents."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = wordpiece(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        initializer_range=0.1,
    )
    model = BertForSequenceClassification(config)
    texts = [row["text"] for row in intents.train_rows]
    truth = torch.tensor([LABELS.index(row["label"]) for row in intents.train_rows])
    feeds = tokenizer(texts, padding=True, return_tensors="pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(**feeds).logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, "the fixture's teacher must know its task"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: a ViT of 1 layer, 16 wide, for 8 x 8 grey images, not trained."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
        initializer_range=0.2,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 8, "width": 8},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5],
        "image_std": [0.5],
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def intent_bundle(bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as a float ONNX bundle; copy it before doing anything to it."""
    from edgekd import exporter, models, tasks
    from edgekd.exporter import Spec
    from edgekd.program import Shapes
    from edgekd.wrap import wrap

    task = tasks.get("text-classification")
    loaded = models.load(str(bert_dir), task)
    rows = models.example_rows(task, loaded.preprocessor)
    program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, rows)
    out = tmp_path_factory.mktemp("bundles") / "intents"
    return exporter.get("onnx").lower(program, Spec(Shapes()), out).path


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """``copied(folder)`` is a copy that a test may harm."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / f"copy-of-{folder.name}"))


@dataclass(frozen=True)
class Answer:
    """What a command line said."""

    code: int
    out: str
    err: str


@pytest.fixture
def edgekd(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """``edgekd("verify", path)`` runs the command line here; quick, for nothing is imported anew."""
    from edgekd.cli import main

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Answer(int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """``write_recipe(task=…, data=…)`` writes those values as a YAML file."""

    def write(**values: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "try", **values}, allow_unicode=True))
        return path

    return write
