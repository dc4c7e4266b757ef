"""What a sentence-transformers folder says of its pooling is what is deployed, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekd import infer, models, tasks
from edgekd.errors import InputError
from edgekd.models import detect_task, load

TASK = tasks.get("feature-extraction")
ROWS = [{"text": "where is my card"}, {"text": "pay"}]


@pytest.fixture
def encoder(bert_dir: Path, tmp_path: Path) -> Path:
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path / "encoder"
    AutoModel.from_pretrained(bert_dir).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert_dir).save_pretrained(folder)
    return folder


def pooling(folder: Path, **modes: bool) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    settings = {
        "word_embedding_dimension": 16,
        **{f"pooling_mode_{k}": v for k, v in modes.items()},
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))


def states(loaded: models.LoadedModel, row: dict[str, str]) -> np.ndarray:
    import torch

    feeds = {k: torch.from_numpy(v) for k, v in loaded.preprocessor.encode([row]).items()}
    with torch.inference_mode():
        found: np.ndarray = loaded.model(**feeds).last_hidden_state[0].numpy()
    return found


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token"])
def test_pooling_is_read_and_kept(encoder: Path, tmp_path: Path, mode: str) -> None:
    pooling(encoder, mean_tokens=mode == "mean_tokens", cls_token=mode == "cls_token")
    assert detect_task(str(encoder)) == "feature-extraction"
    loaded = load(str(encoder), TASK)
    loaded.save(tmp_path / "again")
    for model in (loaded, load(str(tmp_path / "again"), TASK)):
        both = infer.forward(model, ROWS, TASK)["embedding"]  # padded beside each other
        for row, embedding in zip(ROWS, both, strict=True):
            tokens = states(model, row)
            pooled = tokens[0] if mode == "cls_token" else tokens.mean(0)
            np.testing.assert_allclose(embedding, pooled / np.linalg.norm(pooled), atol=1e-5)


def test_other_poolings_and_layers_are_refused(encoder: Path) -> None:
    pooling(encoder, max_tokens=True)
    with pytest.raises(InputError, match="pooling_mode_max_tokens, which is not supported"):
        load(str(encoder), TASK)
    shutil.rmtree(encoder / "1_Pooling")
    kinds = ("Transformer", "Pooling", "Dense")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (encoder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="Dense, which is not supported"):
        load(str(encoder), TASK)
