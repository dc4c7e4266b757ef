"""Retrieval metrics against scikit-learn and by hand; what a row should find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from edgekd import tasks
from edgekd.errors import InputError
from edgekd.tasks.retrieval import discounted_gain, reciprocal_rank

EMBEDDINGS, RANKING = tasks.get("feature-extraction"), tasks.get("text-ranking")


@given(st.integers(0, 2**31), st.integers(2, 30), st.integers(1, 3))
def test_ndcg_is_that_of_scikit_learn(seed: int, items: int, top: int) -> None:
    random = np.random.default_rng(seed)
    scores, grades = random.permutation(items).astype(float), random.integers(0, top + 1, items)
    if not grades.any():
        assert np.isnan(discounted_gain(scores, grades))
        return
    theirs = ndcg_score([2.0**grades - 1], [scores], k=10)
    assert discounted_gain(scores, grades) == pytest.approx(theirs)


@given(st.integers(0, 2**31), st.integers(2, 30))
def test_reciprocal_rank_of_one_relevant_item_is_average_precision(seed: int, items: int) -> None:
    random = np.random.default_rng(seed)
    scores, grades = random.permutation(items).astype(float), np.eye(items)[0]
    theirs = label_ranking_average_precision_score([grades], [scores])
    assert reciprocal_rank(scores, grades) == pytest.approx(theirs)


def test_a_constant_model_earns_the_worst_order() -> None:
    grades = np.array([1.0, 0, 0, 0])
    assert reciprocal_rank(np.zeros(4), grades) == 0.25
    assert discounted_gain(np.zeros(4), grades) == pytest.approx(1 / np.log2(5))


def test_embeddings_find_rows_of_their_label_and_never_themselves() -> None:
    angles = np.array([0.0, 0.1, 0.3, 0.5])
    decoded = EMBEDDINGS.decode({"embedding": np.stack([np.cos(angles), np.sin(angles)], 1)}, ())
    references = EMBEDDINGS.references([{"label": x} for x in "abab"], ())
    # By nearness: row 0 sees 1 2 3, row 1 sees 0 2 3, row 2 sees 1 3 0 (0.2 twice), row 3 sees 2 1 0.
    mrr, ndcg = EMBEDDINGS.metrics(())
    assert mrr(decoded, references) == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4)
    assert mrr.statistics(decoded, ["a", "a", "b", "c"])[2:, 1].tolist() == [
        0,
        0,
    ]  # nothing to find
    assert EMBEDDINGS.agree(decoded, decoded).all()
    assert EMBEDDINGS.correct(decoded, references).tolist() == [False] * 4
    own = EMBEDDINGS.truth([None] * 4, {"embedding": np.array(decoded)})
    assert mrr(decoded, own) == 1 and ndcg(decoded, own) == pytest.approx(1)
    with pytest.raises(InputError, match="no labels"):
        mrr(decoded, [None] * 4)


def test_ranking_is_scored_by_query() -> None:
    rows = [
        {"text": q, "text_pair": p, "label": grade}
        for q, p, grade in (("x", "a", "0"), ("y", "b", "2"), ("x", "c", "1"), ("y", "d", "0"))
    ]
    outputs = {"logits": np.array([[3.0], [1.0], [2.0], [0.0]])}
    decoded = RANKING.decode(RANKING.collect(outputs, rows, None), ())  # type: ignore[arg-type]
    references = RANKING.references(rows, ())
    mrr = RANKING.metrics(())[0]
    assert mrr.statistics(decoded, references).tolist() == [[0.5, 1], [1, 1]]
    assert RANKING.correct(decoded, references).tolist() == [False, True]
    turned = [(query, -score) for query, score in decoded]
    assert RANKING.agree(decoded, turned).tolist() == [False, False]
    assert [target.tolist() for target in RANKING.targets(references, None)] == [
        [0],
        [1],
        [0.5],
        [0],
    ]
    with pytest.raises(InputError, match="relevance 'good' is no number"):
        RANKING.references([{**rows[0], "label": "good"}], ())
