"""Trimming keeps the segmentation of what was seen, for each kind of tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgekd.distill.student.vocabulary import trim_tokenizer
from edgekd.errors import InputError

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
    "größe überall naïve",
] * 3
SEEN = ["the quick dog jumps", "my lazy fox"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options: dict[str, Any] = {"vocab_size": 200, "special_tokens": SPECIAL, "show_progress": False}
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(**options))
    return tokenizer


def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


KINDS = {"WordPiece": wordpiece(), "BPE": bpe(), "Unigram": unigram()}


def trimmed(kind: str) -> tuple[Tokenizer, list[int]]:
    whole = KINDS[kind]
    whole.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    seen = {i for text in SEEN for i in whole.encode(text).ids}
    document, kept = trim_tokenizer(json.loads(whole.to_str()), seen)
    return Tokenizer.from_str(json.dumps(document)), kept


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_seen_is_cut_as_before(kind: str) -> None:
    small, kept = trimmed(kind)
    assert small.get_vocab_size() == len(kept) < KINDS[kind].get_vocab_size()
    for text in SEEN:
        whole = KINDS[kind].encode(text)
        again = small.encode(text)
        assert again.tokens == whole.tokens
        # The rows of the embedding table that are kept, in their new places.
        assert [kept[i] for i in again.ids] == whole.ids


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(" ".join(CORPUS).split()), min_size=1, max_size=8))
def test_any_other_text_of_known_letters_has_a_segmentation(kind: str, words: list[str]) -> None:
    small, kept = trimmed(kind)
    found = small.encode(" ".join(words))
    assert "[UNK]" not in found.tokens
    assert max(found.ids) < len(kept)


def test_a_kind_that_cannot_be_trimmed() -> None:
    document = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    with pytest.raises(InputError, match="cannot trim a WordLevel vocabulary"):
        trim_tokenizer(document, {0})
