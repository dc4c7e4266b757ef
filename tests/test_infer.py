"""The torch side: rows keep their order, and the teacher is asked once per content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import infer, models, tasks
from edgekd.pipeline.signals import signal_spec
from edgekd.signals import SignalStore, keys

TEXT = tasks.get("text-classification")
ROWS = [{"text": text} for text in ("the card is not my card", "money", "how long does it", "a")]


def test_predictions_are_in_the_rows_order(bert_dir: Path) -> None:
    loaded = models.load(str(bert_dir), TEXT)
    found = infer.predict(loaded, ROWS, TEXT, "test", batch=2)["logits"]
    alone = [infer.forward(loaded, [row], TEXT)["logits"][0] for row in ROWS]
    np.testing.assert_allclose(found, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_the_teacher_is_asked_only_for_what_is_missing(bert_dir: Path, tmp_path: Path) -> None:
    loaded = models.load(str(bert_dir), TEXT)
    store = SignalStore.open(tmp_path / "store", signal_spec(loaded, TEXT, "float32"))
    twice = [*ROWS, ROWS[0]]
    assert infer.label_into(store, loaded, twice, TEXT, "label") == len(ROWS)
    assert infer.label_into(store, loaded, ROWS, TEXT, "label") == 0
    expected = infer.predict(loaded, ROWS, TEXT, "test")["logits"]
    kept = store.get(keys(ROWS))["logits"]
    np.testing.assert_allclose(np.asarray(kept), expected, rtol=1e-4, atol=1e-5)


class Places:
    """Where a model has been: what it was moved to, and ``asked`` for each forward pass."""

    def __init__(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        move = network.to

        def to(device: Any) -> Any:
            self.seen.append(str(device))
            return move("cpu")

        monkeypatch.setattr(network, "to", to)
        network.register_forward_pre_hook(lambda *_: self.seen.append("asked"))


def test_a_model_is_asked_on_the_accelerator_and_comes_back(
    bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models.load(str(bert_dir), TEXT)
    store = SignalStore.open(tmp_path / "store", signal_spec(loaded, TEXT, "float32"))
    places = Places(loaded.model, monkeypatch)
    infer.predict(loaded, ROWS, TEXT, "test")
    assert places.seen == ["asked"]  # there is only the processor

    monkeypatch.setattr(infer, "accelerator", lambda: torch.device("cuda", 0))
    there = ["cuda:0", "asked", "cpu"]
    places.seen.clear()
    infer.predict(loaded, ROWS, TEXT, "test")
    assert places.seen == there
    infer.label_into(store, loaded, ROWS[:2], TEXT, "label")
    assert places.seen == 2 * there
    infer.label_into(store, loaded, ROWS[:2], TEXT, "label")  # nothing is missing
    assert places.seen == 2 * there
    infer.label_into(store, loaded, ROWS, TEXT, "label", engine=lambda run, rows: map(run, rows))
    assert places.seen == [*2 * there, "asked"]  # workers have processors
    with pytest.raises(RuntimeError), infer.accelerated(loaded):
        raise RuntimeError
    assert places.seen[-2:] == ["cuda:0", "cpu"]
