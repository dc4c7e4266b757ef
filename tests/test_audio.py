"""Waveforms and filter banks are transformers' own, and travel with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edgekd import audio, models, preprocess, processors, tasks
from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError
from edgekd.pipeline.preflight import share_cut_off
from edgekd.wrap import wrap

TASK = tasks.get("audio-classification")
BANK = AudioPreprocessor(8000, 20, "fbank", mels=24, mean=-5.0, std=4.0)
WAVE = AudioPreprocessor(16000, 900)


def rows(*sizes: int, rate: int = 8000) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    clips = [random.normal(0.02, 0.1, size).astype(np.float32) for size in sizes]
    return [{"audio": clip, "sampling_rate": rate} for clip in clips]


def ast(layers: int = 1) -> models.LoadedModel:
    config = {
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 8,
        "frequency_stride": 8,
        "time_stride": 4,
    }
    return models.from_config(config, TASK, BANK, ("yes", "no"), seed=0)


def wav2vec2(norm: str = "group") -> Any:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        classifier_proj_size=8,
        num_labels=3,
    )
    return Wav2Vec2ForSequenceClassification(config).eval()


def test_a_filter_bank_is_the_library_s_own() -> None:
    from transformers import ASTFeatureExtractor

    theirs = ASTFeatureExtractor(
        sampling_rate=8000, num_mel_bins=24, max_length=20, mean=-5.0, std=4.0
    )
    given = rows(500, 3440, 9000)  # short, exactly whole, cut
    expected = theirs([r["audio"] for r in given], sampling_rate=8000, return_tensors="np")
    found = BANK.encode(given)["input_values"]
    assert found.shape == (3, 20, 24) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected["input_values"], atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_waveform_is_the_library_s_own(masked: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    theirs = Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    names = ("input_values", "attention_mask")[: 1 + masked]
    ours = AudioPreprocessor(16000, 900, inputs=names)
    given = rows(400, 900, 1300, rate=16000)
    options = {"padding": "max_length", "max_length": 900, "truncation": True}
    expected = theirs(
        [r["audio"] for r in given], sampling_rate=16000, return_tensors="np", **options
    )
    found = ours.encode(given)
    assert tuple(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_a_tone_is_loudest_in_the_filter_around_it() -> None:
    time = np.arange(8000) / 8000
    filters = audio.mel_filters(24, 8000)
    peaks = filters.argmax(0) * 8000 / audio.FFT
    for hertz in (300.0, 1000.0, 3000.0):
        energies = audio.log_mel(np.sin(2 * np.pi * hertz * time).astype(np.float32), filters)
        assert energies.shape == (1 + (8000 - 400) // 160, 24)
        heard = peaks[energies.mean(0).argmax()]
        assert abs(heard - hertz) < 0.15 * hertz + 50


@given(st.integers(1, 5000), st.floats(0.01, 1.0))
def test_inputs_have_one_shape_and_stay_in_their_range(size: int, loudness: float) -> None:
    random = np.random.default_rng(size)
    row = {"audio": random.uniform(-loudness, loudness, size).astype(np.float32)}
    for preprocessor in (BANK, WAVE):
        found = preprocessor.encode([row])["input_values"]
        low, high = preprocessor.value_range()
        assert found.shape == (1, *preprocessor.shape)
        assert low - 1e-3 <= found.min() and found.max() <= high + 1e-3


def test_another_rate_is_resampled() -> None:
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 500 * time).astype(np.float32)
    half = audio.resample(tone, 16000, 8000)
    assert half.shape == (8000,) and half.dtype == np.float32
    np.testing.assert_allclose(half[400:-400], tone[::2][400:-400], atol=0.01)
    assert audio.resample(tone, 16000, 16000) is tone


def test_files_of_two_channels_are_heard_as_one(tmp_path: Path) -> None:
    both = np.stack([np.full(800, 0.5), np.full(800, 0.25)], 1).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", both, 8000)
    samples, rate = audio.read(tmp_path / "a.flac")
    assert rate == 8000 and samples.shape == (800,)
    np.testing.assert_allclose(samples, 0.375, atol=1e-4)
    row = rows(700)[0]
    audio.write(tmp_path / "b.wav", row)  # every sample as it was
    np.testing.assert_array_equal(audio.read(tmp_path / "b.wav")[0], row["audio"])


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF not a sound")
    with pytest.raises(InputError, match=r"cannot read the sound .*a\.wav"):
        audio.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 8000)
    with pytest.raises(InputError, match="holds no samples"):
        audio.read(tmp_path / "b.wav")
    with pytest.raises(InputError, match="mono samples"):
        BANK.encode([{"audio": np.zeros((2, 800), np.float32)}])
    with pytest.raises(InputError, match="unknown audio features 'mfcc'"):
        AudioPreprocessor(8000, 20, "mfcc")


@pytest.mark.parametrize("preprocessor", [BANK, WAVE])
def test_it_is_read_back_from_a_description_and_by_transformers(
    preprocessor: AudioPreprocessor, tmp_path: Path
) -> None:
    from transformers import AutoFeatureExtractor

    description = json.loads(json.dumps(preprocessor.describe()))
    assert preprocess.load(description, tmp_path) == preprocessor
    assert preprocessor.save(tmp_path) == ["preprocessor_config.json"]
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == (
        preprocessor.sampling_rate
    )


def test_a_fresh_filter_bank_fits_its_rows() -> None:
    given = rows(*([3000] * 99), 30_000)
    found = processors.fresh_preprocessor(given, {"num_mel_bins": 16})
    assert isinstance(found, AudioPreprocessor)
    assert (found.sampling_rate, found.mels) == (8000, 16)
    assert 3000 <= found.samples < 30_000
    encoded = found.encode(given[:99])["input_values"][:, : 1 + (3000 - 400) // 160]
    assert abs(encoded.mean()) < 0.05 and abs(encoded.std() - 0.5) < 0.05
    assert processors.fresh_preprocessor(given, {"max_length": 24}).length == 24  # type: ignore[union-attr]
    wave = processors.fresh_preprocessor(given, {"model_type": "wav2vec2"})
    assert isinstance(wave, AudioPreprocessor) and wave.features == "waveform"
    assert 3000 <= wave.length < 30_000
    assert 0 < share_cut_off(wave, given) <= 0.01


def test_a_model_is_saved_loaded_and_recognised(tmp_path: Path) -> None:
    made = ast()
    made.save(tmp_path / "ours")
    assert models.detect_task(str(tmp_path / "ours")) == TASK.name
    again = models.load(str(tmp_path / "ours"), TASK)
    assert again.preprocessor == BANK and again.labels == ("yes", "no")
    (tmp_path / "ours" / "preprocess.json").unlink()  # as any other tool would have left it
    assert models.load(str(tmp_path / "ours"), TASK).preprocessor == BANK


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_wav2vec2_is_audio_whatever_its_head_is_called(norm: str, tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    model = wav2vec2(norm)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(tmp_path)
    assert models.detect_task(str(tmp_path)) == TASK.name
    loaded = models.load(str(tmp_path), TASK, max_length=1600)
    assert isinstance(loaded.preprocessor, AudioPreprocessor) and loaded.preprocessor.length == 1600
    given = models.example_rows(TASK, loaded.preprocessor, 3)
    program = wrap(loaded.model, TASK, loaded.preprocessor, loaded.labels, given)
    assert program.inputs[0].shape == ("batch", 1600)
    assert program.outputs[0].shape == ("batch", 3)


def test_an_extractor_that_we_do_not_read_is_named(tmp_path: Path) -> None:
    ast().save(tmp_path)
    (tmp_path / "preprocess.json").unlink()
    file = tmp_path / "preprocessor_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "feature_extractor_type": "ClapFeatureExtractor"}))
    with pytest.raises(InputError, match="ClapFeatureExtractor"):
        models.load(str(tmp_path), TASK)
    file.unlink()
    with pytest.raises(InputError, match="no readable preprocessor_config"):
        models.load(str(tmp_path), TASK)
