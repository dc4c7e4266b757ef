"""Metrics against scikit-learn's, decoding, and labels that a model does not know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from edgekd import tasks
from edgekd.errors import InputError

LABELS = ("a", "b", "c", "d")
decisions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(decisions)
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    decoded, references = zip(*pairs, strict=True)
    accuracy, macro_f1 = tasks.get("text-classification").metrics(LABELS)
    assert accuracy(decoded, references) == pytest.approx(accuracy_score(references, decoded))
    expected = f1_score(references, decoded, average="macro", zero_division=0)
    assert macro_f1(decoded, references) == pytest.approx(expected)


@given(decisions, st.integers(0, 2**32 - 1))
def test_a_metric_of_resampled_rows_is_a_function_of_weighted_sums(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    """The law that the bootstrap rests on."""
    decoded, references = (np.array(side) for side in zip(*pairs, strict=True))
    picked = np.random.default_rng(seed).integers(0, len(pairs), len(pairs))
    weights = np.bincount(picked, minlength=len(pairs))
    for metric in tasks.get("image-classification").metrics(LABELS):
        directly = metric(decoded[picked].tolist(), references[picked].tolist())
        by_sums = metric.value(weights @ metric.statistics(decoded, references))
        assert float(by_sums) == pytest.approx(directly)


def test_decoding_and_probabilities_agree_at_extreme_logits() -> None:
    task = tasks.get("text-classification")
    outputs = {"logits": np.array([[1e4, -1e4, 0.0, 1.0], [0.0, 0.0, 0.0, 0.5]], np.float32)}
    found = task.decisions(outputs, [0, 3])
    assert found is not None and np.isfinite(found[0]).all()
    chances = found[0]
    np.testing.assert_allclose(chances.sum(-1), 1)
    assert task.decode(outputs, LABELS) == chances.argmax(-1).tolist() == [0, 3]


def test_an_unknown_label_and_an_unknown_task_name_the_nearest() -> None:
    rows = [{"text": "x", "label": "card_arival"}]
    with pytest.raises(InputError, match="did you mean 'card_arrival'"):
        tasks.get("text-classification").references(rows, ["card_arrival", "refund"])
    with pytest.raises(InputError, match="did you mean 'text-classification'"):
        tasks.get("text-clasification")
