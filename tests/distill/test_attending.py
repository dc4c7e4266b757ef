"""Attentions made of queries and keys are the model's own, or the model is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, GPT2Config
from transformers import AutoModelForSequenceClassification as AutoModelForText

from edgekd import tasks
from edgekd.distill import transfer
from edgekd.distill.attending import attention, examine
from edgekd.distill.losses import LOSSES
from edgekd.distill.losses.taps import queries_keys_values
from edgekd.errors import InputError
from edgekd.sections import Distill

TEXT = tasks.get("text-classification")
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
    "initializer_range": 0.5,  # sharp attention: what differs, differs by much
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WORDS = {"vocab_size": 30, "max_position_embeddings": 20, **SPECIAL}
ENDS = {"cls_token_id": 1, "sep_token_id": 2}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "num_labels": 3}
PATCHES = {"image_size": 8, "patch_size": 4, "num_channels": 1}


def text_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def make(kind: str, auto: Any = AutoModelForText, **sizes: Any) -> Any:
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(kind, **{**SIZES, **sizes})).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(**GPT, vocab_size=30, initializer_range=0.5, **SPECIAL)
    return AutoModelForText.from_config(config).eval()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
def test_attentions_of_projections_are_the_model_s_own(kind: str) -> None:
    feeds = text_batch()
    if kind == "gpt2":
        model = gpt2()
    elif kind == "vit":
        model = make("vit", AutoModelForImageClassification, **PATCHES)
        feeds = {"pixel_values": torch.randn(2, 1, 8, 8)}
    else:
        model = make("bert", **WORDS)
    before = model.config._attn_implementation
    back_only = examine(model.train(), 2, feeds, attentions=True)
    assert back_only == (kind == "gpt2")
    assert model.training and model.config._attn_implementation == before == "sdpa"
    model.set_attn_implementation("eager")
    with queries_keys_values(model.eval()) as read, torch.no_grad():
        own = model(**feeds, output_attentions=True).attentions[-1]
        made = attention(read(), 2, feeds.get("attention_mask"), back_only=back_only)
    real = feeds.get("attention_mask", torch.ones(own.shape[0], own.shape[2])).bool()
    torch.testing.assert_close(
        made.transpose(1, 2)[real], own.transpose(1, 2)[real], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["llama", "mpnet", "modernbert"])
def test_positions_that_come_after_the_projections_are_refused(kind: str) -> None:
    more = {"num_key_value_heads": 2} if kind == "llama" else ENDS if kind == "modernbert" else {}
    words = {k: v for k, v in WORDS.items() if kind != "mpnet" or k != "pad_token_id"}
    model = make(kind, **{**words, **more})
    assert examine(model, 2, text_batch()) == (kind == "llama")  # relations make no such claim
    settings, batch = Distill(attention_weight=1.0), text_batch()
    with pytest.raises(InputError, match=r"does not follow from its queries.*use relation_weight"):
        transfer.plan(settings, TEXT, model, model, classes=3, probe=lambda: (batch, batch))


def test_a_reader_of_whole_texts_and_a_decoder_cannot_look_at_the_same_places() -> None:
    batch, models = text_batch(), (make("bert", **WORDS), gpt2())
    probe = lambda: (batch, batch)  # noqa: E731
    with pytest.raises(InputError, match="only what comes before"):
        transfer.plan(Distill(attention_weight=1.0), TEXT, *models, classes=3, probe=probe)
    plan = transfer.plan(Distill(relation_weight=1.0), TEXT, *models, classes=3, probe=probe)
    assert plan.student.back_only and not plan.teacher.back_only
    assert plan.objective.terms["relation"].keywords["back_only"]  # type: ignore[attr-defined]


def test_shared_keys_are_refused_before_training() -> None:
    model, batch = make("llama", **WORDS, num_key_value_heads=1), text_batch()
    with pytest.raises(InputError, match="shares keys among queries"):
        transfer.plan(
            Distill(relation_weight=1.0), TEXT, model, model, probe=lambda: (batch, batch)
        )


def test_relations_of_decoders_do_not_see_what_comes_after() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 5, 3, 8).unbind(0)
    student.requires_grad_()
    settings = {"heads": 1, "pairs": ("q-k",), "back_only": True}
    found = LOSSES["relation"].make(settings)(student, teacher)
    expected = torch.zeros(1)
    for place in range(5):
        mine, goal = (
            (side[0, place, 0] @ side[0, : place + 1, 1].T / 8**0.5).softmax(-1)
            for side in (student, teacher)
        )
        expected = expected + (goal * (goal.log() - mine.log())).sum() / 5
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
