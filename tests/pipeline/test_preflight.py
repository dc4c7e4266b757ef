"""A teacher that does not know the task, or knows its labels in another order, is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import models, tasks
from edgekd.errors import InputError
from edgekd.pipeline.preflight import by_frequency, dull, same_tokens, teacher_knows
from edgekd.preprocess import TextPreprocessor

TASK = tasks.get("text-classification")
LABELS = ("a", "b", "c", "d")


def asked(decided: np.ndarray, truth: np.ndarray) -> None:
    logits = np.eye(len(LABELS))[decided]
    teacher_knows(TASK, {"logits": logits}, truth.tolist(), LABELS, "my-teacher")


def test_a_good_teacher_passes() -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = truth.copy()
    decided[::7] = 0
    asked(decided, truth)
    asked(np.zeros(20, int), np.zeros(20, int))  # one class only, and always right


@pytest.mark.parametrize("turned", [[1, 0, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]])
def test_labels_in_another_order(turned: list[int]) -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = np.array(turned)[truth]
    decided[::9] = 2
    with pytest.raises(InputError, match="in another order than the teacher's: what the data"):
        asked(decided, truth)


def test_near_chance() -> None:
    truth = np.repeat(np.arange(4), 25)
    decided = np.random.default_rng(0).integers(0, 4, 100)
    with pytest.raises(InputError, match=r"right on 2\d\.0% .* my-teacher is not fine-tuned"):
        asked(decided, truth)
    skewed = np.array([0] * 95 + [1] * 5)
    with pytest.raises(InputError, match=r"commonest class on 95\.0%"):
        asked(np.zeros(100, int), skewed)


def many(logits: np.ndarray, truth: np.ndarray) -> None:
    """Ask a teacher of classes that do not exclude each other; both [rows, classes]."""
    task = tasks.get("text-classification/multi-label")
    rows = [tuple(row) for row in truth.tolist()]
    teacher_knows(task, {"logits": logits}, rows, LABELS, "my-teacher")


def test_classes_that_do_not_exclude_each_other() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((200, 4)) < (0.7, 0.4, 0.2, 0.05)).astype(int)
    good = np.where(random.random(truth.shape) < 0.1, 1 - truth, truth) * 2.0 - 1
    many(good, truth)
    with pytest.raises(InputError, match="calls 'b', my-teacher mostly calls 'c'"):
        many(good[:, [0, 2, 1, 3]], truth)
    for random_one in (random.normal(size=truth.shape), np.tile([1.0, -1, -1, -1], (200, 1))):
        with pytest.raises(InputError, match=r"micro_f1 of 0\.\d+ .* dealt out to other rows have"):
            many(random_one, truth)
    together = np.repeat(truth[:, :1], 4, 1)  # always all or none: nothing is swapped
    many(together * 2.0 - 1, together)


def numbers(values: np.ndarray) -> tuple[str, dict[str, np.ndarray], list[Any]]:
    truth = np.random.default_rng(1).normal(size=len(values))
    return "text-classification/regression", {"logits": (values + truth)[:, None]}, truth.tolist()


def ranks(values: np.ndarray) -> tuple[str, dict[str, np.ndarray], list[Any]]:
    query = np.arange(len(values)) // 5
    grades = (np.arange(len(values)) % 5 == query % 5).astype(float)
    outputs = {"logits": (values + grades)[:, None], "query": query}
    return "text-ranking", outputs, list(zip(map(str, query), grades.tolist(), strict=True))


def spans(values: np.ndarray) -> tuple[str, dict[str, np.ndarray], list[Any]]:
    context, count = "one two three four five", len(values)
    random = np.random.default_rng(1)
    truth = random.integers(0, 5, count)
    words = [(0, 3), (4, 7), (8, 13), (14, 18), (19, 23)]
    wrong = np.abs(values) > 1e-3
    said = np.eye(5)[np.where(wrong, random.integers(0, 5, count), truth)]
    offsets = np.tile(np.array(words), (count, 1, 1))
    outputs = {"start_logits": said, "end_logits": said, "offsets": offsets, "mask": said * 0 + 1}
    answers = [(context, ((context[slice(*words[n])], words[n][0]),)) for n in truth]
    return "question-answering", outputs, answers


@pytest.mark.parametrize("case", [numbers, ranks, spans])
def test_answers_that_would_do_as_well_for_other_rows(
    case: Callable[[np.ndarray], tuple[str, dict[str, np.ndarray], list[Any]]],
) -> None:
    def asked(values: np.ndarray) -> None:
        name, outputs, references = case(values)
        teacher_knows(tasks.get(name), outputs, references, (), "my-teacher")

    noise = np.random.default_rng(2).normal(size=60)
    asked(noise * 1e-4)
    with pytest.raises(InputError, match=r"other rows have .* my-teacher is not fine-tuned"):
        asked(noise * 1e4)
    asked(noise[:10] * 1e4)  # so few rows say nothing


@pytest.mark.parametrize("name", ["text-generation", "fill-mask"])
def test_a_language_model_that_knows_nothing_of_the_texts(name: str) -> None:
    def asked(nll: float) -> None:
        said = {"nll": np.full((3, 4), nll, np.float32), "mask": np.ones((3, 4), np.uint8)}
        said |= {key: np.zeros((3, 4), np.int32) for key in ("choice", "truth")}
        teacher_knows(tasks.get(name), said, ["a", "b", "c"], (), None, vocabulary=1000)

    asked(4.0)
    with pytest.raises(InputError, match=r"of 1,097 .* nothing one of 1,000: it did not learn"):
        asked(7.0)


def test_a_language_model_is_held_against_the_frequency_of_tokens(bert_dir: Path) -> None:
    """Golden value: of four tokens of three kinds, unseen ones share three sevenths."""
    teacher = models.load(str(bert_dir), TASK)
    task, rows = tasks.get("fill-mask"), [{"text": "the card"}, {"text": "the money"}]
    the, card, new = teacher.preprocessor.tokens([{"text": "the card please"}])[0].ids[1:4]  # type: ignore[attr-defined]
    outputs = {"truth": np.array([[the, card], [the, new]]), "mask": np.ones((2, 2))}
    found = by_frequency(task, outputs, rows, teacher)
    unseen = 3 / 7 / (teacher.model.config.vocab_size - 3)  # type: ignore[union-attr]
    assert found == pytest.approx((2 / 7 * 1 / 7 * 2 / 7 * unseen) ** (-1 / 4))
    assert by_frequency(TASK, outputs, rows, teacher) is None
    # A special token counts where it is asked for, as the end of a text is.
    end = teacher.preprocessor.tokens(rows)[0].ids[-1]  # type: ignore[attr-defined]
    ended = {"truth": np.array([[end]]), "mask": np.ones((1, 1))}
    assert by_frequency(task, ended, rows, teacher) == pytest.approx(10 / 2)  # 2 of 6, of 4 kinds

    def labelled(perplexity: float) -> dict[str, Any]:
        return {"frequency": found, "evaluation": {"metrics": {"perplexity": perplexity}}}

    assert dull(labelled(found - 1), "teacher") is None
    assert "the coach's perplexity" in (dull(labelled(found), "coach") or "")
    assert dull({"frequency": None}, "teacher") is None


def test_tokens_are_compared_to_the_last_row(bert_dir: Path) -> None:
    teacher, student = (models.load(str(bert_dir), TASK).preprocessor for _ in range(2))
    rows = [{"text": "the card"}] * 1100 + [{"text": "the money"}]
    assert same_tokens(teacher, student, rows)
    assert isinstance(student, TextPreprocessor)
    whole = json.loads(student.tokenizer_json)
    whole["model"]["vocab"]["##zzz"] = whole["model"]["vocab"].pop("money")
    other = replace(student, tokenizer_json=json.dumps(whole))
    assert same_tokens(teacher, other, rows[:-1])
    assert not same_tokens(teacher, other, rows)
