"""The digits with models of one or two layers, 16 wide: the whole main job in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

VIT = {
    "model_type": "vit",
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
DIGITS: dict[str, Any] = {
    "name": "tiny",
    "task": "image-classification",
    "teacher": {
        "config": VIT,
        "fit": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2},
    },
    "data": {"train": "builtin:digits/train", "test": "builtin:digits/test"},
    "student": {"layers": [0]},
    "distill": {"epochs": 1, "batch_size": 32, "learning_rate": 5e-3},
    "targets": {"onnx": {"precisions": ["fp32", "int8"]}},
    "profiles": [],
    "budget": {"size": "1 MB"},
}


@pytest.fixture(scope="session")
def digits_recipe() -> Callable[..., Path]:
    """``digits_recipe(folder, budget=…)`` writes the digits recipe with some keys replaced."""

    def write(folder: Path, **values: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump({**DIGITS, **values}))
        return path

    return write
