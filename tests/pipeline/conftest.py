"""The digits with models of one or two layers, 16 wide: the whole main job in seconds."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import yaml

# What the fork server imports once for all the processes that follow.
PRELOAD = [
    "edgekd.cli",
    "edgekd.distill.trainer",
    "edgekd.evaluate.run",
    "edgekd.pipeline.document",
    "edgekd_exporters.onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch.onnx",
    "transformers.models.vit.modeling_vit",
]
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


@pytest.fixture(scope="session")
def second() -> Iterator[Callable[..., tuple[int, str]]]:
    """``second(out, recipe, where, count)`` runs edgekd in a second process: code and words.

    The fork server imports torch once; every run is still a process of its own.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    forkserver._forkserver._stop()  # a training may have started one that imports less
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def run(out: Path, path: Path, where: str = "", count: int = 0) -> tuple[int, str]:
        import mortal  # type: ignore[import-not-found]

        log = out.with_name(f"{out.name}.log")
        log.unlink(missing_ok=True)
        arguments = ["run", str(path), "--out", str(out)]
        process = context.Process(target=mortal.run, args=(arguments, str(log), where, count))
        process.start()
        process.join()
        return int(process.exitcode or 0), log.read_text()

    yield run
    sys.path.remove(str(Path(__file__).parent))
