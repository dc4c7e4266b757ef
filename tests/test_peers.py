"""The arithmetic of the comparison with the peers, on numbers made by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def judge() -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks" / "peers" / "judge.py"
    spec = importlib.util.spec_from_file_location("peers_judge", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
