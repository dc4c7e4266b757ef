"""Multi-label classification, regression and question answering against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgekd import tasks
from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor

MANY, NUMBER = (
    tasks.get("text-classification/multi-label"),
    tasks.get("text-classification/regression"),
)
SPANS = tasks.get("question-answering")
CONTEXT = "The cat sat on the mat"


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_f1_is_that_of_scikit_learn(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    true = random.integers(0, 2, (rows, 3))
    true[0] = 1  # every class is present: the library counts an absent one as 0, we leave it out
    logits = random.normal(size=(rows, 3))
    decoded = MANY.decode({"logits": logits}, "abc")
    references = [tuple(row) for row in true.tolist()]
    for metric, average in zip(MANY.metrics("abc"), ("micro", "macro"), strict=True):
        theirs = f1_score(true, logits > 0, average=average, zero_division=0)
        assert metric(decoded, references) == pytest.approx(theirs)


def test_a_strange_label_is_named() -> None:
    rows = [{"text": "x", "labels": ["crad"]}]
    with pytest.raises(InputError, match="did you mean 'card'"):
        MANY.references(rows, ("card", "money"))


@given(st.integers(0, 2**31), st.integers(3, 30))
def test_correlations_are_those_of_scipy(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    said, true = random.integers(0, 5, rows) + 100.0, random.integers(0, 5, rows) + 100.0
    said[:2], true[:2] = (0, 9), (1, 2)  # neither is constant
    spearman, pearson, mse = NUMBER.metrics(())
    assert spearman(said, true) == pytest.approx(stats.spearmanr(said, true).statistic, abs=1e-9)
    assert pearson(said, true) == pytest.approx(stats.pearsonr(said, true).statistic, abs=1e-9)
    assert mse(said, true) == pytest.approx(((said - true) ** 2).mean())


def test_a_constant_answer_correlates_with_nothing() -> None:
    assert NUMBER.metrics(())[1]([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0


def encoder(max_length: int = 24) -> TextPreprocessor:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", *CONTEXT.split()]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return TextPreprocessor(tokenizer.to_str(), max_length=max_length)


def row(answer: str, begin: int | None = None) -> dict[str, object]:
    return {"text": "who", "text_pair": CONTEXT, "answers": [[answer, begin]]}


def test_an_answer_is_found_by_its_characters() -> None:
    rows, reader = [row("the mat"), row("The cat")], encoder()
    references = SPANS.references(rows, ())
    targets = SPANS.targets(references, reader.tokens(rows))
    assert [t.tolist() for t in targets] == [[0, 0, 0, 0, 1, 2], [1, 2, 0, 0, 0, 0]]
    width = reader.encode(rows)["input_ids"].shape[1]
    starts, ends = np.zeros((2, 2, width), np.float32)
    starts[0, 7], ends[0, 8] = 1, 1  # [CLS] who [SEP] the cat sat on the mat [SEP]
    starts[1, 4], ends[1, 3] = 2, 3  # an end before its start is no answer
    outputs = {"start_logits": starts, "end_logits": ends}
    decoded = SPANS.decode(SPANS.collect(outputs, rows, reader), ())
    assert decoded == [(15, 22), (0, 3)]
    f1, exact = SPANS.metrics(())
    assert exact(decoded, references) == 0.5  # "The" is no word that counts
    assert f1(decoded, references) == 0.5
    assert SPANS.correct(decoded, references).tolist() == [True, False]


def test_an_answer_that_was_cut_off_is_not_learned() -> None:
    rows = [row("mat")]
    flags = SPANS.targets(SPANS.references(rows, ()), encoder(max_length=7).tokens(rows))[0]
    assert set(flags.tolist()) == {-100}


def test_an_answer_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="does not stand in its context"):
        SPANS.references([row("cat", 0)], ())
