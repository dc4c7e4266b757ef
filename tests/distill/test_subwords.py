"""Rare words fall apart in some cuts, frequent ones never do, and ids stay what they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgekd import models as hub
from edgekd import tasks
from edgekd.distill.examples import Examples
from edgekd.distill.subwords import CUTS, cutters
from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor

COMMON, RARE = "quick", "zebras"
ROWS = [{"text": f"{COMMON} fox"}] * 40 + [{"text": f"{COMMON} {RARE}"}] * 2
CORPUS = [
    f"the {COMMON} brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    f"how vexingly {COMMON} daft {RARE} jump",
] * 20


def tokenizer_of(kind: str) -> Tokenizer:
    options: dict[str, Any] = {"vocab_size": 300, "show_progress": False}
    if kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    elif kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", special_tokens=["[UNK]"], **options)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]"], **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def preprocessor_of(kind: str) -> TextPreprocessor:
    return TextPreprocessor(tokenizer_of(kind).to_str(), max_length=16, pad_id=0, pad_token="x")


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_rare_words_alone_fall_apart(kind: str) -> None:
    whole = preprocessor_of(kind)
    pieces = {text: whole.tokens([{"text": text}])[0].ids for text in (COMMON, RARE)}
    found = cutters(whole, ROWS, 0.5, seed=0)
    assert len(found) == CUTS
    cuts = {t: [c.tokens([{"text": t}])[0] for c in found] for t in pieces}
    assert all(cut.ids == pieces[COMMON] for cut in cuts[COMMON])
    apart = [cut for cut in cuts[RARE] if cut.ids != pieces[RARE]]
    assert len(apart) >= 2 and all(len(cut.ids) > len(pieces[RARE]) for cut in apart)
    names = {i: name for name, i in whole.tokenizer.get_vocab().items()}
    for cut in apart:  # the same word still, in pieces that keep their numbers
        spelt = "".join(names[i] for i in cut.ids)
        assert spelt.replace("##", "").strip("Ġ▁") == RARE
    again = cutters(whole, ROWS, 0.5, seed=0)
    assert [c.tokenizer_json for c in again] == [c.tokenizer_json for c in found]
    assert cutters(whole, ROWS, 0.5, seed=1)[0].tokenizer_json != found[0].tokenizer_json


def test_words_without_pieces_cannot_be_cut() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    whole = TextPreprocessor(words.to_str(), max_length=8, pad_id=0, pad_token="x")
    with pytest.raises(InputError, match="of a WordLevel vocabulary; drop the key"):
        cutters(whole, [{"text": "a"}], 0.5, seed=0)


def test_a_batch_draws_its_cuts_and_labels_stay_at_their_words(bert_dir: Path) -> None:
    task = tasks.get("token-classification")
    whole = hub.load(str(bert_dir), tasks.get("text-classification")).preprocessor
    assert isinstance(whole, TextPreprocessor)
    rows = [{"tokens": ["my", "money", str(i)], "tags": ["O", "B-x", "O"]} for i in range(6)]
    found = cutters(whole, rows[:3], 0.5, seed=0)  # three rows: all is rare
    examples = Examples(rows, task, whole, ["O", "B-x"], None, found)
    plain = Examples(rows, task, whole, ["O", "B-x"])
    batch, again = (examples.collate([0, 1, 2]) for _ in range(2))
    for name, values in batch.items():
        assert np.array_equal(values, again[name]), name  # what a resumed run reads
    rest = (examples.collate([0, i, j])["input_ids"][0].tolist() for i in (1, 2) for j in (3, 4, 5))
    assert len({str(ids).replace(", 0", "") for ids in rest}) > 1  # another batch, another cut
    assert batch["labels"].tolist() == plain.collate([0, 1, 2])["labels"].tolist()
    assert batch["input_ids"].shape[1] > plain.collate([0, 1, 2])["input_ids"].shape[1]
    names = {i: name for name, i in whole.tokenizer.get_vocab().items()}
    for ids, places in zip(batch["input_ids"].tolist(), batch["places"].tolist(), strict=True):
        assert [names[ids[place]][0] for place in places[:2]] == ["m", "m"]  # words' first pieces


def test_words_that_would_be_cut_off_stay_whole(bert_dir: Path) -> None:
    task = tasks.get("token-classification")
    whole = hub.load(str(bert_dir), tasks.get("text-classification"), max_length=8).preprocessor
    assert isinstance(whole, TextPreprocessor)
    rows = [{"tokens": ["please"] * 6, "tags": ["O"] * 6}]
    (short,) = Examples(rows, task, whole, ["O"]).collate([0])["input_ids"].tolist()
    broken = json.loads(whole.tokenizer_json)
    broken["model"]["vocab"]["none"] = broken["model"]["vocab"].pop("please")
    cut = replace(whole, tokenizer_json=json.dumps(broken))
    (same,) = Examples(rows, task, whole, ["O"], None, [cut]).collate([0])["input_ids"].tolist()
    assert same == short
