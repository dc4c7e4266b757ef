"""A student is some of its teacher's layers, word for word, or any model or config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models, tasks
from edgekd.distill.student import build, copy_layers, trim_vocabulary
from edgekd.errors import InputError
from edgekd.infer import forward
from edgekd.models import LoadedModel
from edgekd.sections import Student

TEXT = tasks.get("text-classification")
TEXTS = ["my card please", "where is the money", "not how long"]
ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture
def teacher(bert_dir: Path) -> LoadedModel:
    return models.load(str(bert_dir), TEXT)


def make(teacher: LoadedModel, **spec: Any) -> LoadedModel:
    return build(Student(**spec), teacher, TEXT, ROWS, 32, seed=0)


def test_all_layers_are_the_teacher(teacher: LoadedModel) -> None:
    student = copy_layers(teacher, None, 32)
    expected = forward(teacher, ROWS, TEXT)["logits"]
    np.testing.assert_allclose(forward(student, ROWS, TEXT)["logits"], expected, rtol=1e-5)


def test_chosen_layers_are_copied_and_the_rest_kept(teacher: LoadedModel) -> None:
    student = copy_layers(teacher, [1], 32)
    theirs, ours = teacher.model.state_dict(), student.model.state_dict()
    layer = "bert.encoder.layer"
    for name, value in ours.items():
        source = name.replace(f"{layer}.0.", f"{layer}.1.")
        expected = theirs[source][: len(value)]  # the position table is cut
        assert torch.equal(value, expected), name
    assert student.model.config.num_hidden_layers == 1  # type: ignore[union-attr]
    assert student.parameters < teacher.parameters
    with torch.no_grad():  # a copy, not a view: training the student leaves the teacher alone
        next(student.model.parameters()).zero_()
    assert next(teacher.model.parameters()).abs().sum() > 0


def test_positions_are_cut_to_what_is_served(teacher: LoadedModel) -> None:
    student = copy_layers(teacher, [0], 16)
    assert student.model.config.max_position_embeddings == 16  # type: ignore[union-attr]
    assert student.preprocessor.max_length == 16  # type: ignore[attr-defined]
    full = copy_layers(teacher, [0], None)
    expected = forward(full, ROWS, TEXT)["logits"]
    np.testing.assert_allclose(forward(student, ROWS, TEXT)["logits"], expected, rtol=1e-5)
    forward(student, [{"text": "card " * 100}], TEXT)


def test_layers_that_the_teacher_lacks(teacher: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"names layer 7, but the teacher has 2 \(0 to 1\)"):
        make(teacher, layers=[0, 7])


def test_a_trimmed_vocabulary_gives_the_same_answers(teacher: LoadedModel, bert_dir: Path) -> None:
    expected = forward(teacher, ROWS, TEXT)["logits"]
    before = len(teacher.preprocessor.tokens([{"text": "plastic visa"}])[0].ids)  # type: ignore[attr-defined]
    trimmed = trim_vocabulary(models.load(str(bert_dir), TEXT), TEXTS)
    found = forward(trimmed, ROWS, TEXT)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    vocabulary = json.loads(trimmed.preprocessor.tokenizer_json)["model"]["vocab"]  # type: ignore[attr-defined]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == trimmed.model.config.vocab_size  # type: ignore[union-attr]
    assert {"card", "money", "[CLS]", "[UNK]", "c", "##c"} <= vocabulary.keys()
    assert not {"plastic", "visa"} & vocabulary.keys()
    # Words that were cut are read letter by letter, none of them as unknown.
    tokens = trimmed.preprocessor.tokens([{"text": "plastic visa"}])[0]  # type: ignore[attr-defined]
    assert len(tokens.ids) > before and "[UNK]" not in tokens.tokens


def test_the_trimmed_tokenizer_goes_with_the_student(teacher: LoadedModel, tmp_path: Path) -> None:
    student = make(teacher, layers=[0], vocabulary="trim")
    student.save(tmp_path)
    again = models.load(str(tmp_path), TEXT)
    np.testing.assert_array_equal(
        forward(again, ROWS, TEXT)["logits"],
        forward(student, ROWS, TEXT)["logits"],
    )
    assert again.revision == student.revision


def test_a_student_from_a_config_or_another_model(teacher: LoadedModel, bert_dir: Path) -> None:
    config = {
        "model_type": "distilbert",
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
        "hidden_dim": 16,
    }
    student = make(teacher, config=config)
    assert student.labels == teacher.labels
    assert forward(student, ROWS, TEXT)["logits"].shape == (3, 3)
    other = make(teacher, model=str(bert_dir))
    assert other.labels == teacher.labels


def test_only_texts_have_a_vocabulary(vit_dir: Path) -> None:
    task = tasks.get("image-classification")
    vit = models.load(str(vit_dir), task)
    rows = models.example_rows(task, vit.preprocessor)
    with pytest.raises(InputError, match="needs a text task"):
        build(Student(vocabulary="trim"), vit, task, rows, 0, seed=0)


@pytest.mark.parametrize("source", ["layers", "widths", "model", "config"])
def test_dropout_is_set_wherever_the_student_comes_from(
    teacher: LoadedModel, bert_dir: Path, tmp_path: Path, source: str
) -> None:
    config = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"hidden_size": 16, "intermediate_size": 32}
    given = {"layers": [0], "model": str(bert_dir), "config": config}
    spec = {source: given[source]} if source in given else {"layers": [1], "hidden_size": 8}
    student = make(teacher, **spec, dropout=0.0)
    encoded = {k: torch.from_numpy(v) for k, v in student.preprocessor.encode(ROWS).items()}
    student.model.train()
    with torch.no_grad():
        first, second = (student.model(**encoded).logits for _ in range(2))
    assert torch.equal(first, second)
    student.save(tmp_path)  # a later stage reads it from there
    assert json.loads((tmp_path / "config.json").read_text())["hidden_dropout_prob"] == 0.0
    untouched = make(teacher, **spec)
    untouched.model.train()
    with torch.no_grad():
        first, second = (untouched.model(**encoded).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_a_dropout_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        Student(dropout=1.0)
