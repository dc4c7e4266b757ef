"""The shape under a limit: the first that fits, in the order that is stated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import InputError
from edgekd.search.shape import Choice, Shape, candidates, choose

TEACHER = Shape(layers=6, heads=12, head_size=32, intermediate=1536)


def cost(shape: Shape) -> int:
    """Weights of an encoder with 4,000 pieces: written out, independent of any model."""
    embedding = shape.embedding or shape.hidden
    project = embedding * shape.hidden if shape.embedding else 0
    layer = 4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate
    return 4000 * embedding + project + shape.layers * layer


def pick(limit: float, teacher: Shape = TEACHER) -> Choice:
    return choose(teacher, cost, limit, lambda value: f"{value:,.0f} weights")


def test_layers_go_first_then_the_feed_forward_then_the_heads() -> None:
    whole = cost(TEACHER)
    assert pick(whole).shape == TEACHER
    assert pick(whole - 1).shape == replace(TEACHER, layers=5)
    two = cost(replace(TEACHER, layers=2))
    assert pick(two).shape == replace(TEACHER, layers=2)
    gave = pick(two - 1).shape
    assert (gave.layers, gave.heads) == (2, 12) and 768 <= gave.intermediate < 1536
    narrow = pick(cost(replace(TEACHER, layers=2, intermediate=768)) - 1).shape
    assert narrow.layers == 2 and narrow.heads < 12
    assert 64 * narrow.heads <= narrow.intermediate <= 128 * narrow.heads


def test_an_embedding_of_its_own_width_goes_before_the_feed_forward() -> None:
    teacher = replace(TEACHER, embedding=384)
    limit = cost(replace(teacher, layers=2)) - 1
    found = pick(limit, teacher).shape
    assert found.embedding is not None and 128 <= found.embedding < 384
    assert found.intermediate == 1536


@given(st.integers(1, 12), st.integers(1, 16), st.integers(8, 64), st.floats(0.02, 1.2))
def test_what_is_chosen_fits_and_more_room_is_never_worse(
    layers: int, heads: int, size: int, share: float
) -> None:
    teacher = Shape(layers, heads, size, 4 * heads * size)
    order = list(candidates(teacher))
    limit = share * cost(teacher)
    try:
        choice = pick(limit, teacher)
    except InputError:
        assert min(map(cost, order)) > limit
        return
    assert choice.cost == cost(choice.shape) <= limit
    more = pick(limit * 1.3, teacher)
    assert order.index(more.shape) <= order.index(choice.shape)
    assert choice.why.count("\n") == 0 and str(choice.shape.layers) in choice.why


def test_every_candidate_is_a_part_of_the_teacher() -> None:
    for shape in candidates(TEACHER):
        assert 1 <= shape.layers <= 6 and 1 <= shape.heads <= 12
        assert 1 <= shape.intermediate <= 1536 and shape.head_size == 32


def test_an_impossible_limit_names_the_smallest_reachable() -> None:
    smallest = min(map(cost, candidates(TEACHER)))
    with pytest.raises(InputError, match=rf"smallest reachable has {smallest:,} weights \(1 of 6"):
        pick(smallest - 1)
    assert pick(smallest).cost == smallest


def test_why_says_what_gave_way() -> None:
    assert "layers are dropped first" in pick(cost(TEACHER) - 1).why
    assert "the teacher's own shape fits" in pick(1e12).why
    two = cost(replace(TEACHER, layers=2))
    assert "the feed-forward gave way first" in pick(two - 1).why
    assert "heads gave way" in pick(two / 3).why
