"""Sound in, model inputs out: a waveform or its log-mel filter bank, of one fixed length.

The two forms are those of the pretrained families. Wav2Vec2, HuBERT and WavLM read samples; AST
reads Kaldi's filter bank (Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011) as
transformers and transformers.js compute it: frames of 400 samples every 160 whatever the rate.
Nothing here imports torch or transformers; resampling alone needs SciPy.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Arrays, Row

FRAME, HOP, FFT = 400, 160, 512  # samples
PREEMPHASIS = 0.97
LOWEST = 20.0  # Hz, where the first mel filter begins
FLOOR = 1.192092955078125e-07  # of a filter's energy, before the logarithm
AST = "audio-spectrogram-transformer"  # the family that reads a filter bank
TINY = 1e-7  # added to a waveform's variance


@dataclass(frozen=True)
class AudioPreprocessor:
    """Mono samples at ``sampling_rate``, padded with silence or cut to ``length``.

    ``features`` "waveform" gives float32 [batch, samples]; with ``normalise`` each clip gets zero
    mean and unit variance (over its real samples where ``inputs`` holds ``attention_mask``, else
    over the padding too, as transformers does). "fbank" gives the natural logarithm of ``mels``
    filter energies, float32 [batch, frames, mels], minus ``mean`` over twice ``std``. ``length``
    counts samples or frames.
    """

    kind: ClassVar[str] = "audio"
    sampling_rate: int
    length: int
    features: str = "waveform"
    mels: int = 128
    mean: float = 0.0
    std: float = 0.5
    normalise: bool = True
    inputs: tuple[str, ...] = ("input_values",)

    def __post_init__(self) -> None:
        if self.features not in ("waveform", "fbank"):
            raise InputError(
                f"unknown audio features '{self.features}'; there are waveform and fbank"
            )
        sizes = (self.sampling_rate, self.length, self.mels)
        if min(sizes) < 1 or not self.std > 0:
            raise InputError(
                f"audio needs a rate, a length, filters and a deviation above 0, not {sizes} and"
                f" {self.std}"
            )

    @property
    def samples(self) -> int:
        """The longest clip that is read whole, in samples."""
        return self.length if self.features == "waveform" else FRAME + HOP * (self.length - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one encoded clip: [samples] or [frames, mels]."""
        return (self.length,) if self.features == "waveform" else (self.length, self.mels)

    def encode(self, rows: Sequence[Row], length: int | None = None) -> Arrays:
        clips = [self.clip(row) for row in rows]
        if self.features == "fbank":
            return {self.inputs[0]: self.fbank(clips)}
        values = np.zeros((len(clips), self.length), np.float32)
        mask = np.zeros((len(clips), self.length), np.int64)
        masked = "attention_mask" in self.inputs
        for row, clip in enumerate(clips):
            mask[row, : len(clip)] = 1
            values[row, : len(clip)] = clip
            if self.normalise:
                real = slice(len(clip)) if masked else slice(None)
                part = values[row, real]
                values[row, real] = (part - part.mean()) / np.sqrt(part.var() + TINY)
        arrays: Arrays = {self.inputs[0]: values, "attention_mask": mask}
        return {name: arrays[name] for name in self.inputs}

    def clip(self, row: Row) -> np.ndarray:
        """A row's sound at our rate, cut to what is read: float32 [samples]."""
        sound, rate = row["audio"], row.get("sampling_rate", self.sampling_rate)
        if isinstance(sound, str | Path):
            sound, rate = read(sound)
        sound = np.asarray(sound, np.float32)
        if sound.ndim != 1 or not len(sound):
            raise InputError(f"a sound is mono samples, and this has the shape {sound.shape}")
        return resample(sound, int(rate), self.sampling_rate)[: self.samples]

    def fbank(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Normalised log-mel energies: float32 [clips, frames, mels]."""
        energies = np.zeros((len(clips), self.length, self.mels), np.float64)
        for energy, clip in zip(energies, clips, strict=True):
            found = log_mel(clip, self._filters)
            energy[: len(found)] = found
        if self.normalise:
            energies = (energies - self.mean) / (2 * self.std)
        return energies.astype(np.float32)

    @cached_property
    def _filters(self) -> np.ndarray:
        return mel_filters(self.mels, self.sampling_rate)

    def value_range(self) -> tuple[float, float]:
        """What an input can be: samples within ±1, or the energies that such samples give."""
        if self.features == "waveform":
            # Of n values with unit variance none is further than sqrt(n - 1) from their mean.
            limit = math.sqrt(max(self.length - 1, 1)) if self.normalise else 1.0
            return -limit, limit
        # Losing the mean and pre-emphasis each at most double a sample, and a Hann window of 400
        # sums to less than 200; a filter adds up to 257 frequencies.
        top = 2 * math.log((1 + PREEMPHASIS) * FRAME) + math.log(FFT // 2 + 1)
        ends = (math.log(FLOOR), top)
        if not self.normalise:
            return ends
        low, high = ((end - self.mean) / (2 * self.std) for end in ends)
        return low, high

    def explain(self) -> list[str]:
        """What an app has to do with a sound, one step each."""
        steps = [
            f"Mono, {self.sampling_rate} samples a second, within -1 to 1; the first"
            f" {self.samples} samples."
        ]
        if self.features == "waveform":
            steps.append(f"Fill up with zeros at the end to {self.length} samples.")
            if self.normalise:
                real = "of the real samples" if "attention_mask" in self.inputs else "of all"
                steps.append(f"Subtract the mean {real}, divide by their deviation.")
            return steps
        steps += [
            f"Frames of {FRAME} samples every {HOP}; subtract each frame's mean.",
            f"y[i] = x[i] - {PREEMPHASIS} * x[i - 1], with x[-1] = x[0].",
            f"A symmetric Hann window; squared magnitudes of a Fourier transform of {FFT}.",
            f"{self.mels} triangular filters, even on 1127 ln(1 + f / 700) from {LOWEST:g} Hz to"
            f" {self.sampling_rate // 2} Hz and peaking at 1.",
            f"Natural logarithm of at least {FLOOR:.9g}; zeros behind the sound to"
            f" {self.length} frames.",
        ]
        if self.normalise:
            steps.append(f"Subtract {self.mean:.9g}, divide by {2 * self.std:.9g}.")
        return steps

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    def save(self, folder: Path) -> list[str]:
        # transformers.js and AutoFeatureExtractor read this file.
        common = {"sampling_rate": self.sampling_rate, "feature_size": 1, "padding_value": 0.0}
        masked = "attention_mask" in self.inputs
        common |= {"do_normalize": self.normalise, "return_attention_mask": masked}
        if self.features == "fbank":
            own: dict[str, Any] = {
                "feature_extractor_type": "ASTFeatureExtractor",
                "num_mel_bins": self.mels,
                "max_length": self.length,
                "mean": self.mean,
                "std": self.std,
            }
        else:
            own = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "max_length": self.length}
        config = {**common, **own}
        (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
        return ["preprocessor_config.json"]


def log_mel(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Kaldi's log filter-bank energies of one clip: float64 [frames, mels].

    Each frame loses its mean, is pre-emphasised, windowed (Hann) and transformed; a clip shorter
    than a frame is one frame, filled up with silence.
    """
    missing = FRAME - len(samples)
    samples = np.pad(samples, (0, missing)) if missing > 0 else samples
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP].astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    spectrum = np.fft.rfft((frames - PREEMPHASIS * before) * np.hanning(FRAME), FFT)
    return np.log(np.maximum((spectrum.real**2 + spectrum.imag**2) @ filters, FLOOR))


def mel_filters(mels: int, sampling_rate: int) -> np.ndarray:
    """Triangles that are even on Kaldi's mel scale, from 20 Hz to half the rate.

    Float64 [frequencies, mels]; mel(f) = 1127 ln(1 + f / 700).
    """

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    corners = np.linspace(mel(LOWEST), mel(sampling_rate // 2), mels + 2)
    places = mel(np.arange(FFT // 2 + 1) * sampling_rate / FFT)[:, None]
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (places - left) / (peak - left), (right - places) / (right - peak)
    return np.maximum(np.minimum(rising, falling), 0)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples at another rate, through SciPy's polyphase low-pass filter: float32."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32)


def read(source: str | Path | bytes) -> tuple[np.ndarray, int]:
    """Decode a sound file, or its bytes, to mono float32 samples within ±1, and their rate.

    Raises :class:`InputError` for what libsndfile cannot read (it knows WAV, FLAC, OGG, MP3).
    """
    import soundfile

    name = "the sound" if isinstance(source, bytes) else f"the sound {source}"
    try:
        found, rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else str(source),
            dtype="float32",
            always_2d=True,
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"cannot read {name}: {error}") from error
    if not len(found):
        raise InputError(f"{name} holds no samples; remove the row")
    return found.mean(1), int(rate)


def write(file: Path, row: Row) -> None:
    """Write a row's sound as WAV in 32-bit floats, which keeps every sample as it is."""
    import soundfile

    sound = row["audio"]
    samples, own = read(sound) if isinstance(sound, str | Path) else (sound, row["sampling_rate"])
    soundfile.write(file, np.asarray(samples, np.float32), int(own), subtype="FLOAT")


def fresh(rows: Sequence[Row], settings: Mapping[str, Any]) -> AudioPreprocessor:
    """Preprocessing for a model that is trained from nothing on ``rows``.

    The rate is the commonest, and the length holds 99 of 100 clips. ``settings`` are the model's
    config: AST gets a filter bank with the rows' own mean and deviation, and may fix
    ``num_mel_bins`` and ``max_length``; any other family gets waveforms.
    """
    rates, counts = np.unique([row["sampling_rate"] for row in rows], return_counts=True)
    rate = int(rates[counts.argmax()])
    seconds = np.percentile([len(row["audio"]) / row["sampling_rate"] for row in rows], 99)
    if settings.get("model_type", AST) != AST:
        return AudioPreprocessor(rate, max(math.ceil(seconds * rate), FRAME))
    frames = 1 + max(math.ceil((seconds * rate - FRAME) / HOP), 0)
    found = AudioPreprocessor(
        sampling_rate=rate,
        length=int(settings.get("max_length") or -(-frames // 8) * 8),
        features="fbank",
        mels=int(settings.get("num_mel_bins") or 64),
    )
    some = rows[:: -(-len(rows) // 500)]
    energies = np.concatenate([log_mel(found.clip(row), found._filters) for row in some])
    return replace(found, mean=float(energies.mean()), std=float(energies.std()))
