"""Words are read at their first token, and entities counted as seqeval counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgekd import tasks
from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor
from edgekd.tasks.token_classification import entities, entity_f1, token_accuracy

TASK = tasks.get("token-classification")
LABELS = ("O", "B-city", "I-city", "B-day", "I-day")
ENDED = (*LABELS, "E-city", "S-city", "E-day", "S-day")  # IOBES, and any mixture
tags = st.lists(st.sampled_from(ENDED), min_size=1, max_size=9)


def encoder(max_length: int = 16) -> TextPreprocessor:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "new", "york", "##ish", "mon", "##day", "on"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TextPreprocessor(tokenizer.to_str(), max_length=max_length)


ROWS = [
    {"tokens": ["on", "monday"], "tags": ["O", "B-day"]},
    {"tokens": ["newish", "york", "", "on"], "tags": ["B-city", "I-city", "O", "O"]},
]


@given(tags)
def test_entities_are_those_of_seqeval(sequence: list[str]) -> None:
    assert entities(sequence) == set(get_entities(sequence))


@given(tags)
def test_unit_and_last_are_single_and_end(sequence: list[str]) -> None:
    units = [tag.replace("S-", "U-").replace("E-", "L-") for tag in sequence]
    assert entities(units) == set(get_entities(sequence))


def test_entity_f1_counts_entities_of_one_word_in_bilou() -> None:
    labels = TASK.classes([{"tags": ["O", "U-city", "B-day"]}])
    assert labels == ["O", *(f"{p}-{kind}" for p in "BILU" for kind in ("city", "day"))]
    number = {label: i for i, label in enumerate(labels)}
    rows = (["U-city", "O", "B-day", "L-day"], ["O", "U-city", "B-day", "L-day"])
    said, true = ([tuple(number[tag] for tag in row)] for row in rows)
    assert entities(rows[1]) == {("city", 1, 1), ("day", 2, 3)}
    assert entity_f1(labels)(said, true) == 0.5  # the day of two entities on each side
    assert TASK.metrics(["O", "U-city"])[0].name == "entity_f1"


@given(st.lists(st.tuples(tags, tags), min_size=1, max_size=6))
def test_entity_f1_is_that_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    said = [(a * 9)[: len(b)] for a, b in pairs]
    true = [b for _, b in pairs]
    number = {label: i for i, label in enumerate(ENDED)}
    ours = entity_f1(ENDED)(
        [tuple(number[t] for t in row) for row in said],
        [tuple(number[t] for t in row) for row in true],
    )
    with np.errstate(all="ignore"):
        theirs = f1_score(true, said, zero_division=0)
    assert ours == pytest.approx(theirs)


def test_a_word_is_read_at_its_first_token() -> None:
    places = TASK.places(encoder().tokens(ROWS))
    assert [p.tolist() for p in places] == [[1, 2], [1, 3, -1, 4]]


def test_collected_answers_are_per_word_and_what_was_not_read_is_outside() -> None:
    preprocessor = encoder()
    width = preprocessor.encode(ROWS)["input_ids"].shape[1]
    logits = np.zeros((2, width, 5), np.float32)
    logits[0, 2, 3] = 1  # monday: B-day
    logits[1, 1, 1] = logits[1, 3, 2] = logits[1, 4, 4] = 1
    kept = TASK.collect({"logits": logits}, ROWS, preprocessor)
    assert kept["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 1]]
    decoded = TASK.decode(kept, LABELS)
    assert decoded == [(0, 3), (1, 2, 0, 4)]
    references = TASK.references(ROWS, LABELS)
    assert references == [(0, 3), (1, 2, 0, 0)]
    assert token_accuracy(LABELS)(decoded, references) == pytest.approx(5 / 6)
    found = TASK.decisions(kept, references)
    assert found is not None and found[1].tolist() == [0, 3, 1, 2, 0]
    assert TASK.agree(decoded, references).tolist() == [True, False]


def test_cut_off_words_count_as_wrong_where_they_are_entities() -> None:
    preprocessor = encoder(max_length=4)
    kept = TASK.collect({"logits": np.zeros((1, 4, 5), np.float32)}, ROWS[1:], preprocessor)
    assert kept["mask"].tolist() == [[1]]  # [CLS] new ##ish [SEP]
    metric = entity_f1(LABELS)
    assert metric(TASK.decode(kept, LABELS), TASK.references(ROWS[1:], LABELS)) == 0.0


def test_targets_follow_the_words_that_are_read() -> None:
    references = TASK.references(ROWS, LABELS)
    targets = TASK.targets(references, encoder().tokens(ROWS))
    assert [t.tolist() for t in targets] == [[0, 3], [1, 2, 0, 0]]
    cut = TASK.targets(references, encoder(4).tokens(ROWS))
    assert [t.tolist() for t in cut] == [[0, 3], [1]]


def test_classes_close_over_begin_and_inside() -> None:
    rows = [{"tokens": ["a"], "tags": ["I-x"]}, {"tokens": ["b"], "tags": ["O"]}]
    assert TASK.classes(rows) == ["O", "B-x", "I-x"]
    rows.append({"tokens": ["c"], "tags": ["S-y"]})
    assert TASK.classes(rows) == ["O", *(f"{p}-{kind}" for p in "BEIS" for kind in "xy")]


def test_unequal_lengths_and_unknown_tags_are_named() -> None:
    with pytest.raises(InputError, match="2 tokens and 1 tags"):
        TASK.references([{"tokens": ["a", "b"], "tags": ["O"]}], LABELS)
    with pytest.raises(InputError, match="did you mean 'B-city'"):
        TASK.references([{"tokens": ["a"], "tags": ["B-cty"]}], LABELS)
