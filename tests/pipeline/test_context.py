"""Rows, labels and lengths as every stage sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.pipeline import learn, preflight, ship
from edgekd.pipeline.context import Context, spread
from edgekd.pipeline.stage import Run


@pytest.fixture
def context_of(bert_dir: Path, intents: Any, tmp_path: Path) -> Callable[..., Context]:
    """``context_of(data={…}, student={…})`` is the context of a recipe for the intents."""

    def make(**values: Any) -> Context:
        data = {"train": str(intents.train), "test": str(intents.test), **values.pop("data", {})}
        teacher = values.pop("teacher", str(bert_dir))
        whole = {"name": "x", "task": "text-classification", "teacher": teacher, "data": data}
        recipe = recipes.validate({**whole, **values}, "here")
        return Context(recipe, Run(tmp_path / "run"), tmp_path)

    return make


def rows_file(folder: Path, labels: list[str]) -> str:
    lines = [f"text {i},{label}" for i, label in enumerate(labels)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return "rows.csv"  # found beside the recipe


def test_labels_are_the_teachers(context_of: Callable[..., Context]) -> None:
    assert context_of().labels == ("card", "money", "größe")


def test_labels_of_a_teacher_to_be_fitted_are_the_datas(
    context_of: Callable[..., Context], tmp_path: Path
) -> None:
    train = rows_file(tmp_path, ["10", "9", "2"])
    teacher = {"base": "x"}
    assert context_of(teacher=teacher, data={"train": train}).labels == ("2", "9", "10")
    assert context_of(teacher=teacher).labels == ("card", "größe", "money")
    assert context_of(teacher=teacher, data={"labels": ["b", "a"]}).labels == ("b", "a")


def test_numbers_mean_positions(context_of: Callable[..., Context], tmp_path: Path) -> None:
    found = context_of(data={"test": rows_file(tmp_path, ["2", "0"])}).test
    assert [row["label"] for row in found] == ["größe", "card"]


def test_numbers_of_tags_mean_positions_too(
    context_of: Callable[..., Context], tmp_path: Path
) -> None:
    rows = [{"tokens": ["new", "york", "now"], "tags": tags} for tags in ([1, 2, 0], [0, 1, 0])]
    for name in ("train", "test"):
        text = "\n".join(json.dumps({**row, "tokens": [name, *row["tokens"][1:]]}) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    values: dict[str, Any] = {
        "task": "token-classification",
        "teacher": {"base": "x"},
        "data": {"train": "train.jsonl", "test": "test.jsonl", "allow_overlap": True},
    }
    numbers = context_of(**values)
    learn.read(numbers)
    assert numbers.labels == ("0", "1", "2")
    assert "list the names that they stand for under data.labels" in numbers.warnings[0]
    named = ["O", "B-place", "I-place"]
    context = context_of(**{**values, "data": {**values["data"], "labels": named}})
    learn.read(context)
    assert [row["tags"] for row in context.test] == [
        ["B-place", "I-place", "O"],
        ["O", "B-place", "O"],
    ]
    assert context.task.metrics(context.labels)[0].name == "entity_f1" and not context.warnings
    with pytest.raises(InputError, match="the label '2', which the model does not know"):
        context_of(**{**values, "data": {**values["data"], "labels": named[:2]}}).test  # noqa: B018


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (["crad"], None, r"label 'crad', .* \(did you mean 'card'\?\)"),
        (["7"], None, "label '7'"),
        (["card"], ["money", "card", "größe"], "another order .* position 0 is 'money' here"),
        (["card"], ["card"], "lists 1 classes, the teacher has 3"),
    ],
)
def test_labels_that_do_not_fit(
    context_of: Callable[..., Context],
    tmp_path: Path,
    labels: list[str],
    given: list[str] | None,
    message: str,
) -> None:
    context = context_of(data={"test": rows_file(tmp_path, labels), "labels": given})
    with pytest.raises(InputError, match=message):
        context.test  # noqa: B018 - reading it is the check


def test_lengths_that_the_student_serves(context_of: Callable[..., Context]) -> None:
    assert context_of().max_length == 32
    assert context_of(data={"max_length": 20}).max_length == 20
    assert context_of(targets={"onnx": {"lengths": [16, 40]}}).max_length == 40
    with pytest.raises(InputError, match="length 64 is more than the 48 tokens that the teacher"):
        context_of(targets={"onnx": {"lengths": [64]}}).max_length  # noqa: B018


def test_rows_are_held_out_for_whatever_chooses(context_of: Callable[..., Context]) -> None:
    best: dict[str, Any] = {"name": "assistant", "distill": {"keep": "best"}}
    assert context_of(stages=[best, {"name": "student"}]).selection
    assert not context_of(stages=[{"name": "assistant"}, {"name": "student"}]).chooses
    # Trials hold out rows of their own, but a teacher that is fitted here must not know them.
    fitted = {"base": "x"}
    assert context_of(teacher=fitted, tune={}).selection
    assert not context_of(teacher=fitted).chooses and not context_of(tune={}).chooses


def test_identity_follows_the_bytes(context_of: Callable[..., Context], tmp_path: Path) -> None:
    context = context_of()
    name = rows_file(tmp_path, ["card"])
    before = context.identity(name)
    rows_file(tmp_path, ["money"])
    assert context.identity(name) != before
    assert context.identity("some/id") == "some/id "
    assert "scikit-learn" in str(context.identity("builtin:digits/train"))


def test_examples_reach_from_the_shortest_to_the_longest() -> None:
    rows = [{"text": "x" * n} for n in (5, 1, 9, 3, 7)]
    assert [len(row["text"]) for row in spread(rows, 3)] == [1, 5, 9]
    assert len(spread(rows, 100)) == 5


def test_texts_that_fill_the_whole_input_are_counted(
    context_of: Callable[..., Context],
) -> None:
    encoder = context_of(data={"max_length": 8}).teacher.preprocessor
    rows = [{"text": "card"}, {"text": "card " * 30}]
    assert preflight.share_cut_off(encoder, rows) == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ["onx"]}, r"unknown target 'onx' \(did you mean 'onnx'"),
        ({"targets": {"onnx": {"precisions": ["int9"]}}}, "unknown precision 'int9'"),
        ({"profiles": ["hots"]}, r"unknown profile 'hots' \(did you mean 'host'"),
        ({"profiles": ["phone-ios"]}, "the recipe has no target coreml"),
    ],
)
def test_targets_are_refused_before_anything_is_trained(
    context_of: Callable[..., Context], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ship.check_targets(context_of(**values))


def test_augmented_rows_are_learned_from_without_labels(
    context_of: Callable[..., Context],
) -> None:
    context = context_of(data={"augment": {"copies": 2, "operations": ["delete"]}})
    added = context.unlabelled
    assert 0 < len(added) <= 2 * len(context.train)
    assert all("label" not in row for row in added)
    assert not {row["text"] for row in added} & {row["text"] for row in context.train}
    masked = context_of(data={"augment": {"operations": ["mask"]}}).unlabelled
    assert all("[MASK]" in row["text"].split() for row in masked)  # the teacher's own token
    with pytest.raises(InputError, match="did you mean 'delete'"):
        _ = context_of(data={"augment": {"operations": ["delet"]}}).unlabelled


def test_labels_beside_unlabelled_and_served_rows_are_not_read(
    context_of: Callable[..., Context], intents: Any, tmp_path: Path
) -> None:
    rows = "".join(f"pay for thing {i},{label}\n" for i, label in enumerate(("money", "", "card")))
    (tmp_path / "pool.csv").write_text(f"text,category\n{rows}")
    for name in ("train", "test"):
        text = Path(getattr(intents, name)).read_text().replace("label", "category", 1)
        (tmp_path / f"{name}.csv").write_text(text)
    sources = {"train": "train.csv", "test": "test.csv", "label": "category"}
    context = context_of(data={**sources, "unlabelled": "pool.csv", "served": "pool.csv"})
    assert context.train[0].keys() == {"text", "label"}
    assert (
        context.unlabelled == context.served == [{"text": f"pay for thing {i}"} for i in range(3)]
    )


def test_candidates_of_a_query_are_held_out_together(
    context_of: Callable[..., Context], tmp_path: Path
) -> None:
    def ranking(queries: int) -> Context:
        for name, count in (("train", queries), ("test", 5)):
            rows = [
                {"query": f"{name} {i // 4}", "passage": f"about {i}", "label": int(i % 4 == 0)}
                for i in range(4 * count)
            ]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sources = {"train": "train.jsonl", "test": "test.jsonl"}
        return context_of(
            task="text-ranking", teacher={"base": "x"}, data=sources, distill={"keep": "best"}
        )

    context = ranking(100)
    held, learned = ({row["text"] for row in r} for r in (context.selection, context.train))
    assert not held & learned and len(held | learned) == 100
    assert len(context.selection) == 4 * len(held)
    assert 10 <= len(held) <= 30  # of few groups a fifth: 100 queries are few, 400 rows are not
    with pytest.raises(InputError, match="the 4 training rows are too few to hold some out"):
        ranking(1).selection  # noqa: B018


def test_text_of_the_test_is_found_in_training_wherever_blocks_begin(
    context_of: Callable[..., Context], tmp_path: Path
) -> None:
    def lines(of: range) -> str:
        return "\n".join(f"Line {i} of the play says {i * i} words to {i * 7919}." for i in of)

    other, test = lines(range(100, 300)), lines(range(40))
    texts = {
        "test": test,
        "train": f"{other}\nOne line more.\n{test}",
        "more": f"{test}\n{lines(range(400, 500))}",
        "clean": other,
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)

    def context(train: str, **values: Any) -> Context:
        sources = {"train": f"{train}.txt", "test": "test.txt", "max_length": 16, **values}
        teacher = {"config": {"model_type": "gpt2"}, "vocabulary": 300}
        return context_of(task="text-generation", teacher=teacher, data=sources)

    for values in ({"train": "train"}, {"train": "clean", "unlabelled": "more.txt"}):
        with pytest.raises(InputError, match=r"100\.0% of the test text also stands in the"):
            context(**values).unlabelled  # noqa: B018
    with pytest.raises(InputError, match="also stands in the selection data"):
        context("clean", selection="more.txt").selection  # noqa: B018
    apart = context("clean", selection="more.txt", allow_overlap=True)
    assert "".join(row["text"] for row in apart.selection).startswith(" 400 of the play")
    with pytest.raises(InputError, match=r"every row of data\.selection also stands in the test"):
        context("clean", selection="test.txt", allow_overlap=True).selection  # noqa: B018
    allowed = context("train", unlabelled="more.txt", allow_overlap=True, augment={"copies": 1})
    assert allowed.overlap.share == 1 and allowed.overlap.dropped >= len(allowed.test)
    learned = "".join(row["text"] for row in allowed.train)
    assert learned.startswith("Line 100 of") and "Line 39 of" not in learned
    # What the control does not see is for the teacher to label, the text itself is no target.
    assert len(allowed.unlabelled) > len(allowed.train)
    assert all(row["soft_only"] for row in allowed.unlabelled)
    assert not any("soft_only" in row for row in (*allowed.train, *allowed.test))
