"""Training that leaves out what no loss reads gives the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from edgekd.distill.first_token import first_positions

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}
TEXT = {"vocab_size": 30, "max_position_embeddings": 12, "pad_token_id": 0}


def text_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 30, (4, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def images() -> dict[str, torch.Tensor]:
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": noise}


def sounds() -> dict[str, torch.Tensor]:
    noise = torch.randn(4, 32, 16, generator=torch.Generator().manual_seed(0))
    return {"input_values": noise}


CASES: dict[str, tuple[Any, dict[str, Any], Any, int]] = {
    "bert": (AutoModelForSequenceClassification, TEXT, text_batch, 1),
    "roberta": (AutoModelForSequenceClassification, TEXT, text_batch, 1),
    "electra": (AutoModelForSequenceClassification, TEXT, text_batch, 1),
    "vit": (
        AutoModelForImageClassification,
        {"image_size": 8, "patch_size": 4, "num_channels": 1},
        images,
        1,
    ),
    "audio-spectrogram-transformer": (
        AutoModelForAudioClassification,
        {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "time_stride": 8}
        | {"frequency_stride": 8},
        sounds,
        2,
    ),
}


def make(kind: str, auto: Any, sizes: dict[str, Any], **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(kind, **SIZES, **sizes, **more))


def logits(said: Any) -> dict[str, torch.Tensor]:
    return {"logits": said.logits}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", CASES)
def test_outputs_and_gradients_are_those_of_the_whole_layer(kind: str, attention: str) -> None:
    auto, sizes, batch, positions = CASES[kind]
    model, feeds = make(kind, auto, sizes), batch()
    model.set_attn_implementation(attention)
    model.eval()  # dropout would draw other numbers
    whole = model(**feeds).logits
    wanted = torch.autograd.grad(whole.square().sum(), list(model.parameters()), allow_unused=True)
    with first_positions(model, feeds, logits) as kept:
        assert kept == positions
        part = model(**feeds).logits
    found = torch.autograd.grad(part.square().sum(), list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(part, whole)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_only_the_read_positions_are_computed() -> None:
    auto, sizes, batch, _ = CASES["bert"]
    model, seen = make("bert", auto, sizes), []
    last = model.bert.encoder.layer[-1].intermediate  # type: ignore[attr-defined, union-attr]
    last.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    with first_positions(model, batch(), logits):
        seen.clear()
        model(**batch())
    model(**batch())
    assert seen == [1, 8]  # and afterwards the model is as it was


def test_attention_dropout_is_kept_in_training() -> None:
    auto, sizes, batch, _ = CASES["bert"]
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    model = make("bert", auto, sizes, **still).train()
    with first_positions(model, batch(), logits) as kept:
        assert kept
        assert model.training
        assert not torch.equal(model(**batch()).logits, model(**batch()).logits)


def test_a_model_that_reads_every_position_is_left_alone() -> None:
    model = make("bert", AutoModelForTokenClassification, TEXT)
    with first_positions(model, text_batch(), logits) as kept:
        assert kept == 0
        assert model(**text_batch()).logits.shape[1] == 8


def test_a_mean_over_positions_is_left_alone() -> None:
    auto, sizes, batch, _ = CASES["bert"]
    model = make("bert", auto, sizes)

    def mean(said: Any) -> dict[str, torch.Tensor]:
        return {"mean": said.hidden_states[-1].mean(1)}

    model.config.output_hidden_states = True
    with first_positions(model, batch(), mean) as kept:
        assert kept == 0


def test_an_unknown_family_is_left_alone() -> None:
    model = make("distilbert", AutoModelForSequenceClassification, {"vocab_size": 30, "dim": 16})
    with first_positions(model, text_batch(), logits) as kept:
        assert kept == 0
