"""Packages that cannot be read end in one line that says why."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.quiet import coremltools

from edgekd.errors import InputError

ct = coremltools()


@pytest.fixture
def package(lower, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    return shutil.copytree(lower("fp16").path / "model.mlpackage", tmp_path / "m.mlpackage")


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Package.open(path).program()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def test_a_model_that_is_cut_off(package: Path) -> None:
    file = model_file(package)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cut off" in refusal(package)


def test_weights_that_are_cut_off(package: Path) -> None:
    file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    file.write_bytes(file.read_bytes()[:200])
    assert "weights cannot be read" in refusal(package)


def test_weights_that_are_missing(package: Path) -> None:
    (package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").unlink()
    assert "weights cannot be read" in refusal(package)


def test_a_folder_without_a_manifest(package: Path) -> None:
    (package / "Manifest.json").unlink()
    assert "cannot be read as a Core ML package" in refusal(package)


def test_a_path_that_is_no_package(tmp_path: Path) -> None:
    assert "is not a Core ML package" in refusal(tmp_path / "absent.mlpackage")


def test_another_specification_version(package: Path) -> None:
    spec = ct.models.utils.load_spec(str(package))
    spec.specificationVersion = 99
    model_file(package).write_bytes(spec.SerializeToString())
    assert "specification version 99" in refusal(package)


def test_an_old_neural_network(package: Path) -> None:
    spec = ct.proto.Model_pb2.Model(specificationVersion=4)
    spec.neuralNetwork.MergeFromString(b"")
    model_file(package).write_bytes(spec.SerializeToString())
    assert "is a NeuralNetwork" in refusal(package)
    file = package.with_suffix(".mlmodel")  # what such models come as
    file.write_bytes(spec.SerializeToString())
    assert "is a NeuralNetwork" in refusal(file)


def test_a_compiled_model(tmp_path: Path) -> None:
    (tmp_path / "m.mlmodelc").mkdir()
    assert "is a compiled model" in refusal(tmp_path / "m.mlmodelc")


def test_coremltools_is_imported_without_a_word() -> None:
    code = "from edgekd_exporters.coreml.quiet import coremltools; coremltools()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_other_peoples_log_level_is_put_back() -> None:
    logger = logging.getLogger("coremltools")
    logger.setLevel(logging.INFO)
    try:
        coremltools()
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(logging.NOTSET)


def test_importing_the_exporter_is_cheap() -> None:
    code = (
        "import sys, edgekd.exporter as e; e.get('coreml');"
        "print([m for m in ('torch', 'coremltools', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
