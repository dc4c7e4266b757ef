"""A key follows the content of a row, all of it and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import InputError
from edgekd.signals import fingerprint, key, keys
from edgekd.signals.keys import SOFT_ONLY

TEXT = st.text(max_size=20)


@given(TEXT, TEXT)
def test_equal_content_and_only_that_has_equal_keys(left, right):
    assert (key({"text": left}) == key({"text": right})) == (left == right)


@given(TEXT, TEXT)
def test_a_pair_is_not_its_concatenation(left, right):
    pair, joined = {"text": left, "text_pair": right}, {"text": left + right}
    assert key(pair) != key(joined)
    assert key({"tokens": [left, right]}) != key({"tokens": [left + right]})


@given(TEXT)
def test_labels_and_absent_columns_do_not_count(text):
    bare = key({"text": text})
    assert key({"text": text, "label": "x"}) == bare
    assert key({"label": "y", "text": text, "text_pair": None}) == bare
    assert key({"text": text, SOFT_ONLY: True}) == bare


def test_pixels_count_with_their_shape_and_dtype():
    image = np.arange(16, dtype=np.uint8)
    shapes = [image, image.reshape(4, 4), image.reshape(2, 8), image.reshape(4, 4).T]
    found = {key({"image": array}) for array in shapes}
    assert len(found) == 4
    assert key({"image": image.astype(np.int64)}) not in found
    assert key({"image": image.reshape(4, 4).copy(order="F")}) == key({"image": shapes[1]})


def test_keys_survive_numpy_unharmed():
    array = keys({"text": str(i)} for i in range(5000))  # 20 of 5000 would end in a null byte
    assert array.dtype == "S16"
    assert all(len(k) == 16 for k in array)
    assert array.tolist() == [key({"text": str(i)}) for i in range(5000)]


def test_raw_bytes_have_a_key_too():
    assert len(key(b"sound")) == 16
    assert key(b"sound") != key(b"noise")


def test_a_row_without_content_is_refused():
    with pytest.raises(InputError, match="no content"):
        key({"label": "x"})
    with pytest.raises(InputError, match="cannot be keyed"):
        key({"text": object()})


def test_a_fingerprint_follows_names_and_bytes(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"12")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"13")
    assert fingerprint(tmp_path) != first
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(tmp_path / "config.json") == fingerprint(tmp_path / "config.json")
