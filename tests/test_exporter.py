"""What the contract's base class promises for every exporter, seen through the ONNX one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.onnx import OnnxExporter

from edgekd import exporter as exporters
from edgekd import models, tasks
from edgekd.bundle import MANIFEST, Bundle, sha256
from edgekd.errors import InputError, VerificationError
from edgekd.exporter import Plan, Runtime, Session, Spec, relative_error, verify, worst_error
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

Copied = Callable[[Path], Path]


@pytest.fixture(scope="module")
def program(bert_dir: Path) -> Program:
    task = tasks.get("text-classification")
    loaded = models.load(str(bert_dir), task)
    rows = models.example_rows(task, loaded.preprocessor)
    return wrap(loaded.model, task, loaded.preprocessor, loaded.labels, rows)


def test_only_a_bundle_is_ever_replaced(program: Program, tmp_path: Path) -> None:
    exporter = exporters.get("onnx")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for out in (theirs, tmp_path / "file"):
        with pytest.raises(InputError, match="exists and is not a bundle"):
            exporter.lower(program, Spec(Shapes()), out)
    for out in (tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(InputError, match="cannot write to"):
            exporter.lower(program, Spec(Shapes()), out)
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "theirs"]


def test_numbers_that_differ_fail_and_leave_the_earlier_bundle(
    program: Program, intent_bundle: Path, copied: Copied
) -> None:
    class Wrong(OnnxExporter):
        """Its model is another than the program's: the last layer's bias has moved."""

        def write_float(self, program: Program, spec: Spec, folder: Path):  # type: ignore[no-untyped-def]
            import onnx

            manifest = super().write_float(program, spec, folder)
            model = onnx.load(folder / "model.onnx")
            bias = next(i for i in model.graph.initializer if i.dims == [3])
            values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
            onnx.save(model, folder / "model.onnx")
            return manifest

    folder = copied(intent_bundle)
    before = {p.name: sha256(p) for p in folder.iterdir()}
    with pytest.raises(VerificationError, match=r"output 'logits' differs .* nothing was written"):
        Wrong().lower(program, Spec(Shapes()), folder)
    assert {p.name: sha256(p) for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_each_allowed_length_is_compared_with_torch(program: Program, tmp_path: Path) -> None:
    class WrongAtEight(OnnxExporter):
        """Its runtime is off at one length only, which the golden rows do not use."""

        def open(self, bundle: Bundle, runtime: Runtime | None = None) -> Session:
            session = super().open(bundle, runtime)
            run = session.run

            def off(inputs: Any) -> dict[str, np.ndarray]:
                shift = 0.5 if inputs["input_ids"].shape[1] == 8 else 0.0
                return {name: value + np.float32(shift) for name, value in run(inputs).items()}

            session.run = off  # type: ignore[method-assign]
            return session

    with pytest.raises(VerificationError, match="at the length 8; nothing was written"):
        WrongAtEight().lower(program, Spec(Shapes(None, (8, 48))), tmp_path / "x")
    exporters.get("onnx").lower(program, Spec(Shapes(None, (8, 48))), tmp_path / "x")


def test_a_length_beyond_the_model(program: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="length 4000 is more than the 48 tokens"):
        exporters.get("onnx").lower(program, Spec(Shapes(None, (16, 4000))), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_not_compressed_onto_itself(intent_bundle: Path) -> None:
    bundle = Bundle.open(intent_bundle)
    with pytest.raises(InputError, match="itself; name another folder"):
        exporters.get("onnx").compress(bundle, Plan("int8"), (), intent_bundle)
    assert Bundle.open(intent_bundle).manifest.precision == "fp32"


def test_verify_sees_other_numbers_and_another_encoding(
    intent_bundle: Path, copied: Copied
) -> None:
    exporter = exporters.get("onnx")
    assert verify(exporter, Bundle.open(intent_bundle)) <= 1e-6

    def forged(**changes: object) -> Bundle:
        """The bundle after ``changes``, its checksums made to fit."""
        bundle = Bundle.open(folder)
        files = {name: sha256(folder / name) for name in bundle.manifest.files}
        manifest = replace(bundle.manifest, files=files, **changes)  # type: ignore[arg-type]
        return Bundle(folder, replace(manifest, digest=manifest.seal()))

    folder = copied(intent_bundle)
    rows, inputs, outputs = Bundle.open(folder).golden()
    arrays = {f"in.{k}": v for k, v in inputs.items()}
    np.savez(folder / "golden.npz", **arrays, **{"out.logits": outputs["logits"] + 0.1})
    with pytest.raises(VerificationError, match="differs from its golden value"):
        verify(exporter, forged())

    rows[0]["text"] = "something else"
    (folder / "golden.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(VerificationError, match="no longer encode"):
        verify(exporter, forged())


def test_exporters_by_name() -> None:
    assert {"onnx", "coreml", "browser"} <= set(exporters.available())
    assert isinstance(exporters.get("onnx"), OnnxExporter)
    with pytest.raises(InputError, match=r"unknown target 'onx' \(did you mean 'onnx'\?\)"):
        exporters.get("onx")


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(reference, reference) == 0
    assert relative_error(np.array([1.0, -3.0]), reference) == 0.25
    assert relative_error(np.array([1.0]), reference) == float("inf")
    assert relative_error(np.array([np.nan, 0.0]), reference) == float("inf")
    assert relative_error(reference, np.array([np.inf, 0.0])) == float("inf")
    assert relative_error(np.zeros(0), np.zeros(0)) == 0
    pair = {"a": reference, "b": reference}
    assert worst_error({**pair, "b": np.array([1.0, 0.0])}, pair) == (1.0, "b")


def test_manifests_name_their_files(intent_bundle: Path) -> None:
    assert json.loads((intent_bundle / MANIFEST).read_text())["model_files"] == ["model.onnx"]
