"""Training is repeatable, divides its loss by samples, and goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models, tasks
from edgekd.distill import precision, trainer, transfer
from edgekd.distill.examples import Examples
from edgekd.errors import InputError
from edgekd.models import LoadedModel
from edgekd.preprocess import ImagePreprocessor
from edgekd.sections import Distill, Training

TASK = tasks.get("image-classification")
LABELS = ("dark", "bright")
SETTINGS = Training(epochs=2, batch_size=8, learning_rate=3e-3, schedule="constant", warmup=0)
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 4,
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    halves = [random.integers(low, low + 128, (8, 8)) for low in (0, 127) * 28]
    return [
        {"image": half.astype(np.uint8), "label": LABELS[i % 2]} for i, half in enumerate(halves)
    ]


def fresh(seed: int = 0, dropout: float = 0.0) -> LoadedModel:
    encoder = ImagePreprocessor(8, 8, 1, (0.5,), (0.5,))
    config = {**VIT, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return models.from_config(config, TASK, encoder, LABELS, seed)


def fit(
    model: LoadedModel, rows: list[dict[str, Any]], folder: Path, settings: Training = SETTINGS
) -> trainer.Outcome:
    examples = Examples(rows, TASK, model.preprocessor, LABELS)
    hard = transfer.hard_labels(TASK)
    return trainer.train(
        model.model, examples, hard, settings, seed=1, folder=folder, what="a model"
    )


def weights(model: LoadedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.model.state_dict().items()}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in left)


def test_it_learns_and_does_so_twice_alike(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    first, second = fresh(), fresh()
    outcome = fit(first, rows, tmp_path / "a", Training(epochs=8, batch_size=8, learning_rate=5e-3))
    assert outcome.steps == 8 * 7
    assert outcome.history[-1]["loss"] < 0.5 * outcome.history[0]["loss"]
    fit(second, rows, tmp_path / "b", Training(epochs=8, batch_size=8, learning_rate=5e-3))
    assert same(weights(first), weights(second))
    assert not first.model.training


def test_asking_after_each_epoch_changes_nothing_and_may_end_it(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    def run(model: LoadedModel, folder: str, stop_after: int) -> int:
        asked: list[bool] = []

        def ask(epoch: int) -> bool:
            asked.append(model.model.training)
            assert epoch == len(asked)
            with torch.inference_mode():
                model.model(torch.zeros(1, 1, 8, 8))
            return len(asked) == stop_after

        examples = Examples(rows, TASK, model.preprocessor, LABELS)
        steps = trainer.train(
            model.model,
            examples,
            transfer.hard_labels(TASK),
            SETTINGS,
            seed=1,
            folder=tmp_path / folder,
            what="a model",
            after_epoch=ask,
        ).steps
        assert not any(asked)  # in evaluation mode, every time
        return steps

    plain, asked, ended = fresh(), fresh(), fresh()
    fit(plain, rows, tmp_path / "plain")
    assert run(asked, "asked", stop_after=0) == 2 * 7
    assert same(weights(plain), weights(asked))
    assert run(ended, "ended", stop_after=1) == 7


def test_a_training_over_fewer_rows_is_looked_at_as_often(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A control takes its student's steps: more passes over its rows, and no more looks."""
    asked: list[int] = []

    def ask(epoch: int) -> bool:
        asked.append(epoch)
        return False

    model = fresh()
    few = Examples(rows[:8], TASK, model.preprocessor, LABELS)
    trainer.train(
        model.model,
        few,
        transfer.hard_labels(TASK),
        SETTINGS,
        seed=1,
        folder=tmp_path / "few",
        what="a model",
        steps=14,
        after_epoch=ask,
    )
    assert asked == [1, 2]


def test_parts_of_a_batch_add_up_to_the_batch(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Accumulated over parts, a step has the gradient of the whole: a mean over its samples."""
    whole, parts = fresh(), fresh()
    fit(whole, rows, tmp_path / "a", SETTINGS)
    fit(parts, rows, tmp_path / "b", SETTINGS.model_copy(update={"gradient_accumulation": 4}))
    for name, value in weights(whole).items():
        np.testing.assert_allclose(weights(parts)[name], value, rtol=1e-3, atol=2e-4)


def test_a_share_is_told_of_its_batch(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn at random for a row is drawn for the whole batch, in every process alike."""
    monkeypatch.setattr(trainer.processes, "share", lambda indices: indices[1::2])
    seen: list[tuple[list[int], list[int]]] = []
    collate = Examples.collate

    def noted(self: Examples, indices: list[int], whole: list[int] | None = None) -> Any:
        seen.append((list(indices), list(whole or ())))
        return collate(self, indices, whole)

    monkeypatch.setattr(Examples, "collate", noted)
    fit(fresh(), rows, tmp_path, SETTINGS.model_copy(update={"epochs": 1}))
    shares = [(share, whole) for share, whole in seen if whole]
    assert sorted(i for _, whole in shares for i in whole) == list(range(len(rows)))
    assert all(share == whole[1::2] for share, whole in shares)


def test_a_constant_rate_is_warmed_up_too(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The first step of a warm-up has the rate 0."""
    model = fresh()
    before = weights(model)
    one = SETTINGS.model_copy(update={"epochs": 1, "batch_size": len(rows)})
    fit(model, rows, tmp_path / "a", one.model_copy(update={"warmup": 0.5}))
    assert same(before, weights(model))
    fit(model, rows, tmp_path / "b", one)
    assert not same(before, weights(model))


def test_batch_normalisation_is_refused_where_a_batch_has_parts(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = fresh()
    model.model.add_module("norm", torch.nn.BatchNorm1d(2))
    for parts in ({"gradient_accumulation": 4}, {"processes": 2}):
        with pytest.raises(InputError, match=r"batch normalisation.*gradient_accumulation: 1"):
            fit(model, rows, tmp_path, SETTINGS.model_copy(update=parts))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("whole", [True, False])
def test_it_goes_on_from_the_last_whole_checkpoint(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    calm = fresh(dropout=0.1)  # what it draws must come back with a checkpoint as well
    expected = fit(calm, rows, tmp_path / "calm")

    def every_three(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = state.global_step % 3 == 0

    real = trainer._Checkpoints.on_save

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if whole or state.global_step < 9:
            real(self, args, state, control)
        if state.global_step == 9:
            raise Stopped

    monkeypatch.setattr(trainer._Checkpoints, "on_step_end", every_three)
    monkeypatch.setattr(trainer._Checkpoints, "on_save", stop)
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        fit(fresh(dropout=0.1), rows, folder)
    monkeypatch.undo()
    last = trainer.last_checkpoint(folder)
    assert last is not None and Path(last).name == ("checkpoint-9" if whole else "checkpoint-6")
    # Every one of its weights must come from the checkpoint.
    resumed = fresh(seed=99, dropout=0.1)
    outcome = fit(resumed, rows, folder)
    assert same(weights(resumed), weights(calm))
    assert outcome.steps == expected.steps
    assert [point["loss"] for point in outcome.history] == [
        point["loss"] for point in expected.history
    ]


def test_unlabelled_rows_teach_a_control_nothing(tmp_path: Path) -> None:
    """Rows without a label add no gradient, whatever their number."""
    model = fresh()
    before = weights(model)
    blank = [{"image": np.full((8, 8), 9, np.uint8)}] * 8
    settings = SETTINGS.model_copy(update={"weight_decay": 0.0})
    fit(model, blank, tmp_path, settings)
    assert same(before, weights(model))


def test_the_soft_loss_is_the_formula(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The first loss reported is T^2 KL(teacher || student), the mean over the first batch."""
    temperature = 3.0
    model, logits = fresh(), np.random.default_rng(2).standard_normal((len(rows), 2))
    settings = Distill(epochs=1, batch_size=len(rows), temperature=temperature)
    examples = Examples(
        rows, TASK, model.preprocessor, LABELS, lambda i: {"logits": logits[list(i)]}
    )
    with torch.inference_mode():
        inputs = torch.from_numpy(model.preprocessor.encode(rows)["pixel_values"])
        said = model.model(pixel_values=inputs).logits.double().numpy()

    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values / temperature)
        return powers / powers.sum(1, keepdims=True)

    p, q = softmax(logits), softmax(said)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    plan = transfer.plan(settings, TASK, model.model, model.model, classes=2)
    outcome = trainer.train(
        model.model, examples, plan, settings, seed=0, folder=tmp_path, what="a student"
    )
    assert outcome.history[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_finite_stops(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss became .* at step .*; lower learning_rate"):
        fit(fresh(), rows, tmp_path, SETTINGS.model_copy(update={"learning_rate": 1e30}))


def test_bf16_is_refused_where_the_hardware_lacks_it(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    with pytest.raises(InputError, match="this machine has none; use fp32, or auto"):
        fit(fresh(), rows, tmp_path, SETTINGS.model_copy(update={"precision": "bf16"}))
    plain, auto = fresh(), fresh()
    fit(plain, rows, tmp_path / "a")
    fit(auto, rows, tmp_path / "b", SETTINGS.model_copy(update={"precision": "auto"}))
    assert same(weights(plain), weights(auto))


def test_bf16_trains_weights_that_stay_in_fp32(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are rounded to bf16 (emulated here); the loss falls as in fp32, not to the bit."""
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    settings = Training(epochs=6, batch_size=8, learning_rate=5e-3)
    plain, half = fresh(), fresh()
    exact = fit(plain, rows, tmp_path / "a", settings)
    rounded = fit(half, rows, tmp_path / "b", settings.model_copy(update={"precision": "auto"}))
    assert {value.dtype for value in weights(half).values()} == {np.dtype(np.float32)}
    assert not same(weights(plain), weights(half))
    assert rounded.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.02)
    assert rounded.history[-1]["loss"] < 0.6 * rounded.history[0]["loss"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-100").mkdir()
    assert trainer.last_checkpoint(tmp_path) is None
