"""The wrapped module gives the model's own numbers, with a mask that every target can lower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from edgekd import models, tasks
from edgekd.errors import InputError
from edgekd.exporter import relative_error
from edgekd.models import LoadedModel
from edgekd.program import Program
from edgekd.wrap import wrap

TEXT = tasks.get("text-classification")
ROWS = [{"text": "my card"}, {"text": "where is the money please"}, {"text": "how long does it"}]


@pytest.fixture(scope="module")
def loaded(bert_dir: Path) -> LoadedModel:
    return models.load(str(bert_dir), TEXT)


def wrapped(model: Any, like: LoadedModel, inputs: tuple[str, ...]) -> Program:
    encoder = replace(like.preprocessor, inputs=inputs)  # type: ignore[type-var]
    return wrap(model, TEXT, encoder, like.labels, ROWS)


def test_outputs_are_the_models_own(loaded: LoadedModel) -> None:
    program = wrap(loaded.model, TEXT, loaded.preprocessor, loaded.labels, ROWS)
    arrays = loaded.preprocessor.encode(ROWS)
    with torch.inference_mode():
        own = loaded.model(**{k: torch.from_numpy(v) for k, v in arrays.items()}).logits.numpy()
    np.testing.assert_allclose(program.run(arrays)["logits"], own, rtol=1e-5, atol=1e-6)
    assert program.provenance["mask"] == "additive"
    assert [spec.name for spec in program.inputs] == list(loaded.preprocessor.inputs)  # type: ignore[attr-defined]
    assert program.inputs[0].range == (0, loaded.model.config.vocab_size - 1)  # type: ignore[union-attr]
    assert program.outputs[0].shape == ("batch", 3)
    assert program.parameters == loaded.parameters


def test_padding_does_not_reach_a_row(loaded: LoadedModel) -> None:
    program = wrap(loaded.model, TEXT, loaded.preprocessor, loaded.labels, ROWS)
    alone = program.run(loaded.preprocessor.encode(ROWS[:1]))["logits"]
    filled = program.run(loaded.preprocessor.encode(ROWS[:1], 40))["logits"]
    np.testing.assert_allclose(filled, alone, rtol=1e-4, atol=1e-5)


def test_each_family_gets_the_mask_that_gives_its_own_numbers(loaded: LoadedModel) -> None:
    """DeBERTa does its own mask arithmetic and a decoder looks back only; neither may drift."""
    vocabulary = loaded.model.config.vocab_size  # type: ignore[union-attr]
    torch.manual_seed(0)
    small = {"vocab_size": vocabulary, "num_labels": 3, "pad_token_id": 0}
    distil = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, **small)
    gpt = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=48, **small)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    deberta = DebertaV2Config(**size, intermediate_size=16, type_vocab_size=0, **small)
    cases = (
        (DistilBertForSequenceClassification(distil), "additive"),
        (GPT2ForSequenceClassification(gpt), None),
        (DebertaV2ForSequenceClassification(deberta), "own"),
    )
    for model, mask in cases:
        program = wrapped(model.eval(), loaded, ("input_ids", "attention_mask"))
        arrays = program.preprocessor.encode(ROWS)
        with torch.inference_mode():
            own = model(**{k: torch.from_numpy(v) for k, v in arrays.items()}).logits.numpy()
        assert relative_error(program.run(arrays)["logits"], own) <= 1e-4, type(model).__name__
        assert mask in (None, program.provenance["mask"]), type(model).__name__


def test_a_model_without_the_tasks_output(loaded: LoadedModel) -> None:
    from transformers import BertModel

    config = BertConfig(
        vocab_size=loaded.model.config.vocab_size,  # type: ignore[union-attr]
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(InputError, match="BertModel has no output logits"):
        wrapped(BertModel(config).eval(), loaded, ("input_ids", "attention_mask"))


def test_images_keep_their_range(vit_dir: Path) -> None:
    task = tasks.get("image-classification")
    vit = models.load(str(vit_dir), task)
    rows = models.example_rows(task, vit.preprocessor)
    program = wrap(vit.model, task, vit.preprocessor, vit.labels, rows)
    (spec,) = program.inputs
    assert (spec.shape, spec.range) == (("batch", 1, 8, 8), (-1.0, 1.0))
