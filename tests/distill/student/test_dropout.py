"""A rate of 0 is none in every family, whatever it calls its own, and stays so."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from edgekd.distill.processes import _packed
from edgekd.distill.student.dropout import set_dropout

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDTHS |= {"intermediate_size": 16}
IMAGE = {"pixel_values": torch.rand(2, 3, 32, 32)}
TEXT = {"input_ids": torch.arange(12).reshape(2, 6)}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {
    "bert": (WIDTHS, TEXT),
    "distilbert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}, TEXT),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2}, TEXT),
    "vit": (WIDTHS | {"image_size": 32, "attention_probs_dropout_prob": 0.2}, IMAGE),
    "swin": (
        {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
        | {"window_size": 4, "drop_path_rate": 0.5},
        IMAGE,
    ),
    "wav2vec2": (
        WIDTHS
        | {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
        | {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16}
        | {"num_conv_pos_embedding_groups": 2, "layerdrop": 0.5, "mask_time_prob": 0.0},
        {"input_values": torch.rand(2, 800)},
    ),
}


def draws(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether what it computes in training is left to chance."""
    model.train()
    with torch.no_grad():
        first, *others = (model(**inputs).last_hidden_state for _ in range(6))
    return any(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_none_is_none_and_stays_so(family: str, tmp_path: Path) -> None:
    values, inputs = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **values))
    assert draws(model, inputs)
    set_dropout(model, 0.0)
    assert not draws(model, inputs)
    model.save_pretrained(tmp_path)  # a later stage reads it from there
    for again in (AutoModel.from_pretrained(tmp_path), pickle.loads(_packed(model))):
        assert not draws(again, inputs)
    set_dropout(model, 0.5)
    assert draws(model, inputs)


def test_another_rate_leaves_stochastic_depth() -> None:
    values, _ = FAMILIES["swin"]
    model = AutoModel.from_config(AutoConfig.for_model("swin", **values))
    set_dropout(model, 0.3)
    assert model.config.drop_path_rate == 0.5
    assert model.config.hidden_dropout_prob == 0.3
