"""What is hidden depends on the text alone, and in the proportions of BERT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgekd import preprocess, tasks
from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor
from edgekd.tasks.fill_mask import MaskedTextPreprocessor

TASK = tasks.get("fill-mask")
WORDS = [f"word{n}" for n in range(400)]


def plain(mask: str = "[MASK]") -> TextPreprocessor:
    vocabulary = {piece: n for n, piece in enumerate(["[PAD]", "[CLS]", "[SEP]", mask, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return TextPreprocessor(tokenizer.to_str(), max_length=512)


ENCODER = TASK.prepare(plain())
generator = np.random.default_rng(0)
ROWS = [{"text": " ".join(generator.choice(WORDS, n))} for n in (1, 7, 40, 200, 200, 200, 200)]


def test_the_hidden_tokens_are_a_function_of_the_text() -> None:
    together = ENCODER.encode(ROWS)["input_ids"]
    for row, ids in zip(ROWS, together, strict=True):
        alone = ENCODER.encode([row])["input_ids"][0]
        assert ids[: len(alone)].tolist() == alone.tolist()


def test_a_mask_a_stranger_or_the_token_itself_in_the_proportions_of_bert() -> None:
    encodings = ENCODER.tokens(ROWS)  # type: ignore[attr-defined]
    shown = ENCODER.encode(ROWS)["input_ids"]
    counts = np.zeros(3)
    for encoding, row, where in zip(encodings, shown, TASK.places(encodings), strict=True):
        true = np.array(encoding.ids)
        n = len(true) - 2
        assert len(where) == max(round(0.15 * n), 1)
        assert not np.isin(where, [0, n + 1]).any()  # what the tokenizer added is never hidden
        rest = np.setdiff1d(np.arange(len(true)), where)
        assert row[rest].tolist() == true[rest].tolist()
        said, hidden = row[where], true[where]
        counts += [
            (said == 3).sum(),
            ((said != 3) & (said != hidden)).sum(),
            (said == hidden).sum(),
        ]
    assert counts.sum() == sum(len(where) for where in TASK.places(encodings))
    np.testing.assert_allclose(counts / counts.sum(), [0.8, 0.1, 0.1], atol=0.08)


def test_truths_are_what_was_hidden() -> None:
    encodings = ENCODER.tokens(ROWS)  # type: ignore[attr-defined]
    for encoding, where, truth in zip(
        encodings, TASK.places(encodings), TASK.targets([], encodings), strict=True
    ):
        assert truth.tolist() == [encoding.ids[i] for i in where]


def test_it_is_saved_as_the_plain_encoder(tmp_path: Path) -> None:
    ENCODER.save(tmp_path)
    read = preprocess.load(json.loads(json.dumps(ENCODER.describe())), tmp_path)
    assert not isinstance(read, MaskedTextPreprocessor)
    ids = [encoding.ids for encoding in plain().tokens(ROWS[:1])]
    assert read.encode(ROWS[:1])["input_ids"].tolist() == ids


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(InputError, match="no mask token"):
        TASK.prepare(plain("[OTHER]"))
