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
from edgekd.distill.subwords import CUTS, check, cutters
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
    options: dict[str, Any] = {"vocab_size": 600, "show_progress": False}
    if kind == "BPE with a prefix":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer: Any = trainers.BpeTrainer(
            special_tokens=["[UNK]"], continuing_subword_prefix="##", **options
        )
    elif kind.startswith("BPE"):
        tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "BPE of whole words first"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    elif kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", special_tokens=["[UNK]"], **options)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]", "[MASK]"], **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def preprocessor_of(kind: str) -> TextPreprocessor:
    return TextPreprocessor(tokenizer_of(kind).to_str(), max_length=16, pad_id=0, pad_token="x")


KINDS = ["WordPiece", "BPE", "BPE of whole words first", "BPE with a prefix", "Unigram"]


@pytest.mark.parametrize("kind", KINDS)
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


def test_what_no_row_has_is_cut_but_for_special_tokens() -> None:
    whole = preprocessor_of("WordPiece")
    assert not any(i in whole.tokens(ROWS)[0].ids for i in (0, 1))
    for cutter in cutters(whole, ROWS, 0.99, seed=0):
        assert cutter.tokenizer.encode("[MASK] jugs").ids[0] == whole.tokenizer.token_to_id(
            "[MASK]"
        )
        assert cutter.tokenizer.get_vocab_size() == whole.tokenizer.get_vocab_size()


@pytest.mark.parametrize(
    ("name", "losses", "message"),
    [
        ("image-classification", (), "needs a text task"),
        ("fill-mask", (), "changes the tokens that fill-mask answers with"),
        ("question-answering", (), "changes the tokens that question-answering answers with"),
        ("text-classification", ("softened_kl", "hidden"), "cannot be matched token by token"),
        ("text-classification", ("attention",), "cannot be matched token by token"),
        ("text-classification", ("relation",), "cannot be matched token by token"),
    ],
)
def test_what_lies_in_the_tokens_stays_whole(
    name: str, losses: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(tasks.get(name), losses)


def test_what_lies_in_the_words_may_be_cut() -> None:
    for name in ("text-classification", "token-classification", "feature-extraction"):
        check(tasks.get(name), ("softened_kl", "embedding_cosine"))


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


def test_each_process_cuts_its_share_as_one_would_cut_all(bert_dir: Path) -> None:
    task = tasks.get("text-classification")
    whole = hub.load(str(bert_dir), task).preprocessor
    assert isinstance(whole, TextPreprocessor)
    rows = [{"text": f"please transfer money {i}", "label": "a"} for i in range(12)]
    examples = Examples(rows, task, whole, ["a"], None, cutters(whole, rows[:3], 0.5, seed=0))
    batch = [7, 2, 9, 4, 11, 0]

    def read(indices: list[int]) -> dict[int, list[int]]:
        found = examples.collate(indices, batch)
        return {
            i: ids[mask.bool()].tolist()
            for i, ids, mask in zip(
                indices, found["input_ids"], found["attention_mask"], strict=True
            )
        }

    assert read(batch[::2]) | read(batch[1::2]) == read(batch)
    assert len({len(ids) for ids in read(batch).values()}) > 1  # and they are cut


@pytest.mark.parametrize("name", ["token-classification", "text-classification"])
def test_what_would_be_cut_off_stays_whole(bert_dir: Path, name: str) -> None:
    task = tasks.get(name)
    whole = hub.load(str(bert_dir), tasks.get("text-classification"), max_length=8).preprocessor
    assert isinstance(whole, TextPreprocessor)
    words, more = ["please"] * 6, ["please"] * 9  # and the longer row is cut off in any case
    if task.per_token:
        rows = [{"tokens": w, "tags": ["O"] * len(w)} for w in (words, more)]
    else:
        rows = [{"text": " ".join(w), "label": "O"} for w in (words, more)]
    (short, _) = Examples(rows, task, whole, ["O"]).collate([0, 1])["input_ids"].tolist()
    broken = json.loads(whole.tokenizer_json)
    broken["model"]["vocab"]["none"] = broken["model"]["vocab"].pop("please")
    cut = replace(whole, tokenizer_json=json.dumps(broken))
    found = Examples(rows, task, whole, ["O"], None, [cut]).collate([0, 1])["input_ids"].tolist()
    assert found[0] == short
    assert (found[1] == short) == task.per_token  # of a text no word has an answer to lose
