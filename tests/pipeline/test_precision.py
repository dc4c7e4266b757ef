"""``auto`` on a real bundle: what it chooses, what it tells, what it refuses."""

from pathlib import Path

import pytest

from edgekd import exporter as exporters
from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError
from edgekd.pipeline import precision
from edgekd.pipeline.precision import Search
from tests.conftest import Intents


@pytest.fixture
def search(intent_bundle: Path, intents: Intents, tmp_path: Path) -> Search:
    rows = intents.train_rows
    onnx = exporters.get("onnx")
    return Search(onnx, Bundle.open(intent_bundle), rows[:24], rows[24:40], None, tmp_path)


def test_without_a_clock_the_smallest_inside_the_drop_wins(search: Search) -> None:
    choice, bundle = precision.auto(search, max_drop=1.0, ladder=["fp32", "int8"])
    assert choice.chosen is not None and bundle.manifest.precision == "int8"
    assert bundle.size_bytes < search.base.size_bytes
    rows = precision.as_rows(choice)
    assert [row["precision"] for row in rows["trials"]] == ["fp32", "int8"]
    assert rows["trials"][0]["drop"] == 0.0 and rows["chosen"] == rows["trials"][1]


def test_a_budget_that_nothing_meets_names_the_nearest_miss(search: Search) -> None:
    with pytest.raises(VerificationError, match=r"no precision stays within .* nearest is fp32"):
        precision.auto(search, max_drop=-0.5, ladder=["fp32"])


def test_damage_is_zero_for_the_float_bundle_and_positive_for_int8(search: Search) -> None:
    float_precision = search.base.manifest.precision
    assert search.damage(precision.Candidate(float_precision)) == pytest.approx(0, abs=1e-9)
    assert search.damage(precision.Candidate("int8")) > 0


def test_choosing_needs_rows_to_choose_on(search: Search) -> None:
    nothing = Search(search.exporter, search.base, [], [], None, search.work)
    with pytest.raises(InputError, match="not the test data"):
        precision.auto(nothing, max_drop=0.01)
