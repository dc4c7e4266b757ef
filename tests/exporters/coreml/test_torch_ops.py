"""Torch ops that coremltools lacks, through the exporter, beside torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.bundle import TensorSpec
from edgekd.exporter import Runtime, Spec, get
from edgekd.program import Program, Shapes

COREML = get("coreml")


class Masking(nn.Module):
    """Embeddings averaged under a softmax of masked scores."""

    def __init__(self, masked: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, 4)
        self.masked = masked

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
        x = self.table(ids)
        shares = torch.softmax(self.masked(x @ x.mT, mask.bool()), -1)
        return ((shares @ x).sum(1),)


def pairs(mask: torch.Tensor) -> torch.Tensor:
    """As DeBERTa has it: of a padded query every score is masked."""
    return mask[:, None, :] & mask[:, :, None]


LOWEST = torch.finfo(torch.float32).min
FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "the lowest float is filled in": lambda s, m: s.masked_fill(~pairs(m), LOWEST),
    "where with a number": lambda s, m: torch.where(pairs(m), s, -1e4),
    "an or of masks": lambda s, m: s.masked_fill(~(m[:, None, :] | m[:, :, None]), -1e4),
    "new_ones": lambda s, m: s - 1e4 * (s.new_ones(s.shape) - m[:, None, :].float()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("compute", "limit"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_masks_convert_and_hold_in_fp16(
    program: Program, tmp_path: Path, form: str, compute: Any, limit: float
) -> None:
    masking = dataclasses.replace(
        program,
        module=Masking(FORMS[form]).eval(),
        outputs=(TensorSpec("values", "float32", ("batch", 4)),),
        labels=(),
        _captures={},
    )
    bundle = COREML.lower(masking, Spec(Shapes(), compute=compute), tmp_path / "b")
    session = COREML.open(bundle, Runtime(options={"reference": True}))
    arrays = bundle.encode(program.rows)
    assert (arrays["attention_mask"].sum(1) < arrays["attention_mask"].shape[1]).any()  # padded
    expected = masking.run({k: v.astype(np.int64) for k, v in arrays.items()})["values"]
    for row in range(len(program.rows)):
        got = session.run({k: v[row : row + 1] for k, v in arrays.items()})["values"]
        assert np.abs(got - expected[row]).max() <= limit * np.abs(expected).max()
    assert not [f for f in COREML.check(bundle) if f.level == "error" or "fp16 ends" in f.message]
