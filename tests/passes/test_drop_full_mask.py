from __future__ import annotations

import torch
import transformers as hf
from torch import nn

from edgekd.passes import drop_full_mask


class Attention(nn.Module):
    """Attention over [batch, 2, 5, 4] under a mask made by ``rule``."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = torch.arange(5)
        mask = {
            "full": (place >= 0)[None, None, None, :].expand(x.shape[0], 1, 5, 5),
            "causal": (place[:, None] >= place)[None, None].expand(x.shape[0], 1, 5, 5),
            "input": (x[:, :1, :, :1] > -100).transpose(2, 3),
            "additive": torch.zeros(1, 1, 5, 5),
        }[self.rule]
        return nn.functional.scaled_dot_product_attention(x, x, x, mask)


def capture(rule: str) -> torch.export.ExportedProgram:
    dims = ({0: torch.export.Dim("batch")},)
    return torch.export.export(
        Attention(rule), (torch.randn(2, 2, 5, 4),), dynamic_shapes=dims, strict=False
    )


def test_only_a_constant_true_mask_goes() -> None:
    found = {rule: drop_full_mask.apply(capture(rule)) for rule in ("full", "causal", "input")}
    assert found == {"full": 1, "causal": 0, "input": 0}
    assert drop_full_mask.apply(capture("additive")) == 0  # adding zeros is not looked into


def test_the_numbers_stay() -> None:
    program = capture("full")
    x = torch.randn(3, 2, 5, 4)
    before = program.module()(x)
    drop_full_mask.apply(program)
    torch.testing.assert_close(program.module()(x), before)
    assert "arange" not in program.graph_module.code


def test_vit_has_one_per_layer() -> None:
    config = hf.ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                          intermediate_size=64, image_size=16, patch_size=4)  # fmt: skip
    pixels = torch.randn(2, 3, 16, 16)
    model = hf.ViTForImageClassification(config).eval()
    program = torch.export.export(model, (pixels,), strict=False)
    assert drop_full_mask.apply(program) == 3
    torch.testing.assert_close(program.module()(pixels).logits, model(pixels).logits)
