from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.bundle import Bundle
from edgekd.cli.eval import _align, eval_
from edgekd.errors import InputError
from edgekd.evaluate import predict
from edgekd.signals import Field, SignalSpec, SignalStore, keys

Make = Callable[..., Bundle]
Rows = list[dict[str, str]]


@pytest.fixture
def labelled(bundle_of: Make, rows: Rows, tmp_path: Path) -> tuple[Bundle, str]:
    """A bundle, and a CSV that it answers rightly but for every fifth row."""
    bundle = bundle_of("batch")
    names = bundle.manifest.labels
    said = predict(bundle, rows)["logits"].argmax(1)
    said[::5] = (said[::5] + 1) % len(names)
    lines = [f"{row['text']},{names[i]}" for row, i in zip(rows, said, strict=True)]
    file = tmp_path / "test.csv"
    file.write_text("sentence,intent\n" + "\n".join(lines) + "\n")
    return bundle, str(file)


def run(bundle: Bundle, data: str, out: Path, **options: object) -> dict:
    eval_(bundle.path, data=data, json_path=str(out), **options)  # type: ignore[arg-type]
    return json.loads(out.read_text())


def test_without_a_teacher(labelled: tuple[Bundle, str], tmp_path: Path) -> None:
    found = run(*labelled, tmp_path / "e.json")
    assert found["schema"] == "edgekd.evaluation/1"
    assert found["metrics"]["accuracy"] == pytest.approx(0.8)
    assert found["retained"] is None
    assert found["evidence"] == "measured"


def test_against_a_bundle_and_against_its_stored_signals(
    labelled: tuple[Bundle, str], rows: Rows, tmp_path: Path
) -> None:
    bundle, data = labelled
    found = run(bundle, data, tmp_path / "e.json", teacher=str(bundle.path))
    assert (found["retained"], found["agreement"]) == (1, 1)

    store = SignalStore.open(
        tmp_path / "signals", SignalSpec("t", "p", {"logits": Field("float16", (3,))})
    )
    unique = list({row["text"]: row for row in rows}.values())
    answers = -predict(bundle, unique)["logits"]  # a teacher of another mind
    store.append(keys(unique), {"logits": answers})
    found = run(bundle, data, tmp_path / "e.json", signals=tmp_path / "signals")
    assert found["agreement"] < 1


def test_classes_are_matched_by_name() -> None:
    logits = np.arange(6.0).reshape(2, 3)
    turned = _align({"logits": logits}, ("b", "c", "a"), ("a", "b", "c"), "teacher")
    np.testing.assert_array_equal(turned["logits"], [[2, 0, 1], [5, 3, 4]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "a", "signals": Path("b")}, "not both"),
        ({"signals": Path("nowhere")}, "not a signal store"),
        ({"column": ["label"]}, "ROLE=NAME"),
        ({"column": ["label=intnt"]}, "did you mean 'intent'"),
    ],
)
def test_bad_input_is_one_line(
    labelled: tuple[Bundle, str], tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        run(*labelled, tmp_path / "e.json", **options)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="only in one"):
        _align({}, ("a",), ("b",), "teacher")
