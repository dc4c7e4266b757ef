"""Tiny seeded Hugging Face models, wrapped, and exported once per test run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edgekd_exporters.onnx import OnnxExporter
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from edgekd.bundle import Bundle, TensorSpec
from edgekd.exporter import Plan, Spec
from edgekd.preprocess import ImagePreprocessor, TextPreprocessor
from edgekd.program import Program, Shapes
from edgekd.tasks.classification import ImageClassification, TextClassification
from edgekd.wrap import wrap

WORDS = [
    "my",
    "card",
    "was",
    "lost",
    "and",
    "the",
    "new",
    "one",
    "did",
    "not",
    "arrive",
    "how",
    "long",
    "does",
    "it",
    "take",
    "to",
    "top",
    "up",
]
TEXTS = ("my card was lost", "how long does it take to top up", "the new one did not arrive", "up")


def text_preprocessor(max_length: int = 32) -> TextPreprocessor:
    """A WordPiece tokenizer over :data:`WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(WORDS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    return TextPreprocessor(tokenizer.to_str(), max_length, names)


def bert_program(hidden: int = 32, layers: int = 2, vocabulary: int = 600) -> Program:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        num_labels=3,  # type: ignore[call-arg]
        initializer_range=0.2,
    )
    rows = [{"text": text} for text in TEXTS]
    labels = ("a", "b", "c")
    model = BertForSequenceClassification(config)
    return wrap(model, TextClassification(), text_preprocessor(), labels, rows)


def vit_program() -> Program:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_channels=1,
        num_labels=3,  # type: ignore[call-arg]
        initializer_range=0.2,
    )
    random = np.random.default_rng(0)
    rows = [{"image": random.integers(0, 256, (16, 16), np.uint8)} for _ in range(3)]
    preprocessor = ImagePreprocessor(16, 16, 1, (0.5,), (0.5,))
    model = ViTForImageClassification(config)
    return wrap(model, ImageClassification(), preprocessor, ("a", "b", "c"), rows)


class Separable(torch.nn.Module):
    """A convolutional classifier in MobileNet's style: depthwise, pointwise, ReLU6, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 64, 3, stride=2, padding=1)
        self.depthwise = torch.nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.pointwise = torch.nn.Conv2d(64, 64, 1)
        self.classifier = torch.nn.Linear(64, 3)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        x = torch.nn.functional.relu6(self.stem(pixels))
        x = x + self.pointwise(torch.nn.functional.relu6(self.depthwise(x)))
        return (self.classifier(x.mean((2, 3))),)


def conv_program() -> Program:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    return Program(
        module=Separable().eval(),
        task="image-classification",
        inputs=(TensorSpec("pixel_values", "float32", ("batch", 1, 16, 16), (-1.0, 1.0)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
        labels=("a", "b", "c"),
        preprocessor=ImagePreprocessor(16, 16, 1, (0.5,), (0.5,)),
        rows=[{"image": random.integers(0, 256, (16, 16), np.uint8)} for _ in range(8)],
    )


@pytest.fixture(scope="session")
def wide_bert() -> Program:
    return bert_program(hidden=64)


@pytest.fixture(scope="session")
def conv() -> Program:
    return conv_program()


@pytest.fixture(scope="session")
def conv_fp32(exporter: OnnxExporter, conv: Program, folder: Path) -> Bundle:
    return exporter.lower(conv, Spec(Shapes()), folder / "conv")


@pytest.fixture(scope="session")
def bert() -> Program:
    return bert_program()


@pytest.fixture(scope="session")
def vit() -> Program:
    return vit_program()


@pytest.fixture(scope="session")
def exporter() -> OnnxExporter:
    return OnnxExporter()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="session")
def bert_fp32(exporter: OnnxExporter, bert: Program, folder: Path) -> Bundle:
    return exporter.lower(bert, Spec(Shapes()), folder / "bert")


@pytest.fixture(scope="session")
def bert_int8(exporter: OnnxExporter, bert_fp32: Bundle, folder: Path) -> Bundle:
    return exporter.compress(bert_fp32, Plan("int8"), (), folder / "bert-int8")


@pytest.fixture(scope="session")
def vit_fp32(exporter: OnnxExporter, vit: Program, folder: Path) -> Bundle:
    return exporter.lower(vit, Spec(Shapes()), folder / "vit")
