"""The taps read what the attention itself computes with, and leave no trace."""

from __future__ import annotations

import pytest
import torch

from edgekd.distill.losses import LOSSES, Objective
from edgekd.distill.losses.taps import attention_blocks, queries_keys_values
from edgekd.errors import InputError

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
FAMILIES = {
    "bert": {**SMALL, "intermediate_size": 20},
    "electra": {**SMALL, "intermediate_size": 20, "embedding_size": 16},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "vocab_size": 50, "hidden_dim": 20},
    "mpnet": {**SMALL, "intermediate_size": 20},
    "modernbert": {**SMALL, "intermediate_size": 20, "pad_token_id": 0, "cls_token_id": 1,
                   "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 50},
}  # fmt: skip


def model(family, **changes):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family] | changes)
    return AutoModel.from_config(config, attn_implementation="eager").eval()


IDS = torch.randint(5, 50, (2, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_found(family):
    network = model(family)
    assert len(attention_blocks(network)) == 3
    for layer in (0, -1):
        with queries_keys_values(network, layer) as read:
            network(IDS)
            assert read().shape == (2, 4, 3, 16)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_query_key_relation_is_the_attention(family):
    network = model(family)
    with queries_keys_values(network, 1) as read, torch.no_grad():
        attention = network(IDS, output_attentions=True).attentions[1]
        qkv = read()
    parts = qkv.reshape(2, 4, 3, 2, 8).permute(2, 0, 3, 1, 4)
    relation = (parts[0] @ parts[1].transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(relation, attention, rtol=1e-5, atol=1e-6)


def test_nothing_is_left_behind():
    network = model("bert")
    before = network.state_dict().keys()
    with queries_keys_values(network) as read, pytest.raises(RuntimeError, match="no forward"):
        read()
    assert network.state_dict().keys() == before
    assert not any(module._forward_hooks for module in network.modules())


def test_a_student_learns_its_teachers_relations():
    teacher, student = model("bert"), model("bert", num_hidden_layers=1, hidden_size=8)
    with queries_keys_values(teacher) as read, torch.no_grad():
        teacher(IDS)
        batch = {"teacher.qkv": read(), "attention_mask": torch.ones_like(IDS)}
    objective = Objective({"relation": 1.0}, {"relation": {"heads": 2}})
    optimiser = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    with queries_keys_values(student) as read:
        for _ in range(15):
            student(IDS)
            loss = objective({"qkv": read()}, batch)["relation"].mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert LOSSES["relation"].mask == "attention_mask"


def test_what_cannot_be_tapped_is_refused():
    with (
        pytest.raises(InputError, match="has 3 attention layers"),
        queries_keys_values(model("bert"), 3),
    ):
        pass
    with (
        pytest.raises(InputError, match="has 0 attention layers"),
        queries_keys_values(torch.nn.Linear(2, 2)),
    ):
        pass
