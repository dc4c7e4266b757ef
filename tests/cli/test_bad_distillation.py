"""What cannot be distilled is refused before anything is trained, with the reason and the mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import write_csv

Cli = Callable[..., Any]


@pytest.fixture
def recipe_of(
    write_recipe: Callable[..., Path], bert_dir: Path, intents: Any
) -> Callable[..., Path]:
    def make(**values: Any) -> Path:
        whole = {
            "task": "text-classification",
            "teacher": str(bert_dir),
            "data": {"train": str(intents.train), "test": str(intents.test)},
            "student": {"layers": [1]},
            "targets": ["onnx"],
            "profiles": [],
        }
        quick = {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3}
        return write_recipe(**{**whole, **values, "distill": {**quick, **values["distill"]}})

    return make


def refused(edgekd: Cli, recipe: Path, out: Path, *words: str) -> None:
    answer = edgekd("run", recipe, "--out", out)
    assert answer.code == 2, answer.err
    error = answer.err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    trained = {path.parent.name for path in out.rglob("*.safetensors")} - {"partial"}
    assert not trained & {"teacher", "student", "student-no-kd"}


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        ({"soft_weight": 0}, ("distill", "all 0: nothing would be learned")),
        ({"soft_weight": -1}, ("distill.soft_weight", "greater than or equal to 0")),
        ({"temperature": 0}, ("distill.temperature", "greater than 0")),
        ({"temperature": -2}, ("distill.temperature", "greater than 0")),
        ({"precision": "bf17"}, ("distill.precision", "bf16")),
        ({"hidden_weight": 1, "layer_map": [[0, 9]]}, ("layer 9 of the teacher", "(0 to 1)")),
        ({"hidden_weight": 1, "layer_map": [[3, 1]]}, ("layer 3 of the student", "(0 to 0)")),
        (
            {"hidden_weight": 1, "subword_dropout": 0.3},
            ("subword_dropout", "cannot be matched token by token; drop it"),
        ),
        ({"method": "dist", "gradient_accumulation": 2}, ("'dist'", "in 2 parts", "use one part")),
        ({"method": "dist", "processes": 2}, ("'dist'", "in 2 parts", "use one part")),
    ],
)
def test_an_objective_that_cannot_work(
    edgekd: Cli, recipe_of: Callable[..., Path], tmp_path: Path, distill: Any, words: Any
) -> None:
    refused(edgekd, recipe_of(distill=distill), tmp_path / "run", *words)


def test_it_is_refused_before_a_teacher_is_fitted_too(
    edgekd: Cli, recipe_of: Callable[..., Path], bert_dir: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(
        teacher={"base": str(bert_dir), "fit": {"epochs": 1}},
        distill={"hidden_weight": 1, "layer_map": [[0, 9]]},
    )
    refused(edgekd, recipe, tmp_path / "run", "layer 9 of the teacher")
    assert not (tmp_path / "run" / "stages" / "teacher.json").exists()


def test_words_that_are_whole_pieces_are_not_cut_and_no_teacher_is_fitted_for_it(
    edgekd: Cli, recipe_of: Callable[..., Path], bert_dir: Path, copied: Any, tmp_path: Path
) -> None:
    base = copied(bert_dir)
    document = json.loads((base / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    document["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    (base / "tokenizer.json").write_text(json.dumps(document))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # BERT's own is WordPiece
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    recipe = recipe_of(
        teacher={"base": str(base), "fit": {"epochs": 1}}, distill={"subword_dropout": 0.3}
    )
    refused(edgekd, recipe, tmp_path / "run", "words of a WordLevel vocabulary; drop the key")
    assert not (tmp_path / "run" / "stages" / "teacher.json").exists()


def test_other_labels_than_the_teachers(
    edgekd: Cli, recipe_of: Callable[..., Path], intents: Any, tmp_path: Path
) -> None:
    rows = [
        {**row, "label": "refund" if i % 3 else row["label"]}
        for i, row in enumerate(intents.train_rows)
    ]
    data = {"train": str(write_csv(tmp_path / "other.csv", rows)), "test": str(intents.test)}
    refused(
        edgekd,
        recipe_of(data=data, distill={}),
        tmp_path / "run",
        "'refund'",
        "labels are card",
        "rename or drop",
    )


def nan_teacher(folder: Path) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] = weights["classifier.bias"] + np.float32(np.nan)
    save_file(weights, file, {"format": "pt"})
    return folder


def test_nan_in_a_signal(
    edgekd: Cli, recipe_of: Callable[..., Path], bert_dir: Path, copied: Any, tmp_path: Path
) -> None:
    teacher = nan_teacher(copied(bert_dir))
    recipe = recipe_of(teacher=str(teacher), distill={})
    refused(edgekd, recipe, tmp_path / "run", "'logits'", "NaN", "check the teacher")


def test_a_store_of_another_teacher_revision(
    edgekd: Cli, bert_dir: Path, copied: Any, intents: Any, tmp_path: Path
) -> None:
    store = ["--data", intents.test, "--out", tmp_path / "store"]
    assert edgekd("label", bert_dir, *store).code == 0
    other = copied(bert_dir)
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + np.float32(0.5)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    answer = edgekd("label", other, *store)
    assert answer.code == 2, answer.err
    assert "another teacher revision" in answer.err and "give another folder" in answer.err


def cut(shard: Path) -> bytes:
    """As a full disk leaves a file: its beginning alone."""
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    return whole


def test_a_shard_that_is_cut_off_is_found_and_relabelled(
    edgekd: Cli, recipe_of: Callable[..., Path], bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    given = ["label", bert_dir, "--data", intents.test, "--out", store, "--json", "-"]
    assert edgekd(*given).code == 0
    shard = next(store.glob("*.safetensors"))
    whole = cut(shard)
    answer = edgekd(*given)
    assert answer.code == 0 and json.loads(answer.out)["labelled"] == 48, answer.err
    assert shard.read_bytes() == whole

    # In a run: the rows of both stores are labelled again before another student reads them.
    out = tmp_path / "run"
    assert edgekd("run", recipe_of(distill={"control": False}, targets={}), "--out", out).code == 0
    shards = list(out.glob("signals/*/*.safetensors"))
    before = {shard: cut(shard) for shard in shards}
    assert len(before) >= 2
    again = recipe_of(distill={"control": False, "learning_rate": 1e-3}, targets={})
    answer = edgekd("run", again, "--out", out)
    assert answer.code == 0, answer.err
    assert {shard: shard.read_bytes() for shard in shards} == before
