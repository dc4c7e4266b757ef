"""What a teacher says between its layers: stored, matched, and whole after a kill."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from edgekd import infer, pipeline
from edgekd import recipe as recipes
from edgekd.distill import transfer
from edgekd.distill.losses.taps import queries_keys_values
from edgekd.errors import InputError
from edgekd.pipeline.context import Context
from edgekd.pipeline.signals import keys_of, stored
from edgekd.pipeline.stage import Run
from edgekd.signals import SignalStore

EACH = {"hidden_weight": 0.1, "relation_weight": 0.1, "embedding_weight": 0.5}
LOSSES = {"softened_kl", "hidden", "relation", "embedding_cosine"}
RATE = 8000
WAVE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [4, 4, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The killed run has one, and the same weights are wanted of the one that goes on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distil(folder: Path, values: dict[str, Any]) -> tuple[Context, dict[str, Any]]:
    """Distil without a control; the run's context and its report."""
    path = folder / "recipe.yaml"
    folder.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"name": "x", "targets": {}, "profiles": [], **values}))
    recipe = recipes.load(path)
    document = pipeline.run(recipe, path, folder / "run")
    return Context(recipe, Run(folder / "run"), folder), document.settings


def kept(folder: Path) -> SignalStore:
    (path,) = folder.glob("run/signals/intermediate-*")
    return SignalStore.open(path)


def test_text(bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    training = {"epochs": 1, "learning_rate": 5e-3, "control": False}
    values = {
        "task": "text-classification",
        "teacher": str(bert_dir),
        "data": {"train": str(intents.train), "test": str(intents.test)},
        "student": {"layers": [1], "vocabulary": "trim"},
        "distill": {**training, **EACH, "attention_weight": 0.1},
    }
    context, settings = distil(tmp_path, values)
    shares = settings["gradient share at the first step"]
    assert set(shares) == {*LOSSES, "attention"}
    assert min(shares.values()) > 1e-4
    # A copied layer is matched with its original, and every token keeps its place.
    rows = context.train[:5]
    found = kept(tmp_path).get(keys_of(rows))
    tokens = context.teacher.preprocessor.tokens(rows)  # type: ignore[attr-defined]
    assert [len(states) for states in found["hidden_states"]] == [len(t.ids) for t in tokens]
    feeds = context.teacher.preprocessor.encode(rows[:1])
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}
        said = context.teacher.model(**inputs, output_hidden_states=True)
    own = said.hidden_states[2][0].numpy()
    np.testing.assert_allclose(found["hidden_states"][0][:, 0], own, atol=5e-3)
    np.testing.assert_allclose(found["embedding"][0], own.mean(0), atol=5e-3)
    # Other layers of the same shape lie in a store of their own.
    taps = transfer.Taps(frozenset({"hidden_states", "qkv", "embedding"}), layers=(0,))
    other = stored(context, rows[:1], taps)([0])["hidden_states"][0]
    assert np.abs(other[:, 0] - own).max() > 0.1


def test_attention_of_the_layers_that_a_map_names(
    bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    weights = {"soft_weight": 0, "attention_weight": 1, "relation_weight": 1}
    values = {
        "task": "text-classification",
        "teacher": str(bert_dir),
        "data": {"train": str(intents.train), "test": str(intents.test)},
        "student": {"layers": [1]},
        "distill": {"epochs": 1, "learning_rate": 5e-3, "control": False, **weights},
    }
    values["distill"]["layer_map"] = [[0, 0]]
    context, settings = distil(tmp_path, values)
    shares = settings["gradient share at the first step"]
    assert set(shares) == {"attention", "relation"} and shares["attention"] > 1e-3
    assert "temperature" not in settings  # which neither has
    # The last layer's queries, keys and values, which relations read, then the mapped one's.
    (states,) = kept(tmp_path).get(keys_of(context.train[:1]))["qkv"]
    assert states.shape[1:] == (6, 16)
    feeds = context.teacher.preprocessor.encode(context.train[:1])
    with queries_keys_values(context.teacher.model, -1, 0) as read, torch.inference_mode():
        context.teacher.model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
        np.testing.assert_allclose(states, read()[0].numpy(), atol=5e-3)


def test_an_image_run_killed_while_it_labels(
    digits_recipe: Callable[..., Path], second: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """1,347 rows are two shards; the second is computed and not yet stored when it dies."""
    distill = {"epochs": 1, "learning_rate": 5e-3, "control": False, **EACH}
    values: dict[str, Any] = yaml.safe_load(digits_recipe(tmp_path / "digits").read_text())
    values |= {"distill": {**distill, "attention_weight": 0.1}, "targets": {}, "budget": {}}
    values["teacher"]["fit"]["epochs"] = 1
    values["student"] = {"layers": [1]}  # a copy of the first would have nothing to learn yet
    _, settings = distil(tmp_path / "calm", values)
    shares = settings["gradient share at the first step"]
    assert set(shares) == {*LOSSES, "attention"} and min(shares.values()) > 1e-4

    (tmp_path / "killed").mkdir()
    path, out = tmp_path / "killed/recipe.yaml", tmp_path / "killed/run"
    path.write_text((tmp_path / "calm/recipe.yaml").read_text())
    code, said = second(out, path, "edgekd.signals.store:SignalStore.append", 5)
    assert code == -signal.SIGKILL, said
    assert len(kept(tmp_path / "killed")) == 1024
    pipeline.run(recipes.load(path), path, out)
    for name in ("signals", "student"):
        calm = {f.name: f for f in (tmp_path / "calm/run" / name).rglob("*.safetensors")}
        again = {f.name: f for f in (out / name).rglob("*.safetensors")}
        assert len(calm) == len(again) > 0
        assert all(again[f].read_bytes() == calm[f].read_bytes() for f in calm)


def test_sound(tmp_path: Path) -> None:
    """Of a waveform the mask counts samples and the states are frames."""
    import soundfile
    from transformers import AutoConfig, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    config = AutoConfig.for_model("wav2vec2", **WAVE, num_labels=2)
    base = tmp_path / "base"
    AutoModelForAudioClassification.from_config(config).save_pretrained(base)
    Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, return_attention_mask=True, do_normalize=True
    ).save_pretrained(base)
    random = np.random.default_rng(0)
    for number in range(48):
        label = ("low", "high")[number % 2]
        split = "test" if number >= 32 else "train"
        wave = np.sin(np.arange(400 + 10 * number) * (0.1 if label == "low" else 1.0))
        file = tmp_path / split / label / f"{number}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.3 * wave + random.normal(0, 0.01, len(wave)), RATE)
    splits = {name: str(tmp_path / name) for name in ("train", "test")}
    fit = {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2}
    values: dict[str, Any] = {
        "task": "audio-classification",
        "teacher": {"base": str(base), "fit": fit},
        "data": {**splits, "max_length": 800},
        "student": {"layers": [1]},
        "distill": {"epochs": 1, "control": False, **EACH},
    }
    context, settings = distil(tmp_path / "wave", values)
    shares = settings["gradient share at the first step"]
    assert set(shares) == LOSSES and min(shares.values()) > 1e-4
    encoded = context.teacher.preprocessor.encode(context.train[:2])
    assert "attention_mask" in encoded
    found = kept(tmp_path / "wave").get(keys_of(context.train[:2]))
    frames = {len(states) for states in found["hidden_states"]}
    assert len(frames) == 1 and frames.pop() < encoded["attention_mask"].shape[1]
    assert infer.forward(context.teacher, context.train[:1], context.task)["logits"].shape == (1, 2)
    # It looks where its own mask of frames lets it, which is not known here.
    values["distill"]["attention_weight"] = 0.1
    with pytest.raises(InputError, match="does not follow from its queries and keys"):
        distil(tmp_path / "wave", values)
