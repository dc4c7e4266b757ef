"""A capture computes what the module computes, and is made once per shape signature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd import models, tasks
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

TEXT = tasks.get("text-classification")
ROWS = [{"text": "my card"}, {"text": "where is the money please"}, {"text": "how long does it"}]


@pytest.fixture(scope="module")
def program(bert_dir: Path) -> Program:
    loaded = models.load(str(bert_dir), TEXT)
    return wrap(loaded.model, TEXT, loaded.preprocessor, loaded.labels, ROWS)


@pytest.mark.parametrize(
    ("shapes", "width"), [(Shapes(), None), (Shapes(3, (16,)), 16), (Shapes(None, (8, 24)), 24)]
)
def test_a_capture_computes_what_the_module_does(
    program: Program, shapes: Shapes, width: int | None
) -> None:
    arrays = program.preprocessor.encode(ROWS, width)
    exported = program.capture(shapes).module()
    with torch.inference_mode():
        (found,) = exported(*(torch.from_numpy(arrays[spec.name]) for spec in program.inputs))
    expected = program.run(arrays)["logits"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert program.capture(shapes) is program.capture(shapes)


def test_shapes_name_themselves() -> None:
    assert Shapes().name == "dynamic"
    assert Shapes(1, (64,)).name == "b1-l64"
    assert Shapes(None, (16, 32)).name == "bdynamic-l16.32"
    assert Shapes(1).name == "b1-ldynamic"
