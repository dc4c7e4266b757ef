"""Compression: every precision runs, holds what it says, and never skips in silence."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.precisions import PRECISIONS
from edgekd_exporters.coreml.weights import find, weighted

from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError
from edgekd.exporter import Plan, Spec, get, verify
from edgekd.program import Program, Shapes

COREML = get("coreml")
QUICK = {"int8": 0.1, "lut8": 0.1, "lut6": 0.4, "w8a8": 0.3}  # relative error, random weights


def ops(bundle: Bundle) -> Counter:
    program = Package.open(bundle.path / bundle.manifest.model_files[0]).program()
    return Counter(op.op_type for op in program.functions["main"].operations)


def test_the_ladder_follows_the_deployment_target() -> None:
    def names(system: str, compute: Any = "fp16") -> tuple[str, ...]:
        return COREML.precisions(Spec(Shapes(), compute=compute, deployment=system))

    assert names("iOS17")[0] == "fp16"
    assert "int4" not in names("iOS17") and "w8a8" not in names("iOS16")
    assert set(names("iOS18", "fp32")) == set(PRECISIONS)
    assert "fp32" not in names("iOS18")


@pytest.mark.parametrize("precision", QUICK)
def test_a_compressed_bundle_is_smaller_and_close(
    lower,
    program: Program,
    tmp_path: Path,
    precision: str,  # type: ignore[no-untyped-def]
) -> None:
    full = lower("fp16")
    bundle = COREML.compress(full, Plan(precision), program.rows, tmp_path / "b")
    assert bundle.manifest.precision == precision
    assert bundle.manifest.provenance["relative_error"] <= QUICK[precision]
    assert "exceptions" not in bundle.manifest.provenance
    assert all(weight.compressed for weight in weighted(bundle))
    assert bundle.size_bytes < full.size_bytes
    assert verify(COREML, bundle) <= 1e-6


@pytest.mark.parametrize("precision", ["int8", "w8a8"])
def test_colour_images_keep_their_normalisation(
    image_program: Program, tmp_path: Path, precision: str
) -> None:
    full = COREML.lower(image_program, Spec(Shapes(), compute="fp16"), tmp_path / "full")
    bundle = COREML.compress(full, Plan(precision), image_program.rows, tmp_path / "b")
    assert bundle.manifest.provenance["relative_error"] <= 0.1
    assert not ops(bundle)["batch_norm"]  # its epsilon would make every pixel 5e-6 too small


def test_an_fp32_bundle_compresses_to_fp16_and_beyond(
    lower,
    program: Program,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    full = lower("fp32")
    half = COREML.compress(full, Plan("fp16"), (), tmp_path / "half")
    assert half.manifest.provenance["relative_error"] <= 2e-2
    assert half.size_bytes < 0.7 * full.size_bytes
    arrays = half.encode(program.rows[:1])
    direct = COREML.open(lower("fp16")).run(arrays)["logits"]
    np.testing.assert_allclose(COREML.open(half).run(arrays)["logits"], direct, atol=0.02)


def test_activations_are_quantized_around_the_chosen_layers(
    lower,
    program: Program,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    plan = Plan("int8", {"bert.encoder.layer.0.output": "w8a8"})
    found = ops(COREML.compress(lower("fp16"), plan, program.rows, tmp_path / "b"))
    assert found["quantize"] == found["dequantize"] == 1


def test_activations_need_calibration_rows(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="calibration"):
        COREML.compress(lower("fp16"), Plan("w8a8"), (), tmp_path / "b")


def test_a_plan_gives_each_group_its_precision(
    lower,
    program: Program,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    plan = Plan("int8", {"bert.encoder": "fp16", "bert.encoder.layer.0.output": "lut4"})
    bundle = COREML.compress(lower("fp16"), plan, (), tmp_path / "b")
    compressed = {weight.group: weight.compressed for weight in weighted(bundle)}
    assert not compressed["bert.encoder.layer.0.intermediate.dense"]
    assert compressed["bert.encoder.layer.0.output.dense"]
    found = ops(bundle)
    assert found["constexpr_lut_to_dense"] == 1
    # The embedding and the pooler; the classifier's 320 weights are too few to gain.
    assert found["constexpr_affine_dequantize"] == 2


def test_an_unknown_group_is_named(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"'bert\.encoder\.layer\.7'.*lacks"):
        plan = Plan("int8", {"bert.encoder.layer.7": "fp16"})
        COREML.compress(lower("fp16"), plan, (), tmp_path / "b")


@pytest.mark.parametrize(
    ("precision", "pattern"),
    [("int4", "needs iOS18"), ("int5", "did you mean 'int"), ("fp32", "not a compression")],
)
def test_a_precision_that_cannot_be_is_refused(
    lower,
    tmp_path: Path,
    precision: str,
    pattern: str,  # type: ignore[no-untyped-def]
) -> None:
    with pytest.raises(InputError, match=pattern):
        COREML.compress(lower("fp16"), Plan(precision), (), tmp_path / "b")


def test_a_compressed_bundle_is_not_compressed_again(
    lower,
    program: Program,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    once = COREML.compress(lower("fp16"), Plan("int8"), (), tmp_path / "once")
    with pytest.raises(InputError, match="int8 already"):
        COREML.compress(once, Plan("lut4"), (), tmp_path / "twice")


def test_a_group_size_that_does_not_divide_is_a_listed_exception(
    lower,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    """60 + 4 words are no multiple of 32, nor is any weight here; 16 divides 64 and 96."""
    bundle = COREML.compress(lower("fp16", "iOS18"), Plan("lut4"), (), tmp_path / "b")
    assert all(weight.compressed for weight in weighted(bundle))
    for weight in weighted(bundle):
        listed = [
            line
            for line in bundle.manifest.provenance.get("exceptions", [])
            if line.startswith(f"{weight.group}:")
        ]
        assert bool(listed) == bool(weight.channels % 16)


def test_exceptions_are_told_by_check_once_for_each_reason(lower) -> None:  # type: ignore[no-untyped-def]
    full = lower("fp16")
    reasons = ["a.b: 60 channels are no multiple of 16", "a.c: 60 channels are no multiple of 16"]
    provenance = {**full.manifest.provenance, "exceptions": [*reasons, "d: left in float"]}
    excepted = Bundle(full.path, replace(full.manifest, precision="lut4", provenance=provenance))
    assert [(f.level, f.message) for f in COREML.check(excepted)] == [
        ("note", "lut4: 60 channels are no multiple of 16, in a.b and 1 more"),
        ("note", "lut4: left in float, in d"),
    ]


def test_what_coremltools_skips_is_reported(
    lower,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    import coremltools.optimize.coreml as cto

    quantize = cto.linear_quantize_weights

    def skipping(model, config, joint_compression=False):  # type: ignore[no-untyped-def]
        named = dict(config.op_name_configs)
        named.pop(next(name for name in named if "intermediate" in name))
        return quantize(model, cto.OptimizationConfig(op_name_configs=named))

    monkeypatch.setattr(cto, "linear_quantize_weights", skipping)
    bundle = COREML.compress(lower("fp16"), Plan("int8"), (), tmp_path / "b")
    assert bundle.manifest.provenance["exceptions"] == [
        "bert.encoder.layer.0.intermediate.dense: left in float, coremltools skipped it"
    ]


def test_activations_that_coremltools_skips_are_reported(
    lower,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    from coremltools.optimize.coreml._quantization_passes import (
        insert_prefix_quantize_dequantize_pair as insert,
    )

    transform = insert.transform_op

    def skipping(self, op):  # type: ignore[no-untyped-def]
        if op.op_type == "linear" and op.inputs["weight"].shape != (96, 64):
            transform(self, op)

    monkeypatch.setattr(insert, "transform_op", skipping)
    bundle = COREML.compress(lower("fp16"), Plan("w8a8"), program.rows, tmp_path / "b")
    assert bundle.manifest.provenance["exceptions"] == [
        "bert.encoder.layer.0.intermediate.dense: its activations are left in float (linear)"
    ]


def test_a_group_cannot_compute_in_fp32(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = Plan("int8", {"bert.encoder": "fp32"})
    with pytest.raises(InputError, match="not a compression"):
        COREML.compress(lower("fp32"), plan, (), tmp_path / "b")


JOINT = {
    "int4": {"constexpr_blockwise_shift_scale": 8},
    "pruned-int8": {"constexpr_sparse_blockwise_shift_scale": 8, "constexpr_sparse_to_dense": 8},
    "pruned-lut4": {"constexpr_lut_to_sparse": 8, "constexpr_sparse_to_dense": 8},
    "lut4-int8": {"constexpr_blockwise_shift_scale": 8, "constexpr_lut_to_dense": 8},
}


@pytest.mark.parametrize("precision", JOINT)
def test_joint_forms_chain_their_decompressions(
    lower,
    program: Program,
    tmp_path: Path,
    precision: str,  # type: ignore[no-untyped-def]
) -> None:
    full = lower("fp16", "iOS18")
    bundle = COREML.compress(full, Plan(precision), program.rows, tmp_path / "b")
    found = ops(bundle)
    count = len(find(Package.open(bundle.path / "model.mlpackage").program(), {}))
    assert {name: found[name] for name in JOINT[precision]} == dict.fromkeys(
        JOINT[precision], count
    )


def test_a_weight_that_a_compressor_destroys_is_never_published(
    lower,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    """The same defect while compressing, where the golden outputs would be taken from it."""
    from coremltools.optimize import _utils

    quantize = _utils.quantize_weight_by_dtype

    def twice(*args: Any, **kwargs: Any) -> Any:
        levels, scale, zero = quantize(*args, **kwargs)
        return levels, scale * scale, zero

    monkeypatch.setattr(_utils, "quantize_weight_by_dtype", twice)
    with pytest.raises(VerificationError, match=r"^bert\..*encoded it wrongly"):
        COREML.compress(lower("fp16"), Plan("int8"), (), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_damaged_weights_fail_against_the_golden_outputs(
    lower,
    program: Program,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    """A scale divided twice, as a known defect of a compressor leaves it; checksums renewed."""
    import json

    from edgekd_exporters.coreml.quiet import coremltools, quiet

    from edgekd.bundle import MANIFEST, sha256

    ct = coremltools()
    good = COREML.compress(lower("fp16"), Plan("lut6"), (), tmp_path / "good")
    verify(COREML, good)
    bad = Bundle.open(shutil.copytree(good.path, tmp_path / "bad"))
    path = bad.path / "model.mlpackage"
    package = Package.open(path)
    program_ = package.program()
    op = next(
        op
        for op in program_.functions["main"].operations
        if op.op_type == "constexpr_lut_to_dense" and "intermediate" in op.name
    )
    table = op.lut.val.astype(np.float16).tobytes()
    halved = (op.lut.val / 2).astype(np.float16).tobytes()
    blob = package.weights / "weight.bin"
    data = blob.read_bytes()
    assert data.count(table) == 1
    blob.write_bytes(data.replace(table, halved))
    names = bad.manifest.files
    manifest = replace(bad.manifest, files={n: sha256(bad.path / n) for n in names})
    manifest = replace(manifest, digest=manifest.seal())
    (bad.path / MANIFEST).write_text(json.dumps(asdict(manifest)))
    with pytest.raises(VerificationError, match="differs from its golden value"):
        verify(COREML, Bundle.open(bad.path))
    with quiet():
        assert ct.models.utils.load_spec(str(path))  # and it still is a readable package
