"""Small seeded models as programs, exported once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import tasks
from edgekd.bundle import Bundle
from edgekd.exporter import Spec, get
from edgekd.preprocess import ImagePreprocessor, TextPreprocessor
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

WORDS = 60
LENGTH = 12


def tokenizer() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(WORDS))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made.to_str()


def sentences(count: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, LENGTH - 2, count)
    return [{"text": " ".join(f"w{i}" for i in generator.integers(0, WORDS, n))} for n in lengths]


def bert_program(seed: int = 0) -> Program:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=WORDS + 4,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=LENGTH,
        num_labels=5,
        initializer_range=0.1,
    )
    model = BertForSequenceClassification(config).eval()
    preprocessor = TextPreprocessor(tokenizer_json=tokenizer(), max_length=LENGTH)
    labels = [f"label {i}" for i in range(5)]
    return wrap(model, tasks.get("text-classification"), preprocessor, labels, sentences(4))


@pytest.fixture(scope="session")
def program() -> Program:
    return bert_program()


@pytest.fixture(scope="session")
def image_program() -> Program:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
        num_channels=3,
    )
    generator = np.random.default_rng(0)
    rows = [{"image": generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)} for _ in range(4)]
    preprocessor = ImagePreprocessor(16, 16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    model = ResNetForImageClassification(config).eval()
    task = tasks.get("image-classification")
    return wrap(model, task, preprocessor, ["a", "b", "c"], rows)


@pytest.fixture(scope="session")
def lower(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Export the BERT with a spec; each spec once per session."""
    made: dict[str, Bundle] = {}

    def export(
        compute: Any = "fp16",
        deployment: str = "iOS17",
        lengths: tuple[int, ...] = (),
        **options: Any,
    ) -> Bundle:
        key = repr((compute, deployment, lengths, options))
        if key not in made:
            spec = Spec(
                Shapes(lengths=lengths),
                compute=compute,
                deployment=deployment,
                metadata={"author": "A. Author", "licence": "MIT", "accuracy": "0.9"},
                options=options,
            )
            out: Path = tmp_path_factory.mktemp("coreml") / "bundle"
            made[key] = get("coreml").lower(program, spec, out)
        return made[key]

    return export
