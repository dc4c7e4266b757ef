"""Running text is cut into blocks without loss, and a vocabulary is learned from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd import blocks
from edgekd.errors import InputError

TEXT = "\n\n".join(
    f"First Citizen:\nBefore we proceed any further, hear me speak {n} times." for n in range(40)
)
ENCODER = blocks.learn_vocabulary([TEXT], 300, 16)


def whole(text: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(ENCODER.tokenizer_json)
    tokenizer.no_truncation()
    return tokenizer.encode(text).ids


@settings(max_examples=40, deadline=None)
@given(st.text("abc é🙂\n ,.", max_size=200))
def test_blocks_joined_are_the_text(text: str) -> None:
    pieces = [row["text"] for row in blocks.cut([{"text": text}], ENCODER)]
    assert "".join(pieces).split() == text.split()
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece.strip() for piece in pieces)


def test_a_block_alone_has_the_tokens_that_it_had_in_the_text() -> None:
    rows = blocks.cut([{"text": TEXT}], ENCODER)
    assert "".join(row["text"] for row in rows) == TEXT
    ids = [whole(row["text"]) for row in rows]
    assert [token for block in ids for token in block] == whole(TEXT)
    assert max(map(len, ids)) <= 16
    assert len(ids) < 1.5 * len(whole(TEXT)) / 16


def test_short_texts_stay_rows_of_their_own() -> None:
    rows = [{"text": "hear me"}, {"text": "speak"}]
    assert blocks.cut(rows, ENCODER) == rows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.integers(0, 300), st.integers(1, 90))
def test_shared_runs_are_those_of_both_texts(seed: int, begin: int, size: int, step: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = ("".join(random.choice(list("abcdeé世"), n)) for n in (900, 700))
    theirs = theirs[:200] + ours[begin : begin + size].upper() + theirs[200:]

    def rows(text: str, size: int) -> list[dict[str, str]]:
        return [{"text": f" {text[i : i + size]}\n"} for i in range(0, len(text), size)]

    mine, other = blocks.shared_runs(rows(ours, 50), rows(theirs, step))
    if size < blocks.RUN:  # by chance the text around it may lengthen it, by a few characters
        assert size > blocks.RUN - 20 or not (mine.any() or other.any())
        return
    expected = [np.zeros(900), np.zeros(700 + size)]
    expected[0][begin : begin + size] = 1
    expected[1][200 : 200 + size] = 1
    for found, marks, width in zip((mine, other), expected, (50, step), strict=True):
        shares = [marks[i : i + width].mean() for i in range(0, len(marks), width)]
        lengths = [len(marks[i : i + width]) for i in range(0, len(marks), width)]
        assert abs(np.dot(found - shares, lengths)) <= 20
        assert (found >= np.array(shares) - 1e-12).all()


def test_nothing_is_shared_with_a_text_shorter_than_a_run() -> None:
    mine, other = blocks.shared_runs([{"text": TEXT}], [{"text": TEXT[:100]}])
    assert mine.tolist() == other.tolist() == [0]
    mine, other = blocks.shared_runs([], [{"text": TEXT}])
    assert (len(mine), other.tolist()) == (0, [0])


def test_a_vocabulary_larger_than_the_text_gives_is_refused() -> None:
    with pytest.raises(InputError, match="ask for what the text holds"):
        blocks.learn_vocabulary(["a short text"], 4096)


def test_the_vocabulary_is_the_same_each_time() -> None:
    assert blocks.learn_vocabulary([TEXT], 300, 16).tokenizer_json == ENCODER.tokenizer_json


def test_a_text_file_is_one_text_or_a_row_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert blocks.read_text(tmp_path / "a.txt", whole=True) == [{"text": "one\n\ntwo\n"}]
    assert blocks.read_text(tmp_path / "a.txt", whole=False) == [{"text": "one"}, {"text": "two"}]
