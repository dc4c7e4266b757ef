"""The two sessions: what a classifier answers, and Core ML beside the interpreter on a Mac."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from edgekd_exporters.coreml import session
from edgekd_exporters.coreml.session import named_outputs

from edgekd import profiles
from edgekd.exporter import Runtime, get
from edgekd.program import Program

COREML = get("coreml")


def test_a_dictionary_of_probabilities_is_put_in_the_order_of_the_labels(lower) -> None:  # type: ignore[no-untyped-def]
    manifest = lower("fp16").manifest
    shares = {label: float(i) for i, label in enumerate(manifest.labels)}
    answer = {
        "logits": np.ones((1, 5), np.float16),
        "classLabel": "label 4",
        "classLabel_probs": dict(reversed(shares.items())),
    }
    description = SimpleNamespace(predictedProbabilitiesName="classLabel_probs")
    outputs = named_outputs(manifest, description, answer)
    np.testing.assert_array_equal(outputs["probabilities"], [[0, 1, 2, 3, 4]])
    assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("system", "kind"), [("darwin", "native"), ("linux", "reference")])
def test_a_profile_for_core_ml_runs_natively_where_there_is_core_ml(monkeypatch, system, kind):  # type: ignore[no-untyped-def]
    """What the bench's worker opens; the runtime settings are the shipped profile's."""
    opened = {
        name: lambda bundle, runtime, name=name: (name, runtime.options["compute_units"])
        for name in ("native", "reference")
    }
    monkeypatch.setattr(session, "NativeSession", opened["native"])
    monkeypatch.setattr(session, "ReferenceSession", opened["reference"])
    monkeypatch.setattr(session.sys, "platform", system)
    profile = profiles.load("mac").runtime
    runtime = Runtime(threads=profile.threads, options=dict(profile.options))
    assert COREML.open(None, runtime) == (kind, "ALL")


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on a Mac only")
@pytest.mark.parametrize("units", ["CPU_ONLY", "ALL"])
@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_core_ml_and_the_interpreter_agree(
    lower,
    program: Program,
    compute: str,
    units: str,  # type: ignore[no-untyped-def]
) -> None:
    bundle = lower(compute)
    native = COREML.open(bundle, Runtime(options={"compute_units": units}))
    reference = COREML.open(bundle, Runtime(options={"reference": True}))
    assert (native.kind, reference.kind) == ("native", "reference")
    arrays = bundle.encode(program.rows[:1])
    expected = reference.run(arrays)
    for name, value in native.run(arrays).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-2 * np.abs(expected[name]).max())
