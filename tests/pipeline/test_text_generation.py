"""Running text to a distilled language model: the vocabulary, the store, the student, the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models, pipeline, recipe, tasks
from edgekd.blocks import learn_vocabulary
from edgekd.errors import InputError
from edgekd.pipeline.preflight import same_vocabulary
from edgekd.signals import SignalStore
from edgekd.wrap import wrap

TEXT = "\n\n".join(
    f"{name}:\n{line} {n} times."
    for n in range(24)
    for name, line in (("First Citizen", "Hear me speak"), ("All", "We are resolved to speak"))
)
FIT = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
GPT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}


def distil(folder: Path, **settings: Any) -> dict[str, Any]:
    (folder / "train.txt").write_text(TEXT)
    (folder / "test.txt").write_text("Second Citizen:\nSpeak, speak, and hear me 99 times again.")
    values = {
        "name": "tiny",
        "task": "text-generation",
        "teacher": {"config": GPT, "vocabulary": 300, "fit": FIT},
        "data": {"train": "train.txt", "test": "test.txt", "max_length": 16},
        "student": {"layers": [0]},
        "distill": {**FIT, **settings},
        "targets": {},
        "profiles": [],
    }
    return pipeline.distill(recipe.validate(values, "recipe"), folder, folder / "run")


def test_a_language_model_is_distilled_from_a_sample_of_its_tokens(tmp_path: Path) -> None:
    found = distil(tmp_path, top_k=8)
    rows = {row["id"]: row for row in found["models"]}
    assert set(rows) == {"teacher", "student-no-kd", "student"}
    assert set(rows["student"]["metrics"]) == {"perplexity", "next_token_accuracy"}
    perplexity = {name: row["metrics"]["perplexity"] for name, row in rows.items()}
    # Of a metric where less is better, what is kept is the teacher's share of the student's.
    kept = perplexity["teacher"] / perplexity["student"]
    assert rows["student"]["retained"] == pytest.approx(kept)
    # A gain above 0 is the student's.
    gain = perplexity["student-no-kd"] - perplexity["student"]
    assert found["gain"]["value"] == pytest.approx(gain)
    folders = {p.name.rsplit("-", 1)[0]: p for p in (tmp_path / "run" / "signals").iterdir()}
    assert set(folders) == {"test", "train-sample8"}
    store = SignalStore.open(folders["train-sample8"])
    assert store.spec.fields["indices"].dense == (8,)
    assert set(SignalStore.open(folders["test"]).spec.fields) == {"nll", "choice", "truth", "mask"}

    task = tasks.get("text-generation")
    student = models.load(str(tmp_path / "run" / "student"), task)
    texts = [{"text": "Hear me"}, {"text": "We are resolved to speak 9 times"}]
    program = wrap(student.model, task, student.preprocessor, student.labels, texts)
    arrays = student.preprocessor.encode(texts, 16)
    with torch.inference_mode():
        ids, mask = (torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask"))
        (logits,) = program.module(ids, mask)
        own = student.model(input_ids=ids, attention_mask=mask).logits
    assert program.outputs[0].shape == ("batch", "sequence", 300)
    real = mask.bool()
    np.testing.assert_allclose(logits[real], own[real], atol=1e-4)


def test_the_whole_distribution_is_stored_where_asked(tmp_path: Path) -> None:
    distil(tmp_path, top_k=0, control=False)
    folders = {p.name.rsplit("-", 1)[0]: p for p in (tmp_path / "run" / "signals").iterdir()}
    fields = SignalStore.open(folders["train"]).spec.fields
    assert fields["logits"].dense == (300,)
    record = json.loads((tmp_path / "run" / "stages" / "student.json").read_text())
    assert set(record["result"]["gradient_shares"]) == {"softened_kl"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 8, "method": "softened_kl"}, "does not go with"),
        ({"top_k": 0, "method": "softened_kl_sampled"}, "does not go with"),
    ],
)
def test_a_method_and_a_store_that_do_not_go_together_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distil(tmp_path, **settings)


def test_a_sharper_teacher_than_was_sampled_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at least 1, not 0\.5.*top_k: 0"):
        distil(tmp_path, temperature=0.5)
    stages = sorted(p.stem for p in (tmp_path / "run" / "stages").iterdir())
    assert stages == ["data", "recipe"]


def test_a_sample_is_drawn_for_one_degree_and_softened_by_two_elsewhere() -> None:
    task, text = tasks.get("text-generation"), tasks.get("text-classification")
    assert task.temperature(None, "softened_kl_sampled") == 1
    assert task.temperature(3.0, "softened_kl_sampled") == 3
    assert task.temperature(None, "softened_kl") == text.temperature(None, "softened_kl") == 2


def test_vocabularies_are_compared_by_their_pieces() -> None:
    ours, theirs = learn_vocabulary([TEXT], 280, 16), learn_vocabulary(["other words"], 262, 16)
    assert same_vocabulary(ours, ours)
    assert not same_vocabulary(ours, theirs)
