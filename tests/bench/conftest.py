import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.bundle import Bundle, Manifest, TensorSpec, write
from edgekd.preprocess import ImagePreprocessor
from edgekd.profiles import Profile

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def probe_installed(tmp_path_factory):
    """Install the probe the way any third party does: a package and its entry point."""
    site = tmp_path_factory.mktemp("site")
    info = site / "edgekd_probe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgekd-probe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgekd.exporters]\nprobe = probe:ProbeExporter\n")
    (site / "probe.py").write_text((HERE / "probe.py").read_text())
    sys.path.insert(0, str(site))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), before]))
    yield
    sys.path.remove(str(site))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(autouse=True)
def no_calibration_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(0)
    return [{"image": generator.integers(0, 255, (8, 8), np.uint8)} for _ in range(40)]


@pytest.fixture
def make_bundle(tmp_path, rows):
    """``make_bundle("name", work=3)`` writes a bundle whose session behaves as asked."""

    def make(name: str = "bundle", **runtime) -> Bundle:
        folder = tmp_path / name
        folder.mkdir()
        weight = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
        np.save(folder / "weight.npy", weight)
        manifest = Manifest(
            task=runtime.pop("task", "image-classification"),
            target="probe",
            precision="fp32",
            variant="fp32",
            labels=("a", "b"),
            inputs=(TensorSpec("pixel_values", "float32", ("batch", 1, 8, 8)),),
            outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
            preprocess={**ImagePreprocessor(8, 8, channels=1, mean=(0.0,), std=(1.0,)).describe()},
            model_files=("weight.npy",),
            runtime=runtime,
            provenance={"parameters": 4096},
            tolerance=1e-6,
        )
        encoder = ImagePreprocessor(8, 8, channels=1, mean=(0.0,), std=(1.0,))
        inputs = encoder.encode(rows[:2])
        outputs = {"logits": np.zeros((2, 2), np.float32)}
        return write(folder, manifest, encoder, rows[:2], inputs, outputs)

    return make


@pytest.fixture
def profile():
    return Profile(name="here", title="here", target="probe", where="host")
