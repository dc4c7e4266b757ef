"""The verbs as a user calls them: exit codes, one line per fault, documents."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest

from edgekd.bench import sequential
from edgekd.bench.sequential import Plan
from edgekd.bundle import MANIFEST, Bundle
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


def test_bundle_over_the_profiles_memory_cap_misses_its_budget(edgekd, make_bundle, here):
    bundle = make_bundle(megabytes=100).path
    run = ["--profile", here("memory_cap: 50 MB\n"), "--rounds", 1, "--seconds", 0.02]
    code, out, _ = edgekd("bench", bundle, *run)
    assert code == 1 and "failed: bundle, here: memory cap" in out


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
        assert load["samples"] == len(load["samples_ms"]) >= 662 and load["p99"] >= load["p50"]
        assert load["p50"] == pytest.approx(np.median(load["samples_ms"]))
        assert load["queued"] == (load["clients"] > load["cores"])
        cost = load["cost_per_million"]
        by_hand = 0.34 / 8 * cost["cores"] / 3600 / load["throughput_per_s"] * 1e6
        assert cost["cost"] == pytest.approx(by_hand)


@pytest.mark.parametrize("named", [None, "/nowhere/chromium"])
def test_a_machine_without_chromium_is_told_how_to_get_it(
    edgekd, intent_bundle, tmp_path, monkeypatch, named
):
    """The session looks for it before it opens a file, so another target's stands in."""
    folder = tmp_path / "page"
    shutil.copytree(intent_bundle, folder)
    manifest = replace(Bundle.open(folder).manifest, target="browser")
    manifest = replace(manifest, digest=manifest.seal())
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))
    monkeypatch.setenv("PATH", str(tmp_path))
    if named:
        monkeypatch.setenv("EDGEKD_CHROMIUM", named)
    else:
        monkeypatch.delenv("EDGEKD_CHROMIUM", raising=False)
    code, out, err = edgekd("bench", folder, "--profile", "browser")
    assert code == 4 and out == ""
    assert "run: apt-get install chromium" in err and err.count("\n") == 1
    assert named is None or named in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "BUNDLE", "--profile", "hots"], "did you mean 'host'"),
        (["bench", "BUNDLE", "--profile", "host"], "--target onnx"),
        (["bench", "nowhere"], "not a bundle"),
        (["bench", "BUNDLE", "--profile", "host", "--on", "telnet:x"], "names no machine"),
        (["bench", "BUNDLE", "BUNDLE", "--profile", "host"], "given twice"),
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


@pytest.mark.parametrize("kind", ["bench", "report", "gate"])
def test_stored_milliseconds_are_no_baseline(edgekd, make_bundle, tmp_path, kind):
    file = tmp_path / "stored.json"
    machine = {"environment": {"cpu": "another"}}
    stored = {"bundles": {"x": [{"details": machine}]}} if kind == "bench" else machine
    file.write_text(json.dumps({"schema": f"edgekd.{kind}/1", **stored}))
    path = make_bundle().path
    code, _, err = edgekd("gate", "--baseline", file, "--candidate", path)
    assert code == 3 and "another machine" in err and "cpu" in err


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"schema": "edgekd.bench/1", "bundles": {}}'])
def test_file_that_is_no_bundle(edgekd, make_bundle, tmp_path, text):
    file = tmp_path / "stored"
    file.write_text(text)
    code, _, err = edgekd("gate", "--baseline", file, "--candidate", make_bundle().path)
    assert code == 2 and "not a bundle" in err


def test_altered_bundle_is_not_gated(edgekd, make_bundle, here):
    path = make_bundle().path
    other = make_bundle("other").path
    (other / "weight.npy").write_bytes(b"cut off")
    code, _, err = edgekd("gate", "--baseline", path, "--candidate", other, "--profile", here())
    assert code == 2 and "not the file that was exported" in err


def test_bundles_of_one_name_are_told_apart_without_their_paths():
    from edgekd.cli.bench import short_names

    names = short_names(["/home/me/runs/a/int8", "/home/me/runs/b/int8", "/home/me/fp32"])
    assert list(names) == ["a/int8", "b/int8", "me/fp32"]
    assert list(short_names(["/home/me/runs/a/int8"])) == ["int8"]


def test_profiles_as_a_document(edgekd):
    code, out, _ = edgekd("profiles", "--json", "-")
    document = json.loads(out)
    assert code == 0 and document["schema"] == "edgekd.profiles/1"
    assert "raspberry-pi-5" in {profile["name"] for profile in document["profiles"]}


def test_gate_self_test_replay_and_outputs(edgekd, make_bundle, here, tmp_path, monkeypatch):
    """An A/A gate is never a regression; its record decides again to the same document."""
    short = partial(Plan, looks=(2,), errors=(0.3,), confirm=1, slices=2)
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
