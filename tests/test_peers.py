"""The comparison with the peers: its arithmetic on numbers made by hand, its rows and cases."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekd import data, tasks
from edgekd.errors import InputError


def load(name: str) -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks" / "peers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"peers_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def judge() -> ModuleType:
    return load("judge")


def rounds(ratio: float, noise: float, count: int = 20, turns: int = 8) -> list[dict[str, list]]:
    """Turns whose pace drifts by the same factor for both, and whose ratio is ``ratio``."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        pace = random.uniform(0.5, 3, turns)
        ours = pace * ratio * np.exp(random.normal(0, noise, turns))
        found.append({"ours": ours.tolist(), "theirs": pace.tolist()})
    return found


def test_a_pace_that_both_share_cancels(judge: ModuleType) -> None:
    found = judge.latency(rounds(0.9, 0.0), "ours", "theirs")
    assert [found.ratio.value, found.ratio.low, found.ratio.high] == pytest.approx([0.9] * 3)


@pytest.mark.parametrize(("ratio", "fast", "ahead"), [(0.9, True, True), (1.1, False, False)])
def test_latency_is_judged_by_the_upper_end(
    judge: ModuleType, ratio: float, fast: bool, ahead: bool
) -> None:
    timed = judge.latency(rounds(ratio, 0.02), "ours", "theirs")
    assert timed.ratio.low <= ratio <= timed.ratio.high
    same = np.ones(100, bool)
    verdict = judge.judge(timed, same, same, (10, 10))
    assert verdict.fast is fast
    assert ("latency" in verdict.ahead) is ahead
    assert verdict.holds is (fast and ahead)


def test_equal_in_everything_is_ahead_in_nothing(judge: ModuleType) -> None:
    same = np.ones(100, bool)
    verdict = judge.judge(judge.latency(rounds(1.0, 0.0), "ours", "theirs"), same, same, (10, 10))
    assert verdict.fast and verdict.accurate and verdict.small
    assert verdict.ahead == () and not verdict.holds


@pytest.mark.parametrize(("lost", "accurate"), [(5, True), (6, False)])
def test_accuracy_is_judged_by_mcnemar(judge: ModuleType, lost: int, accurate: bool) -> None:
    """Exact and two-sided: 2 / 2^5 is 0.0625, 2 / 2^6 is 0.031."""
    theirs = np.ones(1000, bool)
    ours = theirs.copy()
    ours[:lost] = False
    timed = judge.latency(rounds(0.5, 0.0), "ours", "theirs")
    verdict = judge.judge(timed, ours, theirs, (10, 10))
    assert verdict.p_value == pytest.approx(2 / 2**lost)
    assert verdict.accurate is accurate
    assert "accuracy" not in verdict.ahead
    turned = judge.judge(timed, theirs, ours, (10, 10))
    assert turned.accurate and ("accuracy" in turned.ahead) is not accurate


@pytest.mark.parametrize(
    ("ours", "small", "ahead"), [(9, True, True), (10, True, False), (11, False, False)]
)
def test_size_is_exact(judge: ModuleType, ours: int, small: bool, ahead: bool) -> None:
    same = np.ones(100, bool)
    timed = judge.latency(rounds(1.0, 0.0), "ours", "theirs")
    verdict = judge.judge(timed, same, same, (ours, 10))
    assert verdict.small is small and ("size" in verdict.ahead) is ahead


@pytest.mark.parametrize("task", ["image-classification", "audio-classification"])
def test_held_out_rows_are_read_back_as_they_were(task: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {"image": random.integers(0, 256, (8, 8), np.uint8), "label": label}
        if task == "image-classification"
        else {
            "audio": random.uniform(-1, 1, 900).astype(np.float32),
            "sampling_rate": 8000,
            "label": label,
        }
        for label in ("a", "a", "b")
    ]
    folder = load("cases")._write(rows, tmp_path)
    found = data.read_rows(str(folder), tasks.get(task))
    assert [row["label"] for row in found] == ["a", "a", "b"]
    assert list(map(data.content_key, found)) == list(map(data.content_key, rows))


def test_a_student_is_looked_for_in_each_folder_of_runs(tmp_path: Path) -> None:
    cases, runs = load("cases"), [tmp_path / "first", tmp_path / "second"]
    with pytest.raises(InputError, match=r"first.* or .*second.*train it"):
        cases.known("digits", runs)
    (runs[1] / "digits" / "student").mkdir(parents=True)
    assert cases.known("digits", runs).student == runs[1] / "digits" / "student"


def test_texts_for_histograms_have_one_length_and_no_padding(bert_dir: Path) -> None:
    rows = [{"text": np.array(text)} for text in ("my", "my card", "my card was lost", "card lost")]
    encode = load("encode")
    lengths = [feed["input_ids"].shape for feed in encode.encode(bert_dir, rows)]
    even = encode.of_one_length(bert_dir, rows)
    assert len({shape for shape in lengths}) > 1
    assert {feed["input_ids"].shape for feed in even} == {(1, int(np.median(lengths, 0)[1]))}
    assert all(feed["attention_mask"].all() for feed in even)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, judge: ModuleType) -> ModuleType:
    monkeypatch.setitem(sys.modules, "judge", judge)
    return load("table")


def machine(cpu: str, rounds: int) -> dict[str, Any]:
    environment = {"cpu": cpu, "flags": ["avx2"], "libraries": {"onnxruntime": "1.0"}}
    return {"environment": environment, "protocol": {"rounds": rounds}}


def case(*held: bool) -> dict[str, Any]:
    """A case in which each int8 row of a peer holds or not."""
    ratio = {"value": 0.9, "low": 0.8, "high": 1.0}
    row = {"maker": "optimum", "settings": ["a"], "int8": True, "p50_ms": 1.0, "ratio": ratio}
    row |= {"accuracy": 0.9, "mcnemar_p": 1.0, "size_bytes": 1, "ahead": ["size"]}
    row |= {"fast": True, "accurate": True, "small": False}
    rows = [{**row, "holds": holds} for holds in held]
    return {"task": "x", "test_rows": 1, "artifacts": rows, "failures": []}


def document(cases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"peers": {}, "cases": cases, "lengths": {}, "skipped": {}, **changes}


def test_each_case_names_the_machine_it_was_measured_on(table: ModuleType) -> None:
    cases = {"a": machine("one", 3) | case(True), "b": machine("other", 9) | case(True)}
    page = table.markdown(document(cases))
    first, second = page.split("## b: ")
    assert "one (avx2), onnxruntime 1.0, 3 rounds." in first
    assert "other (avx2), onnxruntime 1.0, 9 rounds." in second and "one (" not in second


def test_a_machine_named_once_is_that_of_every_case(table: ModuleType) -> None:
    lengths = {"rows": []}
    old = document({"a": case(True), "b": case(True)}, lengths=lengths, **machine("one", 3))
    assert table.markdown(old).count("one (avx2), onnxruntime 1.0, 3 rounds.") == 3
    found = table.with_machines(old)
    assert "environment" not in found and table.with_machines(found) == found


def test_what_was_not_compared_does_not_hold(table: ModuleType) -> None:
    whole = {"a": case(True, True)}
    assert table.holds(document(whole))
    assert not table.holds(document({"a": case(True, False)}))
    assert not table.holds(document({**whole, "b": case()}))
    assert not table.holds(document(whole, skipped={"b": "no student"}))
    assert not table.holds(document({}))
    assert not table.holds(document(whole, lengths={"rows": [{"fast": False}]}))
