"""Which limits a run holds a bundle against: the recipe's, the profile's, and the cap of both."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.pipeline.document import _limits
from edgekd.profiles import Profile
from edgekd.sections import Budget

MB = 1_000_000


def profile(**values: Any) -> Profile:
    return Profile(name="p", title="p", target="onnx", where="host", **values)


@pytest.mark.parametrize(
    ("recipe", "own", "memory"),
    [
        ({}, {"memory_cap": "50 MB"}, 50 * MB),
        ({"memory": "20 MB"}, {"memory_cap": "50 MB"}, 20 * MB),
        ({"memory": "80 MB"}, {"memory_cap": "50 MB"}, 50 * MB),  # a recipe cannot lift it
        ({}, {"memory_cap": "50 MB", "budget": {"memory": "30 MB"}}, 30 * MB),
        ({"memory": "80 MB"}, {"budget": {"memory": "30 MB"}}, 80 * MB),
        ({}, {}, None),
    ],
)
def test_memory_is_never_allowed_above_the_profiles_cap(
    recipe: dict[str, str], own: dict[str, Any], memory: int | None
) -> None:
    assert _limits(Budget(**recipe), profile(**own)).get("memory") == memory


def test_the_recipe_goes_before_the_profile() -> None:
    limits = _limits(Budget(size="2 MB"), profile(budget={"size": "1 MB", "latency": "5 ms"}))
    assert limits == {"size": 2 * MB, "latency": 5.0}
