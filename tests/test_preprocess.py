"""One encoder for training, evaluation and the device: it must do what the libraries do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekd import preprocess
from edgekd.errors import InputError
from edgekd.preprocess import ImagePreprocessor, TextPreprocessor

ROWS = [{"text": "my card"}, {"text": "where is the money please"}, {"text": "x"}]


@pytest.fixture(scope="module")
def encoder(bert_dir: Path) -> TextPreprocessor:
    from dataclasses import replace

    from edgekd import models, tasks

    loaded = models.load(str(bert_dir), tasks.get("text-classification")).preprocessor
    assert isinstance(loaded, TextPreprocessor)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    return replace(loaded, max_length=12, inputs=inputs)


def test_texts_are_encoded_as_transformers_does(encoder: TextPreprocessor, bert_dir: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(bert_dir)
    rows = [*ROWS, {"text": "Überall money " * 20}]
    expected = theirs(
        [row["text"] for row in rows],
        padding=True,
        truncation=True,
        max_length=12,
        return_tensors="np",
    )
    ours = encoder.encode(rows)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == np.int64


def test_pairs_carry_their_segments(encoder: TextPreprocessor) -> None:
    arrays = encoder.encode([{"text": "card", "text_pair": "money"}])
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(2, 20))
def test_padding_never_changes_a_row(
    encoder: TextPreprocessor, texts: list[str], width: int
) -> None:
    """A row alone is its row in a batch, cut or filled to the width asked for."""
    rows = [{"text": text} for text in texts]
    together = encoder.encode(rows, width)
    assert together["input_ids"].shape == (len(rows), width)
    for index, row in enumerate(rows):
        alone = encoder.encode([row], width)
        for name, array in together.items():
            np.testing.assert_array_equal(array[index], alone[name][0])
    assert (together["attention_mask"].sum(1) == np.minimum(encoder.lengths(rows), width)).all()


def test_padding_on_the_left(encoder: TextPreprocessor) -> None:
    from dataclasses import replace

    arrays = replace(encoder, padding_side="left").encode(ROWS)
    assert arrays["attention_mask"][0].tolist() == sorted(arrays["attention_mask"][0].tolist())


def test_images_are_encoded_by_the_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    found = ImagePreprocessor(5, 7, 3, mean, std).encode([{"image": pixels}])["pixel_values"]
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    low, high = ImagePreprocessor(5, 7, 3, mean, std).value_range()
    assert low <= found.min() and found.max() <= high
    assert (low, high) == (pytest.approx(-0.5), pytest.approx(0.9 / 0.4))


def test_images_are_resized_as_the_library_does(tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    theirs = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3)
    expected = theirs(picture, return_tensors="np")["pixel_values"]
    ours = ImagePreprocessor(16, 16, 3, (0.5,) * 3, (0.5,) * 3)
    found = ours.encode([{"image": str(tmp_path / "a.png")}])["pixel_values"]
    # The library may resize in float; half a grey level is all that rounding can make of it.
    assert np.abs(found - expected).max() < 2 / 255 * 2


def test_the_shorter_side_is_cut_to_the_middle() -> None:
    image = np.zeros((8, 24), np.uint8)
    image[:, 8:16] = 255
    found = ImagePreprocessor(8, 8, 1, (0.0,), (1.0,), shortest_edge=8).encode([{"image": image}])[
        "pixel_values"
    ]
    np.testing.assert_allclose(found, 1.0)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_saved_and_read_back(kind: str, encoder: TextPreprocessor, tmp_path: Path) -> None:
    image = {"image": np.arange(64, dtype=np.uint8).reshape(8, 8)}
    one = encoder if kind == "text" else ImagePreprocessor(8, 8, 1, (0.5,), (0.25,))
    rows = ROWS if kind == "text" else [image]
    names = one.save(tmp_path)
    assert all((tmp_path / name).is_file() for name in names)
    again = preprocess.load(json.loads(json.dumps(one.describe())), tmp_path)
    for name, array in one.encode(rows).items():
        np.testing.assert_array_equal(again.encode(rows)[name], array)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "video"}, "unknown preprocessing kind 'video'"),
        ({}, "unknown preprocessing kind None"),
        ({"kind": "text"}, "cannot be read"),
        ({"kind": "text", "tokenizer": "absent.json", "inputs": []}, "absent.json is missing"),
        ({"kind": "text", "tokenizer": "broken.json", "inputs": []}, "cannot be read"),
        ({"kind": "image", "height": 8}, "cannot be read"),
    ],
)
def test_descriptions_that_cannot_be_read(tmp_path: Path, description: dict, message: str) -> None:
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(InputError, match=message):
        preprocess.load(description, tmp_path)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        ImagePreprocessor(8, 8).encode([{"image": str(tmp_path / "a.png")}])


def test_means_and_channels_must_match() -> None:
    with pytest.raises(InputError, match="3 means and 3 deviations for images of 1 channels"):
        ImagePreprocessor(8, 8, 1)
