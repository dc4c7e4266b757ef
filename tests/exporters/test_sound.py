"""A model that listens, in each target: the numbers are torch's, the golden sounds are files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import audio, exporter, models, tasks
from edgekd.audio import AudioPreprocessor
from edgekd.bundle import Bundle
from edgekd.exporter import Plan, Spec
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

TASK = tasks.get("audio-classification")
LABELS = ("yes", "no", "maybe")
CONFIGS: dict[str, tuple[AudioPreprocessor, dict[str, Any]]] = {
    "ast": (
        AudioPreprocessor(8000, 20, "fbank", mels=24, mean=-5.0, std=4.0),
        {
            "model_type": "audio-spectrogram-transformer",
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 4,
        },
    ),
    "wav2vec2": (
        AudioPreprocessor(16000, 1600),
        {
            "model_type": "wav2vec2",
            "conv_dim": [16, 16],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 4],
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 8,
        },
    ),
}


def program(family: str) -> Program:
    preprocessor, own = CONFIGS[family]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {**own, **sizes, "intermediate_size": 32, "initializer_range": 0.2}
    made = models.from_config(config, TASK, preprocessor, LABELS, seed=0)
    rows = models.example_rows(TASK, preprocessor)
    return wrap(made.model, TASK, preprocessor, LABELS, rows)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_onnx(family: str, tmp_path: Path) -> None:
    made, target = program(family), exporter.get("onnx")
    bundle = target.lower(made, Spec(Shapes()), tmp_path / "fp32")
    small = target.compress(bundle, Plan("int8"), (), tmp_path / "int8")
    assert small.size_bytes < bundle.size_bytes
    for found, tolerance in ((bundle, 1e-3), (small, 0.5)):
        found.check_files()
        rows, inputs, outputs = Bundle.open(found.path).golden()
        assert all(Path(row["audio"]).suffix == ".wav" for row in rows)
        for name, array in found.encode(rows).items():  # from the files, in any runtime
            np.testing.assert_array_equal(array, inputs[name])
        expected = made.run(inputs)["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, atol=tolerance)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_core_ml(family: str, tmp_path: Path) -> None:
    made, target = program(family), exporter.get("coreml")
    bundle = target.lower(made, Spec(Shapes(), compute="fp32"), tmp_path / "fp32")
    rows, _, _ = bundle.golden()
    session = target.open(bundle)
    try:
        one = {name: array[:1] for name, array in bundle.encode(rows[:1]).items()}
        found = session.run(one)["logits"]
    finally:
        session.close()
    np.testing.assert_allclose(found, made.run(one)["logits"], atol=1e-3)
    swift = (bundle.path / "EdgekdModel.swift").read_text(encoding="utf-8")
    assert f"{made.preprocessor.sampling_rate} samples a second" in swift  # type: ignore[attr-defined]


def test_golden_sounds_lose_no_sample(tmp_path: Path) -> None:
    made = program("ast")
    bundle = exporter.get("onnx").lower(made, Spec(Shapes()), tmp_path / "fp32")
    plain = json.loads((bundle.path / "golden.json").read_text())["rows"]
    for row, said in zip(made.rows, plain, strict=False):
        samples, rate = audio.read(bundle.path / said["audio"])
        assert rate == said["sampling_rate"] == row["sampling_rate"]
        np.testing.assert_array_equal(samples, row["audio"])
