"""The exporter through its contract: float bundles, shapes, images, classes, metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.coreml.package import Package

from edgekd import tasks
from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError
from edgekd.exporter import Runtime, Spec, get, verify
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

COREML = get("coreml")


def reference(bundle: Bundle, **options: Any) -> Any:
    """The interpreter, on a Mac too."""
    return COREML.open(bundle, Runtime(options={"reference": True, **options}))


def spec_of(bundle: Bundle) -> Any:
    return Package.open(bundle.path / bundle.manifest.model_files[0]).spec


@pytest.mark.parametrize(("compute", "limit"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_a_float_bundle_repeats_torch(lower, program: Program, compute: str, limit: float) -> None:  # type: ignore[no-untyped-def]
    bundle = lower(compute)
    arrays = bundle.encode(program.rows)
    session = reference(bundle)
    expected = program.run({k: v.astype(np.int64) for k, v in arrays.items()})["logits"]
    for row in range(len(program.rows)):
        got = session.run({k: v[row : row + 1] for k, v in arrays.items()})
        apart = np.abs(got["logits"] - expected[row]).max() / np.abs(expected).max()
        assert apart <= limit
        np.testing.assert_allclose(got["probabilities"].sum(), 1, atol=2e-3)
        assert got["probabilities"].argmax() == got["logits"].argmax()
    assert session.kind == "reference"
    assert verify(COREML, bundle) <= 1e-6


def test_the_manifest_says_what_was_made(lower) -> None:  # type: ignore[no-untyped-def]
    manifest = lower("fp16").manifest
    assert (manifest.target, manifest.precision) == ("coreml", "fp16")
    assert manifest.variant == "fp16-l12"
    assert [(i.name, i.dtype, i.shape) for i in manifest.inputs] == [
        ("input_ids", "int32", (1, 12)),
        ("attention_mask", "int32", (1, 12)),
    ]
    assert [(o.name, o.shape) for o in manifest.outputs] == [
        ("logits", (1, 5)),
        ("probabilities", (1, 5)),
    ]
    assert manifest.runtime["deployment"] == "iOS17"


def test_the_package_is_a_classifier_with_metadata(lower) -> None:  # type: ignore[no-untyped-def]
    spec = spec_of(lower("fp16"))
    description = spec.description
    assert spec.specificationVersion == 8
    assert description.predictedFeatureName == "classLabel"
    assert description.metadata.author == "A. Author"
    assert description.metadata.license == "MIT"
    own = dict(description.metadata.userDefined)
    assert own["edgekd.accuracy"] == "0.9"
    assert json.loads(own["edgekd.provenance"])["architecture"] == "BertForSequenceClassification"
    assert [o.name for o in description.output] == ["classLabel", "classLabel_probs", "logits"]


def test_the_package_holds_no_path_of_this_machine(lower) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp16")
    here = str(Path(__file__).resolve().parents[3]).encode()
    files = [file for file in bundle.path.rglob("*") if file.is_file()]
    assert not [file for file in files if here in file.read_bytes()]
    assert {file.name for file in (bundle.path / "model.mlpackage").iterdir()} == {
        "Data",
        "Manifest.json",
    }


@pytest.mark.parametrize(("asked", "version"), [("16", 7), ("ios18", 9)])
def test_the_deployment_target_is_an_option(lower, asked: str, version: int) -> None:  # type: ignore[no-untyped-def]
    assert spec_of(lower("fp16", asked)).specificationVersion == version


def test_an_unknown_deployment_target_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"iOS19.*iOS17"):
        COREML.lower(program, Spec(Shapes(), deployment="iOS19"), tmp_path / "b")


def test_enumerated_lengths_run_at_every_length(lower, program: Program) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp32", "iOS18", (4, 8, 12))
    session = reference(bundle)
    for length in (4, 8, 12):
        arrays = program.preprocessor.encode(program.rows[:1], length)
        got = session.run(arrays)["logits"]
        np.testing.assert_allclose(got, program.run(arrays)["logits"], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="1x6, the package takes 1x12 or 1x4 or 1x8"):
        session.run(program.preprocessor.encode(program.rows[:1], 6))


def test_enumerated_lengths_of_two_inputs_need_ios18(program: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need iOS18"):
        COREML.lower(program, Spec(Shapes(lengths=(4, 8))), tmp_path / "b")


def test_a_range_of_lengths_runs_at_any(lower, program: Program) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp32", "iOS17", (), range=True)
    assert bundle.manifest.variant == "fp32-l1to12"
    session = reference(bundle)
    for length in (3, 7, 12):
        arrays = program.preprocessor.encode(program.rows[:1], length)
        expected = program.run(arrays)["logits"]
        np.testing.assert_allclose(session.run(arrays)["logits"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"1x13, the package takes 1x1\.\.12"):
        session.run({k: np.ones((1, 13), np.int32) for k in ("input_ids", "attention_mask")})


def test_pairs_of_texts_keep_their_token_types(program: Program, tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    paired = wrap(
        program.module.model,
        tasks.get("text-classification"),
        dataclasses.replace(program.preprocessor, inputs=names),
        program.labels,
        [{"text": "w1 w2", "text_pair": "w3"}, {"text": "w4 w5", "text_pair": "w6 w7"}],
    )
    bundle = COREML.lower(paired, Spec(Shapes(), compute="fp16"), tmp_path / "b")
    assert [feature.name for feature in spec_of(bundle).description.input] == list(names)
    _, inputs, _ = bundle.golden()
    assert inputs["token_type_ids"].sum(1).tolist() == [2, 3]  # the second text and its [SEP]
    apart = {name: np.array(value[:1]) for name, value in inputs.items()}
    with_types = reference(bundle).run(apart)["logits"]
    without = reference(bundle).run({**apart, "token_type_ids": 0 * apart["token_type_ids"]})
    assert not np.allclose(with_types, without["logits"])


def test_a_batch_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one example at a time"):
        COREML.lower(program, Spec(Shapes(batch=4)), tmp_path / "b")


def test_images_are_images_with_their_normalisation_inside(
    image_program: Program, tmp_path: Path
) -> None:
    bundle = COREML.lower(image_program, Spec(Shapes()), tmp_path / "b")
    (feature,) = spec_of(bundle).description.input
    assert feature.type.WhichOneof("Type") == "imageType"
    assert (feature.type.imageType.width, feature.type.imageType.height) == (16, 16)
    session = reference(bundle)
    arrays = image_program.preprocessor.encode(image_program.rows[:1])
    pixels = session.model_feeds(arrays)["pixel_values"]
    np.testing.assert_array_equal(pixels[0].transpose(1, 2, 0), image_program.rows[0]["image"])
    expected = image_program.run(arrays)["logits"]
    np.testing.assert_allclose(session.run(arrays)["logits"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="1x3x8x8, the package takes 1x3x16x16"):
        session.run({"pixel_values": arrays["pixel_values"][:, :, :8, :8]})


def test_an_image_model_may_take_an_array(image_program: Program, tmp_path: Path) -> None:
    spec = Spec(Shapes(), options={"image": False})
    bundle = COREML.lower(image_program, spec, tmp_path / "b")
    (feature,) = spec_of(bundle).description.input
    assert feature.type.WhichOneof("Type") == "multiArrayType"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranje": True}, r"unknown option 'ranje' \(did you mean 'range'\?\).*range, image"),
        ({"range": "often"}, "option range='often' is neither true nor false"),
    ],
)
def test_an_option_that_there_is_not_is_refused(
    program: Program, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        COREML.lower(program, Spec(Shapes(), options=options), tmp_path / "b")


def test_duplicate_labels_give_probabilities_without_a_dictionary(
    program: Program, tmp_path: Path
) -> None:
    twice = dataclasses.replace(program, labels=("a", "a", "b", "c", "d"), _captures={})
    bundle = COREML.lower(twice, Spec(Shapes()), tmp_path / "b")
    names = [o.name for o in spec_of(bundle).description.output]
    assert sorted(names) == ["logits", "probabilities"]
    arrays = bundle.encode(program.rows[:1])
    assert reference(bundle).run(arrays)["probabilities"].shape == (1, 5)


def test_decoding_works_on_what_the_session_returns(lower, program: Program) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp16")
    outputs = reference(bundle).run(bundle.encode(program.rows[:1]))
    decoded = tasks.get("text-classification").decode(outputs, bundle.manifest.labels)
    assert decoded == [int(outputs["logits"].argmax())]


def test_groups_and_figures_count_what_is_there(lower, program: Program) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp16")
    groups = {group.name: group.weight_bytes for group in COREML.groups(bundle)}
    # 64 x 96 weights of two bytes each.
    assert groups["bert.encoder.layer.0.intermediate.dense"] == 64 * 96 * 2
    assert "bert.embeddings.word_embeddings" in groups
    figures = COREML.inspect(bundle)
    assert figures["weight_bytes"] >= sum(groups.values())
    assert figures["ops"]["layer_norm"] == 3
    # The keys' and values' projections see every token, whatever else the capture leaves out.
    assert figures["macs"] > 12 * 2 * 64 * 64


def test_fp32_mode_rounds_nothing(lower, program: Program) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp16")
    arrays = bundle.encode(program.rows[:1])
    exact = reference(bundle, precision="fp32").run(arrays)["logits"]
    rounded = reference(bundle).run(arrays)["logits"]
    assert np.array_equal(rounded, rounded.astype(np.float16).astype(np.float32))
    assert not np.array_equal(exact, exact.astype(np.float16).astype(np.float32))
    with pytest.raises(InputError, match="'program' or 'fp32'"):
        reference(bundle, precision="int8")


def test_a_model_that_does_not_convert_names_op_and_module(
    program: Program, tmp_path: Path
) -> None:
    import torch
    from torch import nn

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 5)
            self.odd = Odd()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.odd(self.table(ids)).sum(1),)

    broken = dataclasses.replace(program, module=Net().eval(), _captures={})
    with pytest.raises(InputError, match=r"the op '\S*bessel_j0' in odd") as caught:
        COREML.lower(broken, Spec(Shapes()), tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_wrong_numbers_are_not_published(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(COREML), "tolerances", {"fp32": 0.0})
    with pytest.raises(VerificationError, match="differs"):
        COREML.lower(program, Spec(Shapes()), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_assertion_without_a_word_is_still_one_line() -> None:
    from edgekd_exporters.coreml.convert import _Located

    said = "the program while translating: AssertionError"
    with pytest.raises(InputError, match=said), _Located("translating", {}):
        raise AssertionError
