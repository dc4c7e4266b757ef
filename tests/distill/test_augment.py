"""Variants are new, reproducible by content, close to their row, and never a test row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from edgekd.distill.augment import OPERATIONS, augment, widen
from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor
from edgekd.signals import key

TEXT = {"text": "how do I get my new card to work in the shop", "label": "card_not_working"}
WORDS = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=20)
RANDOM = np.random.default_rng(0)
IMAGE = {"image": RANDOM.integers(0, 256, (16, 12, 3), dtype=np.uint8), "label": "cat"}
AUDIO = {"audio": np.sin(np.arange(800) / 9).astype(np.float32) / 2, "sampling_rate": 8000}
ROWS = {"text": TEXT, "image": IMAGE, "audio": AUDIO}
MASK = "<mask>"
EACH = [(kind, name) for kind, known in OPERATIONS.items() for name in known]


@pytest.mark.parametrize("kind", ROWS)
def test_the_same_row_gives_the_same_variants_in_any_company(kind):
    row = ROWS[kind]
    again = {**{k: v for k, v in row.items() if k != "label"}, "label": "something else"}
    keys = [key(augment(row, number)) for number in range(6)]
    assert keys == [key(augment(again, number)) for number in range(6)]
    assert len(set(keys)) == 6
    assert keys[0] != key(augment(row, 0, seed=1))


@pytest.mark.parametrize("kind", ROWS)
def test_variants_carry_no_label(kind):
    assert "label" not in augment(ROWS[kind], 0)


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_every_operation_changes_something_and_keeps_the_form(kind, name):
    row = ROWS[kind]
    before = row[kind].copy() if kind != "text" else row[kind]
    variants = [augment(row, number, [name], mask_token=MASK)[kind] for number in range(20)]
    assert any(not np.array_equal(v, row[kind]) for v in variants)
    np.testing.assert_array_equal(row[kind], before)  # the row itself is left alone
    for variant in variants:
        if kind == "text":
            assert isinstance(variant, str)
            assert variant
        else:
            assert variant.dtype == row[kind].dtype
            if name == "speed":
                assert 0.9 <= len(row[kind]) / len(variant) <= 1.11
            else:
                assert variant.shape == row[kind].shape


@pytest.mark.parametrize("name", ["shift", "rotate", "noise", "erase"])
def test_an_image_stays_nearer_to_itself_than_to_another(name):
    smooth = np.add.outer(np.arange(0, 240, 15), np.arange(16)).astype(np.uint8)
    other = smooth[::-1].copy()
    for number in range(20):
        variant = augment({"image": smooth}, number, [name])["image"].astype(float)
        assert np.abs(variant - smooth).mean() < np.abs(variant - other).mean() / 2


@settings(max_examples=50, deadline=None)
@given(WORDS, st.integers(0, 50))
def test_text_operations_keep_their_promises(words, number):
    row = {"text": " ".join(words)}
    masked = augment(row, number, ["mask"], mask_token=MASK)["text"].split()
    assert len(masked) == len(words)
    assert all(m in (w, MASK) for m, w in zip(masked, words, strict=True))
    assert MASK in masked
    deleted = augment(row, number, ["delete"])["text"].split()
    assert 0 < len(deleted) <= len(words)
    rest = iter(words)
    assert all(word in rest for word in deleted)  # a subsequence
    assert sorted(augment(row, number, ["swap"])["text"].split()) == sorted(words)
    part = augment(row, number, ["window"])["text"]
    assert f" {part} " in f" {row['text']} "
    assert len(part.split()) >= len(words) / 2


def test_pairs_and_tokens_are_augmented_too():
    row = {"text": "one two three four", "text_pair": "five six seven eight"}
    variant = augment(row, 0)
    assert variant.keys() == row.keys()
    assert any(augment(row, n)["text_pair"] != row["text_pair"] for n in range(3))
    tokens = augment({"tokens": ["play", "some", "jazz"], "tags": ["O", "O", "B"]}, 1)
    assert set(tokens) == {"tokens"}
    assert isinstance(tokens["tokens"], list)


def test_a_widened_set_holds_no_repeats_and_nothing_of_the_test_set():
    rows = [{"text": f"please send {n} euros to my account", "label": "x"} for n in range(30)]
    free = widen(rows, 5)
    test = [{"text": variant["text"].upper() + " ", "label": "x"} for variant in free[:40]]
    kept = widen(rows, 5, test=test)
    assert len(kept) == len(free) - 40
    texts = [variant["text"].casefold() for variant in kept]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {row["text"].strip().casefold() for row in test}
    assert not set(texts) & {row["text"].casefold() for row in rows}


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_arrays_are_compared_with_the_test_set_too(kind):
    variants = widen([ROWS[kind]], 4)
    assert len(variants) == 4
    assert len(widen([ROWS[kind]], 4, test=variants[1:3])) == 2


def test_silence_and_empty_texts_pass_through():
    assert augment({"text": ""}, 0)["text"] == ""
    silent = augment({"audio": np.zeros(50, np.int16)}, 0, ["noise"])["audio"]
    assert silent.dtype == np.int16
    assert not silent.any()


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(InputError, match="did you mean 'delete'"):
        augment(TEXT, 0, ["delet"])
    with pytest.raises(InputError, match="no mask token"):
        augment(TEXT, 0, ["mask", "swap"])
    with pytest.raises(InputError, match="nothing to augment"):
        augment({"label": "x"}, 0)
    with pytest.raises(InputError, match="0 or more"):
        widen([TEXT], -1)


def test_words_are_hidden_by_the_tokenizer_s_own_token() -> None:
    for token, own in (("[MASK]", "[MASK]"), ("<mask>", "<mask>"), ("<unk>", None)):
        vocabulary = Tokenizer(WordLevel({"<unk>": 0, token: 1, "card": 2}, unk_token="<unk>"))
        vocabulary.pre_tokenizer = Whitespace()
        bare = TextPreprocessor(vocabulary.to_str())
        assert bare.mask_token is None  # known by name, and read in three pieces
        vocabulary.add_special_tokens([token])
        assert TextPreprocessor(vocabulary.to_str()).mask_token == own
        texts = [augment(TEXT, n, mask_token=own)["text"] for n in range(20)]
        found = {t for text in texts for t in ("[MASK]", "<mask>") if t in text}
        assert found == ({own} if own else set())
