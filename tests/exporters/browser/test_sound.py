"""A model that listens, in transformers.js: its filter bank, padded as the page pads it, is ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.browser.folder import config
from edgekd_exporters.browser.second_check import transformers_js

from edgekd import models, tasks
from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError
from edgekd.exporter import Spec
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

TASK = tasks.get("audio-classification")
AST = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 4,
    "initializer_range": 0.2,
}


def listener() -> Program:
    bank = AudioPreprocessor(8000, 20, "fbank", mels=24, mean=-5.0, std=4.0)
    made = models.from_config(AST, TASK, bank, ("yes", "no", "maybe"), seed=0)
    rows = models.example_rows(TASK, bank)
    return wrap(made.model, TASK, bank, made.labels, rows)


@pytest.mark.browser
def test_transformers_js_hears_the_same(tmp_path: Path) -> None:
    made = listener()
    bundle = BrowserExporter().lower(made, Spec(Shapes()), tmp_path / "bundle")
    assert (bundle.path / "sound.js").is_file()
    answers = transformers_js(bundle, bundle.golden()[0])
    logits = bundle.golden()[2]["logits"].astype(np.float64)  # said by Chromium
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(answers.scores, expected, atol=1e-4)


def test_a_mask_that_transformers_js_cannot_make_is_refused() -> None:
    made = listener()
    names = ("input_values", "attention_mask")
    made.preprocessor = AudioPreprocessor(16000, 1600, inputs=names)
    with pytest.raises(InputError, match="calls padding real sound"):
        config(made)
