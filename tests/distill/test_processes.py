"""Two processes train what one trains: losses, weights, checkpoints, and errors in their words."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models, tasks
from edgekd.distill import trainer, transfer
from edgekd.distill.examples import Examples
from edgekd.errors import InputError
from edgekd.models import LoadedModel
from edgekd.sections import Distill
from tests.conftest import LABELS, Intents

TASK = tasks.get("text-classification")
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# 93 rows in batches of 8: an epoch ends with five rows, which do not halve.
SETTINGS = Distill(
    epochs=20, batch_size=8, learning_rate=1e-3, hidden_weight=0.5, embedding_weight=0.1
)
STEPS = 200


class Teacher:
    """Signals made up by row: a width of 24, so that the losses own projections to 16."""

    def __init__(self, lengths: np.ndarray) -> None:
        random = np.random.default_rng(4)
        self.logits = random.standard_normal((len(lengths), 3)).astype(np.float32)
        self.embedding = random.standard_normal((len(lengths), 24)).astype(np.float32)
        self.states = [random.standard_normal((n, 1, 24)).astype(np.float32) for n in lengths]

    def __call__(self, rows: Any) -> dict[str, Any]:
        index = list(rows)
        return {
            "logits": self.logits[index],
            "embedding": self.embedding[index],
            "hidden_states": [self.states[i] for i in index],
        }


def fresh(bert_dir: Path, width: int = 16) -> LoadedModel:
    encoder = models.load(str(bert_dir), TASK).preprocessor
    return models.from_config({**BERT, "hidden_size": width}, TASK, encoder, LABELS, 0)


def fit(
    bert_dir: Path, intents: Intents, folder: Path, settings: Distill, after_epoch: Any = None
) -> tuple[trainer.Outcome, dict[str, np.ndarray]]:
    student, teacher = fresh(bert_dir), fresh(bert_dir, 24)
    rows = intents.train_rows[:93]
    lengths = np.array([len(t.ids) for t in student.preprocessor.tokens(rows)])  # type: ignore[attr-defined]
    torch.manual_seed(7)  # the projections of the losses
    plan = transfer.plan(
        settings, TASK, teacher.model, student.model, classes=3, parts=settings.parts
    )
    examples = Examples(rows, TASK, student.preprocessor, LABELS, Teacher(lengths))
    outcome = trainer.train(
        student.model,
        examples,
        plan,
        settings,
        seed=1,
        folder=folder,
        what="a student",
        steps=STEPS,
        after_epoch=after_epoch,
    )
    return outcome, {name: v.numpy().copy() for name, v in student.model.state_dict().items()}


TWO = SETTINGS.model_copy(update={"processes": 2})
Fitted = tuple[trainer.Outcome, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def shared(bert_dir: Path, intents: Intents, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """What two processes train, undisturbed."""
    return fit(bert_dir, intents, tmp_path_factory.mktemp("two"), TWO)


def test_two_processes_train_what_one_trains(
    bert_dir: Path, intents: Intents, tmp_path: Path, shared: Fitted
) -> None:
    """Every loss of 200 steps, projections that the losses own among what is trained."""
    one, alone = fit(bert_dir, intents, tmp_path, SETTINGS)
    two, weights = shared
    assert len(one.history) == len(two.history) == STEPS
    assert one.history[-1]["loss"] < 0.8 * one.history[0]["loss"]
    np.testing.assert_allclose(
        [point["loss"] for point in two.history],
        [point["loss"] for point in one.history],
        rtol=1e-4,
    )
    for name, value in alone.items():
        np.testing.assert_allclose(weights[name], value, atol=2e-3, err_msg=name)
    assert not torch.distributed.is_initialized()  # nothing of it is left in this process
    assert not multiprocessing.active_children()


@dataclass
class Stops:
    """Asked in the worker that decides: raises after its second epoch."""

    epochs: int = 0

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state)
        trainer.CHECKPOINT_SECONDS = 0  # in that process: a checkpoint after the first step

    def __call__(self, epoch: int) -> bool:
        self.epochs += 1
        assert epoch == self.epochs
        if self.epochs == 2:
            raise InputError("two epochs are enough")
        return False


def test_what_one_process_says_ends_all_and_the_next_run_goes_on(
    bert_dir: Path, intents: Intents, tmp_path: Path, shared: Fitted
) -> None:
    with pytest.raises(InputError, match=r"^two epochs are enough$"):
        fit(bert_dir, intents, tmp_path, TWO, after_epoch=Stops())
    assert not multiprocessing.active_children()
    whole = trainer.last_checkpoint(tmp_path)
    assert whole is not None
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} < {f.name for f in Path(whole).iterdir()}
    outcome, weights = fit(bert_dir, intents, tmp_path, TWO)
    assert outcome.history == shared[0].history
    assert all(np.array_equal(weights[name], value) for name, value in shared[1].items())


def test_what_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size 9 cannot be cut into 2 equal parts"):
        Distill(batch_size=9, processes=2)
    with pytest.raises(InputError, match="computing the batch in 2 parts would change it"):
        transfer.hard_labels(tasks.get("feature-extraction"), TWO.parts)
