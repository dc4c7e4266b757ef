"""``auto`` on a real bundle: what it chooses, what it tells, what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import exporter as exporters
from edgekd import profiles
from edgekd.bundle import Bundle
from edgekd.errors import InconclusiveError, InputError, MissingDependency, VerificationError
from edgekd.evaluate.noise import Expected, expected_drop
from edgekd.evaluate.run import predict
from edgekd.pipeline import caveats, precision
from edgekd.pipeline.precision import Search
from edgekd.search.trial import Budget
from edgekd.tasks.classification import softmax
from tests.conftest import Intents


@pytest.fixture
def search(intent_bundle: Path, intents: Intents, tmp_path: Path) -> Search:
    rows = intents.train_rows
    onnx = exporters.get("onnx")
    return Search(onnx, Bundle.open(intent_bundle), rows[:24], rows[24:40], None, tmp_path)


def test_without_a_clock_the_smallest_inside_the_drop_wins(search: Search) -> None:
    choice, timed, bundle = precision.auto(search, Budget(1.0), ladder=["fp32", "int8"])
    assert choice.chosen is not None and bundle.manifest.precision == "int8"
    assert bundle.size_bytes < search.base.size_bytes
    rows = precision.as_rows(choice, Budget(1.0), timed, len(search.selection))
    assert rows["rows"] == 24
    assert rows["timing"]["evidence"] is None and "not measured" in rows["timing"]["note"]
    assert [row["latency_ms"] for row in rows["trials"]] == [None, None]
    assert [row["precision"] for row in rows["trials"]] == ["fp32", "int8"]
    assert rows["trials"][0]["drop"] == 0.0 and rows["chosen"] == rows["trials"][1]


def test_the_expected_drop_of_an_accuracy_is_asked_of_the_scores(search: Search) -> None:
    int8 = precision.Candidate("int8")
    accuracies = [search.accuracy(one) for one in (search.whole, precision.Candidate("fp16"), int8)]
    assert search.expected(search.whole) == Expected(0, 0)
    found = search.expected(int8)
    said = [
        np.log(softmax(predict(search.bundle(one), search.selection)["logits"]))
        for one in (search.whole, int8)
    ]
    assert found == expected_drop(*said, np.asarray(search.answers))
    # It is the expectation of what was counted, on rows that hardly one of is near a border.
    assert found is not None and found.value == pytest.approx(
        accuracies[0] - accuracies[2], abs=0.1
    )
    assert set(search.scores) == {search.whole, int8}  # not of all that were tried
    assert replace(search, profile=profiles.load("host")).scores == {}
    assert replace(search).expected(int8) is None  # nothing is known before it is scored


def test_a_rung_that_the_rows_cannot_rule_out_is_named() -> None:
    trial = {"precision": "fp32", "drop": 0.0, "latency_ms": 2.0, "size_bytes": 9}
    none = {"expected_drop": None, "drop_bound": None}
    tried = {"precision": "int8", "drop": 0.004, "latency_ms": 1.0, "size_bytes": 5}
    figures = {"expected_drop": 0.004, "drop_bound": 0.016}
    search = {"rows": 127, "max_drop": 0.01, "chosen": {**trial, **none}}
    told = precision.doubts({**search, "trials": [{**trial, **none}, {**tried, **figures}]})
    assert len(told) == 1 and "int8 is better" in told[0] and "about 600 would do" in told[0]
    slower = {**tried, **figures, "latency_ms": 3.0}
    clear = {**tried, **figures, "drop_bound": 0.006}
    lost = {**tried, **figures, "drop": 0.02}
    assert not precision.doubts({**search, "trials": [slower, clear, lost]})


def test_rows_too_few_to_see_the_drop_are_told() -> None:
    told = precision.too_few(40, 0.01)
    assert told and "40 selection rows, of which one is 2.5%" in told and "give 100 or more" in told
    assert precision.too_few(100, 0.01) is None and precision.too_few(40, 0.0) is None
    search = {"missed": None, "rows": 40, "max_drop": 0.01, "chosen": None, "trials": []}
    assert caveats.of_search(search) == [told] and caveats.of_search(None) == []


def test_a_budget_that_nothing_meets_names_the_nearest_miss(search: Search) -> None:
    with pytest.raises(VerificationError, match=r"no precision stays within .* nearest is fp32"):
        precision.auto(search, Budget(-0.5), ladder=["fp32"])


def test_damage_is_zero_for_the_float_bundle_and_positive_for_int8(search: Search) -> None:
    float_precision = search.base.manifest.precision
    assert search.damage(precision.Candidate(float_precision)) == pytest.approx(0, abs=1e-9)
    assert search.damage(precision.Candidate("int8")) > 0


def test_choosing_needs_rows_to_choose_on(search: Search) -> None:
    nothing = Search(search.exporter, search.base, [], [], None, search.work)
    with pytest.raises(InputError, match="not the test data"):
        precision.auto(nothing, Budget(0.01))


def test_a_limit_that_nothing_meets_is_told_with_every_number(search: Search) -> None:
    small = search.base.size_bytes // 20
    with pytest.raises(VerificationError, match=r"with a drop of .* not timed and [\d,]+ bytes"):
        precision.auto(search, Budget(1.0, max_size_bytes=small), ladder=["fp32", "int8"])


def test_a_latency_that_cannot_be_measured_is_inconclusive(search: Search) -> None:
    with pytest.raises(InconclusiveError, match="5 ms is met cannot be said"):
        precision.auto(search, Budget(1.0, max_latency_ms=5.0), ladder=["fp32"])


def test_the_clock_says_what_it_is(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    here = precision.clock(search.exporter, search.base, profiles.here("onnx"))
    assert here.evidence == "measured" and "onnxruntime" in here.note and "kernels" in here.note
    phone = precision.clock(search.exporter, search.base, profiles.load("phone-android"))
    assert phone.evidence == "reference" and "other kernels" in phone.note
    server = precision.clock(search.exporter, search.base, profiles.load("edge-server"))
    assert server.profile is not None and not server.profile.clients  # nothing keeps a rung's load
    monkeypatch.setattr("edgekd_exporters.onnx.session.OnnxSession.kind", "reference")
    nowhere = precision.clock(search.exporter, search.base, profiles.here("onnx"))
    assert nowhere.profile is None and "smallest" in nowhere.note


def test_what_a_library_raises_ends_its_rung_alone(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this node")

    monkeypatch.setattr("edgekd_exporters.onnx.static.apply", broken)
    choice, _, _ = precision.auto(search, Budget(1.0), ladder=["fp32", "int8-static", "int8"])
    assert choice.chosen is not None and choice.chosen.candidate.precision == "int8"
    failure = choice.trials[1].failure or ""
    assert "int8-static" in failure and "RuntimeError: no kernel for this node" in failure


def test_candidates_are_scored_by_the_runtime_of_the_profile(search: Search) -> None:
    """A provider that is not here is told, and the CPU's accuracy never stands in for it."""
    here = profiles.here("onnx")
    gpu = here.runtime.model_copy(update={"options": {"provider": "cuda"}})
    on_gpu = replace(search, profile=here.model_copy(update={"runtime": gpu}))
    for asked in (on_gpu.accuracy, on_gpu.damage):
        with pytest.raises(MissingDependency, match="no CUDAExecutionProvider"):
            asked(precision.Candidate("fp16"))
    assert precision._ladder(on_gpu)[-2:] == ["fp16", "fp16-fused"]
    assert "fp16" not in precision._ladder(search)
