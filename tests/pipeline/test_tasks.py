"""Every task through the whole main job, on models of two layers, 16 wide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from edgekd_exporters.onnx import OnnxExporter

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.bundle import Bundle
from edgekd.cli import main
from edgekd.pipeline import precision
from edgekd.signals import SignalStore
from tests.conftest import FILLER

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "student": {"layers": [0]},
    "distill": {"epochs": 2, "batch_size": 16, "learning_rate": 5e-3},
    "targets": {"onnx": {"precisions": ["fp32"]}},
    "profiles": [],
}


def go(folder: Path, **values: Any) -> dict[str, Any]:
    """Run the recipe; the report's JSON."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **values}, allow_unicode=True))
    pipeline.run(recipes.load(path), path, folder / "run")
    document: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text())
    assert (folder / "run" / "report.html").is_file()
    for row in document["bundles"]:
        Bundle.open(folder / "run" / row["path"]).check_files()
    return document


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def encoder_dir(bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The body of the fitted BERT, a sentence encoder."""
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("encoders") / "tiny-encoder"
    AutoModel.from_pretrained(bert_dir).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert_dir).save_pretrained(folder)
    return folder


def test_embeddings_with_labels(encoder_dir: Path, intents: Any, tmp_path: Path) -> None:
    document = go(
        tmp_path,
        task="feature-extraction",
        teacher=str(encoder_dir),
        data={"train": str(intents.train), "test": str(intents.test)},
        student={"layers": [0], "vocabulary": "trim"},
        distill={**SETTINGS["distill"], "similarity_weight": 0.5},
    )
    teacher, control, student = document["models"]
    assert [row["id"] for row in document["models"]] == ["teacher", "student-no-kd", "student"]
    assert list(student["metrics"]) == ["mrr", "ndcg@10"]
    assert teacher["metrics"]["mrr"] > 0.8 and control["metrics"]["mrr"] > 0.5
    (row,) = document["bundles"]
    assert row["metrics"]["mrr"] == pytest.approx(student["metrics"]["mrr"], abs=0.02)
    assert row["ece"] is None and document["calibration"] == [] and document["blind_spots"] == []
    bundle = Bundle.open(tmp_path / "run" / row["path"])
    embedding = bundle.golden()[2]["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


def test_embeddings_without_labels_have_no_control(
    encoder_dir: Path, intents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in (("ROUNDS", 1), ("SECONDS", 0.01), ("RACE_ROUNDS", 1)):
        monkeypatch.setattr(precision, name, few)
    monkeypatch.setattr(OnnxExporter, "automatic", lambda *_: ("fp32", "int8"))
    train, test = (
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": row["text"]} for row in rows])
        for name, rows in (("train", intents.train_rows), ("test", intents.test_rows))
    )
    document = go(
        tmp_path,
        task="feature-extraction",
        teacher=str(encoder_dir),
        data={"train": train, "test": test},
        distill={**SETTINGS["distill"], "keep": "best"},
        targets={"onnx": {"precisions": ["auto"], "max_drop": 1.0}},
    )
    # An epoch and a precision are chosen by what the teacher finds near among held-out rows.
    kept = json.loads((tmp_path / "run" / "stages" / "student.json").read_text())["result"]["kept"]
    assert all(0 < score <= 1 for score in kept["scores"]) and len(kept["scores"]) == 2
    assert document["searches"][0]["chosen"]["accuracy"] > 0
    assert [row["id"] for row in document["models"]] == ["teacher", "student"]
    teacher, student = document["models"]
    assert teacher["metrics"] == {"mrr": 1.0, "ndcg@10": pytest.approx(1.0)}
    assert document["gain"] is None
    assert student["retained"] == pytest.approx(student["metrics"]["mrr"])


def test_an_embedding_student_of_another_width(
    encoder_dir: Path, intents: Any, tmp_path: Path
) -> None:
    config = {
        "model_type": "bert",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 48,
    }
    document = go(
        tmp_path,
        task="feature-extraction",
        teacher=str(encoder_dir),
        data={"train": str(intents.train), "test": str(intents.test)},
        student={"config": config},
    )
    bundle = Bundle.open(tmp_path / "run" / document["bundles"][0]["path"])
    assert bundle.manifest.outputs[0].shape == ("batch", 8)


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_an_encoder_goes_through_the_front_door(
    encoder_dir: Path, intents: Any, tmp_path: Path, target: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            [
                *("export", str(encoder_dir), "--target", target, "--out", str(tmp_path / "out")),
                *("--data", str(intents.test), "--json", str(tmp_path / "said.json")),
            ]
        )
    assert not left.value.code
    said = json.loads((tmp_path / "said.json").read_text())["evaluation"]
    assert (
        said["retained"] == pytest.approx(1, abs=0.05) and said["agreement"] > 0.5
    )  # many texts are near twins
    assert Bundle.open(tmp_path / "out").manifest.task == "feature-extraction"


def test_text_ranking(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    def pairs(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        found = []
        for start in range(0, len(rows) - 3, 3):
            query = rows[start]
            for other in rows[start + 1 : start + 4]:
                relevant = int(other["label"] == query["label"])
                pair = {"query": query["text"], "passage": other["text"], "relevance": relevant}
                found.append(pair)
        return found

    train = write_jsonl(tmp_path / "train.jsonl", pairs(intents.train_rows))
    test = write_jsonl(tmp_path / "test.jsonl", pairs(intents.test_rows))
    document = go(
        tmp_path,
        task="text-ranking",
        teacher={"base": str(bert_dir), "fit": {"epochs": 20, "learning_rate": 5e-3}},
        data={"train": train, "test": test, "allow_overlap": True},
        distill={**SETTINGS["distill"], "hard_weight": 0.5},
    )
    assert [row["id"] for row in document["models"]] == ["teacher", "student-no-kd", "student"]
    (row,) = document["bundles"]
    assert set(row["metrics"]) == {"mrr", "ndcg@10"}
    assert Bundle.open(tmp_path / "run" / row["path"]).manifest.outputs[0].shape == ("batch", 1)
    (store,) = (tmp_path / "run/signals").glob("train-*")
    assert SignalStore.open(store).spec.fields["logits"].dtype == "float32"


def test_multi_label(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    def rows(source: list[dict[str, str]]) -> list[dict[str, Any]]:
        marked = {"card": ["card", "thing"], "money": ["money"], "größe": []}
        return [{"text": row["text"], "labels": marked[row["label"]]} for row in source]

    document = go(
        tmp_path,
        task="text-classification/multi-label",
        teacher={"base": str(bert_dir), "fit": {"epochs": 6, "learning_rate": 1e-2}},
        data={
            "train": write_jsonl(tmp_path / "train.jsonl", rows(intents.train_rows)),
            "test": write_jsonl(tmp_path / "test.jsonl", rows(intents.test_rows)),
        },
        distill={**SETTINGS["distill"], "hard_weight": 0.5, "temperature": 1.0},
    )
    teacher = document["models"][0]
    assert list(teacher["metrics"]) == ["micro_f1", "macro_f1"]
    assert teacher["metrics"]["micro_f1"] > 0.8
    (row,) = document["bundles"]
    manifest = Bundle.open(tmp_path / "run" / row["path"]).manifest
    assert manifest.labels == ("card", "money", "thing")
    student = tmp_path / "run" / "student"
    code, _ = said(tmp_path, "export", student, "--target", "coreml", "--out", tmp_path / "coreml")
    assert code == 0  # without a softmax over classes that are independent
    assert [o.name for o in Bundle.open(tmp_path / "coreml").manifest.outputs] == ["logits"]
    config = json.loads((student / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_regression(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    values = {"card": 0.0, "money": 0.5, "größe": 2.5}

    def rows(source: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [{"text": row["text"], "score": values[row["label"]]} for row in source]

    document = go(
        tmp_path,
        task="text-classification/regression",
        teacher={"base": str(bert_dir), "fit": {"epochs": 4, "learning_rate": 1e-2}},
        data={
            "train": write_jsonl(tmp_path / "train.jsonl", rows(intents.train_rows)),
            "test": write_jsonl(tmp_path / "test.jsonl", rows(intents.test_rows)),
        },
    )
    teacher = document["models"][0]
    assert list(teacher["metrics"]) == ["spearman", "pearson", "mse"]
    assert teacher["metrics"]["pearson"] > 0.7
    # Prices and years have more than three digits.
    (store,) = (tmp_path / "run/signals").glob("train-*")
    assert SignalStore.open(store).spec.fields["logits"].dtype == "float32"
    (row,) = document["bundles"]
    assert Bundle.open(tmp_path / "run" / row["path"]).manifest.labels == ()


def test_question_answering(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    def rows(source: list[dict[str, str]]) -> list[dict[str, Any]]:
        found = []
        for row in source:
            cue = next(w for w in row["text"].split() if w not in FILLER)
            answers = {"text": [cue], "answer_start": [row["text"].index(cue)]}
            found.append({"question": "where is it", "context": row["text"], "answers": answers})
        return found

    document = go(
        tmp_path,
        task="question-answering",
        teacher={"base": str(bert_dir), "fit": {"epochs": 8, "learning_rate": 1e-2}},
        data={
            "train": write_jsonl(tmp_path / "train.jsonl", rows(intents.train_rows)),
            "test": write_jsonl(tmp_path / "test.jsonl", rows(intents.test_rows)),
        },
        distill={**SETTINGS["distill"], "hard_weight": 0.1},
    )
    teacher, _, student = document["models"]
    assert list(teacher["metrics"]) == ["f1", "exact_match"]
    assert teacher["metrics"]["f1"] > 0.5
    (row,) = document["bundles"]
    assert row["metrics"]["f1"] == pytest.approx(student["metrics"]["f1"], abs=0.05)
    manifest = Bundle.open(tmp_path / "run" / row["path"]).manifest
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    assert shapes == dict.fromkeys(("start_logits", "end_logits"), ("batch", "sequence"))


def said(tmp_path: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "said.json"
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--json", str(path)])
    return int(left.value.code or 0), json.loads(path.read_text()) if path.is_file() else {}


def test_the_verbs_take_every_kind_of_answer(
    encoder_dir: Path, bert_dir: Path, intents: Any, tmp_path: Path, capsys: Any
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    scorer = tmp_path / "scorer"
    tokenizer = AutoTokenizer.from_pretrained(bert_dir)
    tokenizer.save_pretrained(scorer)
    AutoModelForSequenceClassification.from_pretrained(
        bert_dir, num_labels=1, ignore_mismatched_sizes=True
    ).save_pretrained(scorer)
    texts = [row["text"] for row in intents.test_rows[:8]]
    rows = [
        {"query": texts[i // 4], "passage": text, "label": i % 2} for i, text in enumerate(texts)
    ]
    data, bundle = write_jsonl(tmp_path / "pairs.jsonl", rows), tmp_path / "bundle"
    ranking = ("--task", "text-ranking")
    assert said(tmp_path, "export", scorer, "--out", bundle, *ranking, "--data", data)[0] == 0
    store = tmp_path / "store"
    code, found = said(tmp_path, "label", scorer, "--data", data, "--out", store, *ranking)
    assert code == 0 and found["labelled"] == 8
    assert SignalStore.open(store).spec.fields["logits"].dtype == "float32"
    code, found = said(tmp_path, "eval", bundle, "--data", data, "--signals", store)
    assert code == 0 and found["retained"] == 1 and found["agreement"] == 1
    code, _ = said(tmp_path, "export", encoder_dir, "--target", "browser", "--out", tmp_path / "b")
    assert code == 2 and "browser target knows" in capsys.readouterr().err
    # One score is a number or a rank: what it is has to be said, or is a number.
    code, _ = said(
        tmp_path, "export", scorer, "--out", tmp_path / "c", "--task", "text-classification"
    )
    assert code == 2 and "text-classification/regression" in capsys.readouterr().err
