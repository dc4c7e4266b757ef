import json
import math
import re

import numpy as np
import pytest

from edgekd.bench import projection
from edgekd.bench.calibrate import bert_program, calibrate
from edgekd.bench.environment import describe
from edgekd.bench.measure import measure
from edgekd.bench.projection import Calibration, Projection
from edgekd.errors import InputError
from edgekd.profiles import Profile, load
from edgekd.report.document import Bench

CNN = {"ops": {"Conv": 52, "Relu": 35, "Softmax": 1}, "macs": 300e6}
BERT = {"ops": {"MatMul": 40, "Softmax": 4, "Add": 60}, "macs": 280e6}
VIT = {"ops": {"Conv": 1, "MatMul": 40, "Softmax": 4}, "macs": 1e9}


MACHINE = {"cpu": "a CPU", "flags": ["avx2"]}


def keep(folder, where, models, host=None, machine=MACHINE):
    source = f"measured on {where}"
    found = Calibration(where, 1, models, host or models, "fp32", machine, source)
    folder.mkdir(exist_ok=True)
    (folder / f"{where}.json").write_text(json.dumps(found.to_dict()))


HOST = {"cnn/mobilenet_v2": 8.0, "cnn/resnet50": 50.0, "transformer/a": 1.0, "transformer/b": 4.0}


def test_families():
    assert [projection.family(x["ops"]) for x in (CNN, BERT, VIT)] == [
        "cnn", "transformer", "transformer",
    ]  # fmt: skip
    assert projection.family({"MatMul": 3, "Tanh": 2}) is None


def test_leave_one_out_error_of_the_published_table():
    """Recomputed by hand: predict each model of each device from the other models' ratios."""
    table = projection.table()["cnn"]["devices"]
    base = next(r["ms"] for r in table if r["device"] == "Azure D64s v6" and r["threads"] == 1)
    errors = []
    for row in table:
        if row["threads"] != 1 or row["ms"] is base:
            continue
        for name, ms in row["ms"].items():
            others = [row["ms"][m] / base[m] for m in row["ms"] if m != name]
            predicted = base[name] * math.prod(others) ** (1 / len(others))
            errors.append(max(predicted / ms, ms / predicted))
    median, p90 = projection.table_error("cnn")
    assert median == pytest.approx(np.median(errors))
    assert p90 == pytest.approx(np.quantile(errors, 0.9))
    assert median < 1.15


def test_range_from_the_published_table(tmp_path):
    keep(tmp_path, "host", HOST)
    found = projection.project(10.0, CNN, "fp32", load("raspberry-pi-5"), MACHINE, tmp_path)
    assert isinstance(found, Projection)
    middle = 10.0 * math.sqrt(16.2 / 8.0 * 89 / 50.0)
    assert found.low == pytest.approx(middle / found.factor)
    assert found.high == pytest.approx(middle * found.factor)
    assert found.factor >= projection.table_error("cnn")[1]
    assert (
        "cnn/mobilenet_v2, cnn/resnet50" in found.calibration and "published" in found.calibration
    )
    assert f"x{found.factor:.2f}" in found.method
    # ncnn there, ONNX Runtime here: no figure tells what that changes, so the range says it.
    assert "from ncnn" in found.excludes and f"{found.excludes}, is not in it" in found.method


def test_calibration_on_the_device_narrows_the_range(tmp_path):
    keep(tmp_path, "host", HOST)
    before = projection.project(10.0, CNN, "fp32", load("raspberry-pi-5"), MACHINE, tmp_path)
    keep(tmp_path, "raspberry-pi-5", {"cnn/mobilenet_v2": 16.5, "cnn/resnet50": 100.0}, HOST)
    after = projection.project(10.0, CNN, "fp32", load("raspberry-pi-5"), MACHINE, tmp_path)
    assert after.high / after.low < before.high / before.low
    assert before.excludes and after.excludes is None  # one runtime on both machines


@pytest.mark.parametrize(
    ("exact", "precision", "host", "says"),
    [
        (BERT, "fp32", HOST, "no transformer calibration for raspberry-pi-5"),
        (CNN, "int8", HOST, "is fp32, not int8"),
        (CNN, "fp32", None, "has not run the calibration models itself"),
        (CNN, "fp32", {"cnn/resnet50": 50.0}, "fewer than two cnn models"),
        ({"ops": {"MatMul": 3}}, "fp32", HOST, "no family"),
    ],
)
def test_no_projection_is_made_up(tmp_path, exact, precision, host, says):
    if host:
        keep(tmp_path, "host", host)
    found = projection.project(10.0, exact, precision, load("raspberry-pi-5"), MACHINE, tmp_path)
    assert isinstance(found, str) and says in found


def test_calibration_from_another_machine_is_not_used(tmp_path):
    keep(tmp_path, "host", HOST, machine={"cpu": "another CPU", "flags": []})
    found = projection.project(10.0, CNN, "fp32", load("raspberry-pi-5"), MACHINE, tmp_path)
    assert "another CPU" in found


def test_nearest_published_model_with_its_macs():
    text = projection.nearest_published(BERT, "onnx")
    assert "MobileBERT-TINY" in text and "5.54 x the MACs" in text and "https://" in text
    assert projection.nearest_published(BERT, "browser") is None


def test_file_that_is_no_calibration(tmp_path):
    (tmp_path / "host.json").write_text("{}")
    with pytest.raises(InputError, match="edgekd calibrate"):
        projection.find(tmp_path, "host")


def test_projected_row_is_a_range(tmp_path, make_bundle, rows):
    """Through the real measurement, with a probe that the calibration calls a CNN."""
    figure = {"value": "8 GB", "source": "https://example.org"}
    phone = Profile(
        name="phone", title="phone", target="probe", where="elsewhere",
        hardware={"cpu": figure, "memory": figure},
    )  # fmt: skip
    keep(tmp_path / "c", "phone", {k: 3 * v for k, v in HOST.items()}, HOST, describe())
    bundle = make_bundle(ops={"Conv": 9})
    found = measure(bundle.path, phone, rows, rounds=1, seconds=0.02, calibrations=tmp_path / "c")
    row = found.to_dict()
    Bench.model_validate(row)
    assert row["evidence"] == "projected" and "p50" not in row["latency_ms"]
    host = found.undisturbed
    assert row["latency_ms"]["low"] == pytest.approx(3 * host / 1.10)
    assert row["latency_ms"]["high"] == pytest.approx(3 * host * 1.10)


def test_calibrating_this_machine(tmp_path, monkeypatch):
    """With the smallest model that is exported and run as the real ones are."""
    monkeypatch.setattr("edgekd.bench.calibrate.MODELS", {"tiny": lambda: bert_program(1, 32)})
    found = calibrate(load("host"), rounds=1)
    assert found.models["tiny"] > 0 and found.host == found.models
    file = tmp_path / "host.json"
    file.write_text(json.dumps(found.to_dict()))
    assert projection.read(file) == found


def test_hardware_elsewhere_is_not_calibrated_from_here():
    with pytest.raises(InputError, match="--on ssh"):
        calibrate(load("raspberry-pi-5"), ["transformer/bert-2x128"])


ADDRESS = r"https?://[^\s/]+\.[a-z]+/\S+"


def test_every_published_figure_has_a_source():
    """A section's source covers its devices' rows; models and anchors carry their own."""
    for name, section in projection.table().items():
        if name == "anchors":
            for anchor in section:
                assert re.fullmatch(ADDRESS, anchor["source"]), anchor["model"]
                assert anchor["ms"] > 0 and anchor["macs"] > 0 and anchor["at"]
            continue
        assert re.fullmatch(ADDRESS, section["source"]), name
        for model, facts in section["models"].items():
            assert re.fullmatch(ADDRESS, facts["source"]) and facts["macs"] > 0, model
        rows = [(row["device"], row["threads"]) for row in section["devices"]]
        assert len(rows) == len(set(rows))  # one figure, not two that may disagree
        for row in section["devices"]:
            assert row["ms"].keys() <= section["models"].keys(), row["device"]
            assert all(ms > 0 for ms in row["ms"].values())


def test_every_profile_that_names_a_published_device_has_its_row():
    from edgekd import profiles

    for name in profiles.available():
        profile = load(name)
        if profile.device:
            found = projection.from_table(profile.device, profile.runtime.threads, "cnn")
            assert found is not None and found.source.startswith("published"), name
