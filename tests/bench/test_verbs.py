"""The verbs as a user calls them: exit codes, one line per fault, documents."""

import json
from functools import partial

import pytest

from edgekd.bench import sequential
from edgekd.bench.sequential import Plan
from edgekd.cli import main


@pytest.fixture
def edgekd(capsys):
    """Run a command line; return (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def here(tmp_path):
    """A profile of this machine for the probe; ``extra`` lines are added."""

    def make(extra=""):
        file = tmp_path / "here.yaml"
        file.write_text(f"title: here\ntarget: probe\nwhere: host\n{extra}")
        return file

    return make


def test_bench_document_on_stdout_alone(edgekd, make_bundle, here):
    code, out, err = edgekd(
        "bench", make_bundle().path, "--profile", here(), "--rounds", 1, "--seconds", 0.02,
        "--json", "-",
    )  # fmt: skip
    document = json.loads(out)
    assert code == 0 and document["schema"] == "edgekd.bench/1"
    (rows,) = document["bundles"].values()
    assert rows[0]["evidence"] == "measured" and rows[0]["latency_ms"]["p50"] > 0
    assert "measured" in err


@pytest.mark.parametrize(
    ("extra", "options", "code"),
    [
        ("memory_cap: 200 MB\n", [], 0),
        ("memory_cap: 50 MB\n", [], 1),
        ("budget: {size: 1 kB}\n", [], 1),
    ],
)
def test_budget_of_the_profile_decides(edgekd, make_bundle, here, extra, options, code):
    bundle = make_bundle(megabytes=100).path
    run = ["--rounds", 1, "--seconds", 0.02, *options]
    assert edgekd("bench", bundle, "--profile", here(extra), *run)[0] == code


def test_unchecked_line_is_inconclusive_under_strict(edgekd, make_bundle, tmp_path):
    phone = tmp_path / "phone.yaml"
    phone.write_text(
        "title: phone\ntarget: probe\nwhere: elsewhere\nbudget: {latency: 5 ms}\nhardware:\n"
        "  cpu: {value: a CPU, source: 'https://example.org'}\n"
        "  memory: {value: 8 GB, source: 'https://example.org'}\n"
    )
    command = ["bench", make_bundle().path, "--profile", phone, "--rounds", 1, "--seconds", 0.02]
    code, out, _ = edgekd(*command)
    assert code == 0 and "uncalibrated" in out and "unchecked" in out
    assert edgekd(*command, "--strict")[0] == 3


def test_concurrent_clients_have_the_samples_that_p99_needs(edgekd, make_bundle, here):
    price = "price: {per_hour: 0.34, of: a server, cores: 8, source: 'https://example.org'}\n"
    _, out, _ = edgekd(
        "bench", make_bundle().path, "--profile", here(f"clients: [1, 4]\n{price}"),
        "--rounds", 1, "--seconds", 0.02, "--json", "-",
    )  # fmt: skip
    (rows,) = json.loads(out)["bundles"].values()
    loads = rows[0]["details"]["concurrency"]
    assert [load["clients"] for load in loads] == [1, 4]
    for load in loads:
        assert load["samples"] >= 662 and load["p99"] >= load["p50"]
        cost = load["cost_per_million"]
        by_hand = 0.34 / 8 * cost["cores"] / 3600 / load["throughput_per_s"] * 1e6
        assert cost["cost"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "BUNDLE", "--profile", "hots"], "did you mean 'host'"),
        (["bench", "BUNDLE", "--profile", "host"], "--target onnx"),
        (["bench", "nowhere"], "not a bundle"),
        (["bench", "BUNDLE", "--profile", "host", "--on", "telnet:x"], "names no machine"),
        (["gate", "--baseline", "BUNDLE"], "--self-test"),
        (["gate", "--baseline", "BUNDLE", "--candidate", "BUNDLE", "--tolerance", "x"], "5%"),
        (["profiles", "phone"], "did you mean"),
        (["calibrate", "--model", "cnn/mobilenet"], "did you mean 'cnn/mobilenet_v2'"),
    ],
)
def test_fault_is_one_line_and_exit_2(edgekd, make_bundle, arguments, says):
    path = make_bundle().path
    code, out, err = edgekd(*(path if word == "BUNDLE" else word for word in arguments))
    assert code == 2 and says in err and out == ""
    assert err.startswith("edgekd: ") and err.count("\n") == 1


def test_stored_milliseconds_are_no_baseline(edgekd, make_bundle, tmp_path):
    file = tmp_path / "bench.json"
    row = {"details": {"environment": {"cpu": "another"}}}
    file.write_text(json.dumps({"schema": "edgekd.bench/1", "bundles": {"x": [row]}}))
    path = make_bundle().path
    code, _, err = edgekd("gate", "--baseline", file, "--candidate", path)
    assert code == 3 and "another machine" in err and "cpu" in err


def test_profiles_as_a_document(edgekd):
    code, out, _ = edgekd("profiles", "--json", "-")
    document = json.loads(out)
    assert code == 0 and document["schema"] == "edgekd.profiles/1"
    assert "raspberry-pi-5" in {profile["name"] for profile in document["profiles"]}


def test_gate_self_test_replay_and_outputs(edgekd, make_bundle, here, tmp_path, monkeypatch):
    """An A/A gate is never a regression; its record decides again to the same document."""
    short = partial(Plan, looks=(6,), errors=(0.02,), confirm=1, slices=2)
    monkeypatch.setattr(sequential, "Plan", short)
    record, summary, chart = tmp_path / "g.json", tmp_path / "g.md", tmp_path / "c.json"
    code, out, _ = edgekd(
        "gate", "--baseline", make_bundle(work=20).path, "--self-test", "--profile", here(),
        "--tolerance", "0.5", "--json", record, "--markdown", summary, "--chart", chart,
    )  # fmt: skip
    assert code in (0, 3) and "floor" in out
    assert "| p50 |" in summary.read_text()
    assert {"name", "unit", "value"} <= json.loads(chart.read_text())[0].keys()
    again = tmp_path / "again.json"
    assert edgekd("gate", "--replay", record, "--json", again)[0] == code
    assert json.loads(again.read_text()) == json.loads(record.read_text())
