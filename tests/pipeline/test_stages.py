"""Teacher -> assistant -> student, and a student that learned the language before its task."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edgekd import blocks, pipeline, recipe
from edgekd.distill import precision
from edgekd.errors import InputError

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
FIT = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2}
WORDS = {
    "sea": ["wave", "shore", "tide", "boat", "sail"],
    "wood": ["tree", "leaf", "bark", "root", "moss"],
}


def texts(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    labels = [draw.choice(["sea", "wood"]) for _ in range(count)]
    return [
        {"text": " ".join(draw.choices(WORDS[name], k=6)) + f" {n}", "label": name}
        for n, name in enumerate(labels, seed * 1000)
    ]


def values(folder: Path, **more: Any) -> dict[str, Any]:
    for name, count in (("train", 64), ("test", 24)):
        rows = texts(count, len(name))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / f"{name}.txt").write_text("\n".join(row["text"] for row in rows))
    return {
        "name": "tiny",
        "task": "text-classification",
        "teacher": {
            "config": {**BERT, "num_hidden_layers": 3},
            "vocabulary": 300,
            "fit": FIT,
        },
        "data": {"train": "train.jsonl", "test": "test.jsonl", "max_length": 32},
        "targets": {},
        "profiles": [],
        **more,
    }


def distil(folder: Path, **more: Any) -> dict[str, Any]:
    read = recipe.validate(values(folder, **more), "recipe")
    return pipeline.distill(read, folder, folder / "run")


def seconds(folder: Path) -> dict[str, float]:
    records = (folder / "run" / "stages").glob("*.json")
    return {r.stem: r.stat().st_mtime_ns for r in records}


LANGUAGE = {
    "name": "language",
    "task": "fill-mask",
    "teacher": {"config": {**BERT, "num_hidden_layers": 3}, "vocabulary": 300, "fit": FIT},
    "data": {"train": "train.txt", "test": "test.txt", "max_length": 32, "allow_overlap": True},
    "student": {"layers": [0, 2]},
    "distill": {**FIT, "epochs": 1, "top_k": 8},
}
STILL = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0}  # what is trained stays as it was


def test_an_assistant_teaches_the_student_and_everything_resumes(tmp_path: Path) -> None:
    stages = [
        {"name": "assistant", "student": {"layers": [0, 2]}, "distill": {**FIT, "keep": "best"}},
        {"name": "student", "student": {"layers": [1]}, "distill": FIT},
    ]
    found = distil(tmp_path, stages=stages)
    rows = {row["id"]: row for row in found["models"]}
    assert list(rows) == ["teacher", "assistant", "student-no-kd", "student"]
    sizes = [rows[name]["params"] for name in ("teacher", "assistant", "student")]
    assert sizes == sorted(sizes, reverse=True)
    assert rows["student"]["params"] == rows["student-no-kd"]["params"]
    # Retained is of the teacher, whoever taught.
    teacher, student = (rows[name]["metrics"]["accuracy"] for name in ("teacher", "student"))
    assert rows["student"]["retained"] == pytest.approx(student / teacher)
    # Each teacher's words lie under its own revision.
    stores = sorted(p.name for p in (tmp_path / "run" / "signals").iterdir())
    assert len([s for s in stores if s.startswith("train-")]) == 2
    before = seconds(tmp_path)
    assert {"assistant", "label-assistant", "label", "student"} <= set(before)
    record = json.loads((tmp_path / "run" / "stages" / "assistant.json").read_text())
    assert len(record["result"]["kept"]["scores"]) == FIT["epochs"]
    distil(tmp_path, stages=stages)
    assert seconds(tmp_path) == before


def test_a_student_learns_the_language_before_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []

    def counted(*given: Any) -> Any:
        learned.append(given[1])
        return learn_vocabulary(*given)

    learn_vocabulary = blocks.learn_vocabulary
    monkeypatch.setattr(blocks, "learn_vocabulary", counted)
    language = {**LANGUAGE, "student": {"layers": [0]}}
    found = distil(tmp_path, stages=[language, {"name": "student", "distill": FIT}])
    assert [row["id"] for row in found["models"]] == ["teacher", "student-no-kd", "student"]
    assert learned == [300, 300]  # of each stage's text once, the rehearsal included
    # Four epochs on 64 rows: what such a teacher knows is the frequencies.
    said = "stage 'language': the teacher's perplexity on the test rows is"
    assert [warning for warning in found["warnings"] if warning.startswith(said)]
    configs = [
        json.loads((tmp_path / "run" / name / "config.json").read_text())
        for name in ("language/student", "student", "student-no-kd")
    ]
    assert {c["num_hidden_layers"] for c in configs} == {1}
    said = json.loads((tmp_path / "run" / "language" / "stages" / "student.json").read_text())
    assert set(said["result"]["evaluation"]["metrics"]) == {"perplexity", "masked_token_accuracy"}


def weights(folder: Path, name: str) -> dict[str, Any]:
    found = load_file(folder / "run" / name / "model.safetensors")
    return {key: value for key, value in found.items() if key.startswith("bert.encoder")}


def mask_token(folder: Path, name: str) -> list[float]:
    """Its embedding in that model."""
    model = folder / "run" / name
    number = Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("<mask>")
    table = load_file(model / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    return table[number].tolist()  # type: ignore[no-any-return]


def same(ours: dict[str, Any], theirs: dict[str, Any], layer: int) -> bool:
    """Whether the only layer of ``ours`` is that ``layer`` of ``theirs``."""
    return all(
        torch.equal(value, theirs[name.replace("layer.0.", f"layer.{layer}.")])
        for name, value in ours.items()
    )


def test_the_language_comes_first_then_an_assistant_then_the_student(tmp_path: Path) -> None:
    stages = [
        LANGUAGE,
        {"name": "assistant", "distill": {**FIT, "weight_decay": 0}},
        {"name": "student", "student": {"layers": [1]}, "distill": STILL},
    ]
    found = distil(tmp_path, stages=stages)
    rows = {row["id"]: row for row in found["models"]}
    assert rows["student"]["params"] == rows["student-no-kd"]["params"]
    # What no row of the task shows stays as the language stage left it.
    names = ("language/student", "assistant", "student", "language/untrained", "student-no-kd")
    learned, assistant, student, bare, control = (mask_token(tmp_path, name) for name in names)
    assert learned == assistant == student != bare == control
    assert same(weights(tmp_path, "student"), weights(tmp_path, "assistant"), 1)
    assert same(weights(tmp_path, "student-no-kd"), weights(tmp_path, "language/untrained"), 1)


def test_an_assistant_teaches_a_student_that_knows_the_language(tmp_path: Path) -> None:
    stages = [
        {"name": "assistant", "student": {"layers": [0, 2]}, "distill": FIT},
        LANGUAGE,
        {"name": "student", "student": {"layers": [0]}, "distill": STILL},
    ]
    found = distil(tmp_path, stages=stages)
    rows = {row["id"]: row for row in found["models"]}
    assert rows["student"]["params"] == rows["student-no-kd"]["params"]
    assert same(weights(tmp_path, "student"), weights(tmp_path, "language/student"), 0)
    assert same(weights(tmp_path, "student-no-kd"), weights(tmp_path, "language/untrained"), 0)


def test_the_control_has_the_shape_that_was_chosen_of_an_assistant(tmp_path: Path) -> None:
    stages = [
        {"name": "assistant", "student": {"params": "90%"}, "distill": FIT},
        {"name": "student", "student": {"params": "85%"}, "distill": FIT},
    ]
    data = {"train": "train.jsonl", "test": "test.jsonl", "max_length": 32, "signals": "shared"}
    rows = {row["id"]: row for row in distil(tmp_path, stages=stages, data=data)["models"]}
    # The shared store is the teacher's own.
    assert [p.name[:6] for p in (tmp_path / "run" / "signals").glob("train-*")] == ["train-"]
    sizes = [rows[name]["params"] for name in ("teacher", "assistant", "student")]
    assert sizes[1] <= 0.9 * sizes[0] and sizes[2] <= 0.85 * sizes[1]
    assert rows["student-no-kd"]["params"] == sizes[2]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "student"}, {"name": "student"}], "names of their own"),
        ([{"name": "teacher"}, {"name": "student"}], "names of their own"),
        ([{"name": "data"}, {"name": "student"}], "names of their own"),
        ([{"name": "a", "task": "fill-mask"}, {"name": "student"}], "of its own"),
        ([LANGUAGE, {**LANGUAGE, "name": "again"}, {"name": "student"}], "drop one of them"),
        (
            [LANGUAGE, {"name": "student", "student": {"params": "12%"}}],
            "params would drop; give params to the student of 'language'",
        ),
        ([LANGUAGE, {"name": "student", "student": {"model": "x"}}], "model would drop"),
        (
            [LANGUAGE, {"name": "student", "student": {"layers": [2]}}],
            r"names layer 2, but it is made of the model of 'language', which has 2 \(0 to 1\)",
        ),
        (
            [{"name": "a", "distill": {"method": "distt"}}, {"name": "student"}],
            r"stage 'a': distill\.method: 'distt' does not fit text-classification .*'dist'",
        ),
        (
            [{"name": "a", "distill": {"method": "binary_kl"}}, {"name": "student"}],
            "stage 'a'.*'binary_kl' does not fit text-classification",
        ),
        ([{**LANGUAGE, "task": "fil-mask"}, {"name": "student"}], "stage 'language'.*'fill-mask'"),
        (
            [{**LANGUAGE, "distill": {"method": "dist"}}, {"name": "student"}],
            "stage 'language'.*'dist' does not fit fill-mask",
        ),
        (
            [{"name": "a", "distill": {"control": True}}, {"name": "student"}],
            "'a' has no control, which is of the last of stages",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(
    tmp_path: Path, stages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        recipe.validate(values(tmp_path, stages=stages), "recipe")


PAST = {"hidden_weight": 1, "layer_map": [[0, 2]]}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [{"name": "a", "distill": {**PAST, "layer_map": [[0, 3]]}}, {"name": "student"}],
            "^stage 'a': the layer map names layer 3 of the teacher",
        ),
        (  # what it learns from is the assistant, of two layers
            [{"name": "a", "student": {"layers": [0, 2]}}, {"name": "student", "distill": PAST}],
            "layer 2 of the teacher, which has 2",
        ),
        (
            [{**LANGUAGE, "distill": {"subword_dropout": 0.3}}, {"name": "student"}],
            "stage 'language': subword_dropout changes the tokens that fill-mask answers with",
        ),
        (
            [{**LANGUAGE, "distill": {**PAST, "layer_map": [[2, 0]]}}, {"name": "student"}],
            "layer 2 of the student, which has 2",
        ),
        (
            [LANGUAGE, {"name": "student", "distill": {**PAST, "layer_map": [[2, 0]]}}],
            "layer 2 of the student, which has 2",
        ),
        (
            [{**LANGUAGE, "distill": {"precision": "bf16"}}, {"name": "student"}],
            "^stage 'language': precision: bf16 .* this machine has none",
        ),
        (
            [{"name": "a", "distill": {"method": "logit_mse", "temperature": 4}}, {"name": "b"}],
            "softens none of this recipe's losses",
        ),
    ],
)
def test_what_no_stage_can_be_taught_by_is_refused_before_the_teacher_is_fitted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: list[dict[str, Any]],
    message: str,
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    with pytest.raises(InputError, match=message):
        distil(tmp_path, stages=stages)
    assert not (tmp_path / "run" / "stages" / "teacher.json").exists()


def test_a_student_beside_stages_is_refused(tmp_path: Path) -> None:
    given = values(tmp_path, stages=[{"name": "student"}], student={"layers": [0]})
    with pytest.raises(InputError, match="the last of stages"):
        recipe.validate(given, "recipe")
