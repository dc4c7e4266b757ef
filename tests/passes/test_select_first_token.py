from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from edgekd.passes import select_first_token

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
    "initializer_range": 0.2,
}
TEXT = {"vocab_size": 50, "max_position_embeddings": 40}
IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 1}


class Text(nn.Module):
    """A text model behind the additive mask, as it is deployed."""

    def __init__(self, model: nn.Module, pool: bool = False) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        keep = attention_mask.to(torch.float32)
        mask = (1.0 - keep[:, None, None, :]) * -1e4
        result = self.model(input_ids=input_ids, attention_mask=mask)
        if not self.pool:
            return result.logits
        hidden = result.last_hidden_state * keep[..., None]
        return hidden.sum(1) / keep.sum(1, keepdim=True)


class Image(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


def capture(module: nn.Module, *example: torch.Tensor) -> torch.export.ExportedProgram:
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not example[0].is_floating_point():
        sizes[1] = torch.export.Dim("sequence", max=32)
    shapes = tuple(sizes for _ in example)
    with torch.no_grad():
        return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)


def text_inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, 50, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 1 + length // 2 :] = 0
    return ids, mask


def bert(attention: str = "sdpa", layers: int = 2) -> nn.Module:
    config = hf.BertConfig(**SMALL | TEXT | {"num_hidden_layers": layers})
    config._attn_implementation = attention
    return Text(hf.BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = hf.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=50, num_labels=3,
        max_position_embeddings=40,
    )  # type: ignore[call-arg]  # fmt: skip
    return Text(hf.DistilBertForSequenceClassification(config))


def roberta() -> nn.Module:
    return Text(hf.RobertaForSequenceClassification(hf.RobertaConfig(**SMALL | TEXT)))


def vit() -> nn.Module:
    return Image(hf.ViTForImageClassification(hf.ViTConfig(**SMALL | IMAGE)))


FAMILIES = {
    "bert": bert,
    "bert-eager": lambda: bert("eager"),
    "bert-one-layer": lambda: bert(layers=1),
    "distilbert": distilbert,
    "roberta": roberta,
}


# Query, attention output and the two feed-forward matrices of the last layer.
NARROWED = 4


@pytest.mark.parametrize("family", FAMILIES)
def test_text_families_are_unchanged_to_the_last_bits(family: str) -> None:
    torch.manual_seed(0)
    module = FAMILIES[family]().eval()
    program = capture(module, *text_inputs(2, 8))
    assert select_first_token.apply(program) == NARROWED
    narrowed = program.module()
    for batch, length in ((1, 2), (1, 9), (3, 17), (2, 32)):
        inputs = text_inputs(batch, length)
        with torch.no_grad():
            torch.testing.assert_close(narrowed(*inputs), module(*inputs), rtol=1e-5, atol=1e-5)


def test_vit_class_token() -> None:
    torch.manual_seed(0)
    module = vit().eval()
    program = capture(module, torch.randn(2, 1, 16, 16))
    assert select_first_token.apply(program) == NARROWED
    pixels = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixels), module(pixels), rtol=1e-5, atol=1e-5)


def test_example_values_follow_the_graph() -> None:
    program = capture(bert().eval(), *text_inputs(2, 8))
    before = {
        n.name: len(n.meta["val"].shape)
        for n in program.graph.nodes
        if hasattr(n.meta.get("val"), "shape")
    }
    select_first_token.apply(program)
    attention = [n for n in program.graph.nodes if "scaled_dot" in n.name]
    assert [n.meta["val"].shape[2] for n in attention][1] == 1
    assert attention[0].meta["val"].shape[2] != 1
    after = {n.name: len(n.meta["val"].shape) for n in program.graph.nodes if n.name in before}
    assert all(before[name] == rank for name, rank in after.items())
    # What a converter does next must still work.
    inputs = text_inputs(3, 5)
    decomposed = program.run_decompositions()
    assert decomposed.module()(*inputs).shape == (3, 3)


def unchanged(module: nn.Module, *example: torch.Tensor) -> None:
    program = capture(module.eval(), *example)
    code = program.graph_module.code
    assert select_first_token.apply(program) == 0
    assert program.graph_module.code == code


def test_mean_pooling_stays_as_it_is() -> None:
    config = hf.BertConfig(**SMALL | TEXT)
    unchanged(Text(hf.BertModel(config, add_pooling_layer=False), pool=True), *text_inputs(2, 8))


def test_every_token_read_stays_as_it_is() -> None:
    config = hf.BertConfig(**SMALL | TEXT)
    unchanged(Text(hf.BertForTokenClassification(config)), *text_inputs(2, 8))


def test_a_second_reader_of_the_last_layer_stops_it() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.dense(x)
            return self.head(hidden[:, 0]), hidden.mean(1)

    unchanged(Both(), torch.randn(2, 5, 8))


def test_another_position_stays_as_it_is() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(x)[:, -1]

    unchanged(Last(), torch.randn(2, 5, 8))


def test_mixing_along_the_selected_axis_stops_it() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.norm = nn.Linear(8, 8), nn.LayerNorm((5, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.dense(x))[:, 0]

    unchanged(Mixed(), torch.randn(2, 5, 8))
