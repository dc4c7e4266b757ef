import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from edgekd.bench import environment
from edgekd.bench.measure import compare, measure, served_length, spread
from edgekd.bench.runner import Runner, local_command, local_environment
from edgekd.bench.transport import Local
from edgekd.bench.worker import Worker, write_feeds
from edgekd.bundle import Bundle
from edgekd.errors import InconclusiveError, InputError
from edgekd.profiles import Profile
from edgekd.report.document import Bench


def quick(bundle, profile, rows, **more):
    return measure(bundle.path, profile, rows, **{"rounds": 1, "seconds": 0.02, **more})


def test_row_of_the_report(make_bundle, profile, rows):
    found = quick(make_bundle(), profile, rows, rounds=2)
    row = found.to_dict()
    Bench.model_validate(row)
    assert row["evidence"] == "measured" and row["missing"] is None
    assert (
        row["latency_ms"]["p50_ci"][0] <= row["latency_ms"]["p50"] <= row["latency_ms"]["p50_ci"][1]
    )
    assert len(row["details"]["rounds"]) == 2
    assert len(found.samples) % len(rows) == 0  # whole passes, so that every length counts alike
    json.dumps(row)


def test_percentiles_wait_for_their_samples(make_bundle, profile, rows):
    row = quick(make_bundle(), profile, rows[:1], seconds=1e-9).to_dict()
    assert row["latency_ms"]["samples"] == 1
    assert row["latency_ms"]["p90"] is None and row["latency_ms"]["p99"] is None
    assert row["details"]["percentiles"]["missing"]["p99"] == "needs 662 samples, has 1"


def test_peak_memory_of_a_known_100_megabytes(make_bundle, profile, rows):
    small = quick(make_bundle("small"), profile, rows).peak_memory_bytes
    large = quick(make_bundle("large", megabytes=100), profile, rows).peak_memory_bytes
    assert abs(large - 100e6) < 3e6
    assert abs(large - small - 100e6) < 3e6


def test_bundle_above_the_memory_cap(make_bundle, rows):
    capped = Profile(name="p", title="p", target="probe", where="host", memory_cap="50 MB")
    assert quick(make_bundle("large", megabytes=100), capped, rows).over_memory_cap is True
    assert quick(make_bundle("small"), capped, rows).over_memory_cap is False


def test_interpreter_is_not_timed(make_bundle, profile, rows):
    row = quick(make_bundle(kind="reference"), profile, rows).to_dict()
    assert row["evidence"] == "reference" and "latency_ms" not in row
    assert "not timed" in row["missing"]
    Bench.model_validate(row)


def test_hardware_elsewhere_gets_no_number_of_this_machine(make_bundle, rows):
    figure = {"value": "8 GB", "source": "https://example.org"}
    phone = Profile(
        name="phone", title="phone", target="probe", where="elsewhere",
        hardware={"cpu": figure, "memory": figure},
    )  # fmt: skip
    row = quick(make_bundle(), phone, rows).to_dict()
    assert "latency_ms" not in row and "peak_memory_bytes" not in row
    assert "uncalibrated" in row["missing"]
    assert row["details"]["host"]["latency_ms"]["p50"] > 0
    Bench.model_validate(row)


def test_ratio_of_an_interleaved_run(make_bundle, profile, rows):
    pair = {"one": make_bundle("one").path, "forty": make_bundle("forty", work=40).path}
    found = compare(pair, profile, rows, rounds=2, seconds=0.02, memory=False)
    ratio = found.ratio("forty", "one")
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(found["forty"].p50.value / found["one"].p50.value)
    assert found["one"].protocol["interleaved_with"] == ["forty", "one"]


@pytest.mark.parametrize(
    ("fail", "says"),
    [("die", "the probe ran out of luck"), ("load", "status 7"), ("hang", "did not answer")],
)
def test_runner_that_fails_is_one_error_and_leaves_nothing(make_bundle, profile, rows, fail, says):
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with pytest.raises(InconclusiveError, match=says) as caught:
        limited = Local(time_limit=1.5 if fail == "hang" else 30.0)
        quick(make_bundle(fail=fail), profile, rows, transport=limited)
    assert "\n" not in str(caught.value)
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before


def test_what_a_library_prints_is_no_reply(make_bundle, profile, rows):
    assert len(quick(make_bundle(fail="chatter"), profile, rows).samples)


def test_junk_instead_of_a_reply():
    with (
        Runner("junk", [sys.executable, "-c", "print('junk'); input()"]) as runner,
        pytest.raises(InconclusiveError, match="junk"),
    ):
        runner.ask("prepare")


def test_worker_ends_by_its_own_limit(make_bundle, rows, tmp_path):
    """Nobody has to be there to end it: its limit came with the request."""
    bundle = make_bundle(fail="hang")
    write_feeds(tmp_path / "feeds.npz", [bundle.encode(rows[:1])])
    place = {"bundle": str(bundle.path), "feeds": str(tmp_path / "feeds.npz")}
    requests = [
        {"do": "prepare", **place, "runtime": {"threads": 1}}, {"do": "open"},
        {"do": "first", "within": 0.5},
    ]  # fmt: skip
    worker = subprocess.Popen(
        local_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=local_environment()
    )
    with worker:
        for request in requests:
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
            if request["do"] != "first":
                assert json.loads(worker.stdout.readline())
        assert worker.wait(timeout=20) == -signal.SIGALRM


def test_kind_of_the_memory_mark_is_told(make_bundle, profile, rows, tmp_path, monkeypatch):
    row = quick(make_bundle(megabytes=5), profile, rows).to_dict()
    assert "reset after the imports" in row["details"]["peak_memory_kind"]
    bundle = make_bundle("other")
    write_feeds(tmp_path / "feeds.npz", [bundle.encode(rows[:1])])
    worker = Worker()
    worker.prepare(str(bundle.path), str(tmp_path / "feeds.npz"), {"threads": 1})
    monkeypatch.setattr(environment, "reset_peak", lambda: False)  # as on a Mac
    assert "lifetime" in worker.memory(passes=1)["kind"]


def test_served_length_is_the_median_rows():
    manifest = SimpleNamespace(inputs=[SimpleNamespace(name="ids", shape=("batch", "sequence"))])
    feeds = [{"ids": np.zeros((1, n))} for n in (9, 3, 30, 12, 7)]
    assert served_length(SimpleNamespace(manifest=manifest), feeds) == 9
    manifest.inputs[0].shape = ("batch", 64)
    assert served_length(SimpleNamespace(manifest=manifest), feeds) is None


def test_bundles_of_two_tasks_are_not_measured_on_one_tasks_rows(make_bundle, profile, rows):
    pair = {"a": make_bundle("a").path, "b": make_bundle("b", task="text-classification").path}
    with pytest.raises(InputError, match="two commands"):
        compare(pair, profile, rows)


def test_bundle_of_another_target(make_bundle, rows):
    other = Profile(name="p", title="p", target="onnx", where="host")
    with pytest.raises(InputError, match="choose another profile"):
        quick(make_bundle(), other, rows)


def test_spread_takes_the_lengths_as_they_are_served(make_bundle):
    class Lengths:
        def lengths(self, rows):
            return np.array([row["length"] for row in rows])

    class Fake:
        preprocessor = Lengths()

    rows = [{"length": n} for n in np.random.default_rng(0).permutation(1000)]
    picked = [row["length"] for row in spread(rows, Fake())]
    assert len(picked) == 64
    for part in (8, 16, 32, 64):  # every beginning is itself spread out
        steps = np.diff(np.sort(picked[:part]))
        assert steps.max() < 1.5 * 1000 / part


def test_worker_imports_neither_torch_nor_transformers(make_bundle):
    path = str(Bundle.open(make_bundle().path).path)
    code = (
        "import sys, edgekd.bench.worker as w; worker = w.Worker();"
        f"worker.bundle = w.Bundle.open({path!r}); w.get('probe');"
        "print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=local_environment()
    )
    assert done.stdout.strip() == "[]", done.stderr
