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


def test_the_feed_forward_goes_first_then_the_heads_then_the_layers() -> None:
    whole = cost(TEACHER)
    assert pick(whole).shape == TEACHER
    thinner = pick(whole - 1).shape
    assert (thinner.layers, thinner.heads) == (6, 12) and 768 <= thinner.intermediate < 1536
    narrow = pick(cost(replace(TEACHER, intermediate=768)) - 1).shape
    assert (narrow.layers, narrow.heads) == (6, 11) and narrow.intermediate >= 64 * 11
    third = replace(TEACHER, heads=4, intermediate=256)
    assert pick(cost(third)).shape == third
    fewer = pick(cost(third) - 1).shape
    assert (fewer.layers, fewer.heads) == (5, 4)
    last = replace(third, layers=1)
    assert pick(cost(last)).shape == last
    assert pick(cost(last) - 1).shape.heads == 3


def test_an_embedding_of_its_own_width_goes_before_the_feed_forward() -> None:
    teacher = replace(TEACHER, embedding=384)
    limit = cost(teacher) - 1
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
    whole = cost(TEACHER)
    assert "the teacher's own shape fits" in pick(whole).why
    assert "the feed-forward gives way before the width" in pick(whole - 1).why
    assert "every layer is kept" in pick(whole / 3).why
    assert "6 layers do not fit even at a third of the width" in pick(whole / 20).why
    factorised = replace(TEACHER, embedding=384)
    assert "embedding gives way" in pick(cost(factorised) - 1, factorised).why
