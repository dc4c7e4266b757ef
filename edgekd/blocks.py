"""Running text as rows: cut into blocks of so many tokens, and a vocabulary learned from it.

A language model reads text without end, but a row has one. Blocks begin where a word begins, so
that a block tokenized alone is cut into the tokens that it had in the whole text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row, TextPreprocessor

END = "<|endoftext|>"  # pads, and stands where a model wants a first or last token
MASK = "<mask>"  # for models that learn to fill it
DEFAULT_LENGTH = 128
RUN = 128  # characters, some 25 words: nobody writes so many twice by chance; a power of two


def read_text(path: Path, *, whole: bool) -> list[dict[str, str]]:
    """Read a plain text file: one row, or a row for every line that is not blank."""
    text = path.read_text(encoding="utf-8-sig")
    texts = [text] if whole else text.splitlines()
    return [{"text": text} for text in texts if text.strip()]


def cut(rows: Sequence[Row], preprocessor: TextPreprocessor) -> list[dict[str, Any]]:
    """Cut every row's ``text`` into rows of at most ``preprocessor.max_length`` tokens.

    The blocks of a text joined are the text; blocks of white space alone are left out. Raises
    :class:`InputError` where what the tokenizer adds leaves no room.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(preprocessor.tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    room = preprocessor.max_length - tokenizer.num_special_tokens_to_add(False)
    if room < 2:
        raise InputError(
            f"blocks of {preprocessor.max_length} tokens have no room for two of a text; raise"
            " data.max_length"
        )
    found: list[dict[str, Any]] = []
    for row in rows:
        text = row["text"]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        offsets = encoding.offsets  # a list that is made anew each time it is asked for
        ends = [offsets[i - 1][1] for i in _starts(encoding.word_ids, room)]
        pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
        found += [{**row, "text": piece} for piece in pieces if piece.strip()]
    return found


def _starts(words: Sequence[int | None], room: int) -> list[int]:
    """Token numbers at which blocks after the first begin: of words, where one fits a block."""
    starts, begin = [], 0
    while len(words) - begin > room:
        end = begin + room
        word = next((i for i in range(end, begin, -1) if words[i] != words[i - 1]), end)
        starts.append(word)
        begin = word
    return starts


def shared_runs(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """How much of each block stands in runs of ``RUN`` characters that both texts have.

    One more line in front moves every border, so the blocks of each side are joined again. Case
    and white space do not count. Shares: float64 [rows] of ours, and of theirs.
    """
    (mine, my_ends), (other, other_ends) = _runs(ours), _runs(theirs)
    shared = _among(mine, other)
    return _covered(shared, my_ends), _covered(_among(other, mine[shared]), other_ends)


def _runs(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of the run that begins at each character, and where each row ends: 0, …, the last."""
    texts = ["".join(row["text"].casefold().split()) for row in rows]
    found = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    half = 1
    while half < RUN:  # a run is made of its halves
        found = found[:-half] * np.uint64(0x9E3779B97F4A7C15) + found[half:]
        found ^= found >> np.uint64(29)
        half *= 2
    return found, np.cumsum([0, *map(len, texts)])


def _among(runs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which runs are some of the others: ``np.isin``, in a tenth of its time."""
    if not len(others):
        return np.zeros(len(runs), bool)
    known = np.sort(others)
    return known.take(np.searchsorted(known, runs), mode="clip") == runs


def _covered(shared: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The share of each row's characters that are in a run which is ``shared``."""
    begins = np.flatnonzero(shared)
    steps = np.zeros(ends[-1] + 1, np.int64)
    steps[begins] += 1
    steps[begins + RUN] -= 1
    inside = np.cumsum(steps) > 0
    counts = np.diff(np.concatenate([[0], np.cumsum(inside)])[ends])
    return counts / np.maximum(np.diff(ends), 1)


def learn_vocabulary(
    texts: Iterable[str], size: int, max_length: int = DEFAULT_LENGTH
) -> TextPreprocessor:
    """Train a byte-level BPE of ``size`` pieces (Sennrich et al., 2016; Radford et al., 2019).

    Raises :class:`InputError` where the texts do not hold so many pieces.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise InputError(
            f"the training text gives {tokenizer.get_vocab_size()} pieces, not the {size} of"
            " teacher.vocabulary (all bytes are 256 of them); ask for what the text holds, or give"
            " more text"
        )
    return TextPreprocessor(
        tokenizer.to_str(),
        max_length=max_length,
        pad_id=tokenizer.token_to_id(END) or 0,
        pad_token=END,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": END for role in ("pad", "bos", "eos")},
            "mask_token": MASK,
        },
    )
