"""Which limits a run holds a bundle against: the recipe's, the profile's, and the cap of both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edgekd_exporters.onnx import OnnxExporter

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.bench import measure
from edgekd.pipeline import precision
from edgekd.pipeline.ship import budget_limits
from edgekd.profiles import Profile
from edgekd.sections import Budget

MB = 1_000_000
ALONE = {"epochs": 1, "batch_size": 32, "learning_rate": 5e-3, "control": False}


def profile(**values: Any) -> Profile:
    return Profile(name="p", title="p", target="onnx", where="host", **values)


@pytest.mark.parametrize(
    ("recipe", "own", "memory"),
    [
        ({}, {"memory_cap": "50 MB"}, 50 * MB),
        ({"memory": "20 MB"}, {"memory_cap": "50 MB"}, 20 * MB),
        ({"memory": "80 MB"}, {"memory_cap": "50 MB"}, 50 * MB),  # a recipe cannot lift it
        ({}, {"memory_cap": "50 MB", "budget": {"memory": "30 MB"}}, 30 * MB),
        ({"memory": "80 MB"}, {"budget": {"memory": "30 MB"}}, 80 * MB),
        ({}, {}, None),
    ],
)
def test_memory_is_never_allowed_above_the_profiles_cap(
    recipe: dict[str, str], own: dict[str, Any], memory: int | None
) -> None:
    assert budget_limits(Budget(**recipe), profile(**own)).get("memory") == memory


def test_the_recipe_goes_before_the_profile() -> None:
    limits = budget_limits(Budget(size="2 MB"), profile(budget={"size": "1 MB", "latency": "5 ms"}))
    assert limits == {"size": 2 * MB, "latency": 5.0}


def test_a_run_ships_the_closest_and_says_no(
    digits_recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``auto`` under a size that nothing meets: the budget's line fails, the miss is named.

    Of two profiles the first is searched under, which the run and its report say.
    """
    quick = partial(measure.compare, rounds=1, seconds=0.01, memory=False)
    monkeypatch.setattr(measure, "compare", quick)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    monkeypatch.setattr(precision, "SECONDS", 0.05)
    monkeypatch.setattr(OnnxExporter, "automatic", lambda *_: ("fp32", "int8"))
    targets = {"onnx": {"precisions": ["auto"], "max_drop": 1}}
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"{{title: {name}, target: onnx, where: host}}")
    path = digits_recipe(
        tmp_path, targets=targets, budget={"size": "1 kB"}, profiles=["one", "two"], distill=ALONE
    )
    document = pipeline.run(recipes.load(path), path, tmp_path / "run")
    search = document.searches[0]
    unsearched = "searched under one alone, by its times and limits; under two another precision"
    assert unsearched in capsys.readouterr().err and unsearched in search.timing.note
    assert search.chosen is None and search.max_size_bytes == 1000
    sizes = {trial.precision: trial.size_bytes for trial in search.trials}
    shipped = next(row for row in document.bundles if row.path == search.bundle)
    assert (shipped.precision, shipped.size_bytes) == ("int8", min(filter(None, sizes.values())))
    assert document.verdict.status == "failed"
    assert any("the nearest is int8 with a drop of" in warning for warning in document.warnings)
