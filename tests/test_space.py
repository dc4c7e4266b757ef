"""What a user may write under ``tune``: each form, each fault in one line."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.space import Choices, Range

RECIPE = {
    "name": "x",
    "task": "image-classification",
    "teacher": "t",
    "data": {"train": "a", "test": "b"},
}


def read(**tune: Any) -> recipes.Tune:
    found = recipes.validate({**RECIPE, "tune": tune}, "recipe.yaml").tune
    assert found is not None
    return found


def test_ranges_choices_and_sections_of_a_recipe() -> None:
    found = read(
        trials=50,
        timeout="30 min",
        jobs=2,
        space={
            "temperature": {"low": 1, "high": 8, "log": True},
            "epochs": {"low": 4, "high": 12},
            "method": ["softened_kl", "dist"],
            "hard_weight": [0, 0.5],
            "student": [{"layers": [0, 5], "vocabulary": "trim"}, {"layers": [0]}],
        },
    )
    assert (found.trials, found.timeout, found.jobs) == (50, 1800.0, 2)
    assert found.space == {
        "temperature": Range(1.0, 8.0, log=True),
        "epochs": Range(4, 12, whole=True),
        "method": Choices(("softened_kl", "dist")),
        "hard_weight": Choices((0.0, 0.5)),
        "student": Choices(({"layers": [0, 5], "vocabulary": "trim"}, {"layers": [0]})),
    }
    assert read().space is None
    assert recipes.validate(RECIPE, "recipe.yaml").tune is None


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"trials": 0}, "tune.trials: Input should be greater than or equal to 1"),
        ({"trails": 9}, "unknown key 'tune.trails' .did you mean 'trials'"),
        ({"timeout": "soon"}, "'soon' is not a duration; write it as 30 min"),
        ({"space": {}}, "name what is searched"),
        ({"space": ["temperature"]}, "name what is searched"),
        ({"space": {"temprature": [1]}}, "'temprature' .did you mean 'temperature'.*learning_rate"),
        ({"space": {"temperature": {"low": 8, "high": 2}}}, "range is empty, low 8"),
        ({"space": {"temperature": {"low": 2, "high": 2}}}, "range is empty"),
        ({"space": {"temperature": {"low": 0, "high": 2}}}, "temperature: .*greater than 0"),
        ({"space": {"hard_weight": {"low": 0, "high": 1, "log": True}}}, "begins above 0"),
        ({"space": {"temperature": {"low": 1}}}, "a range has low and high"),
        ({"space": {"temperature": {"low": 1, "hi": 2}}}, "unknown key 'hi'.*'high'"),
        ({"space": {"temperature": {"low": 1, "high": 2, "log": 3}}}, "log is true or false"),
        ({"space": {"epochs": {"low": 1.5, "high": 4}}}, "epochs: .*integer"),
        ({"space": {"temperature": 3}}, "write {low: 1, high: 8} or a list"),
        ({"space": {"method": {"low": 1, "high": 2}}}, "write a list of values"),
        ({"space": {"method": []}}, "nothing to choose from"),
        ({"space": {"method": ["dist", "dist"]}}, "dist is listed twice"),
        ({"space": {"student": [{"layrs": [0]}]}}, "unknown key 'student.layrs'"),
        ({"space": {"student": [{"layers": []}]}}, "layers is empty"),
    ],
)
def test_a_fault_is_one_line_with_its_place(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(**tune)
    assert str(raised.value).startswith("recipe.yaml: ") and "\n" not in str(raised.value)


def test_options_stand_over_the_recipe_and_keep_its_space() -> None:
    recipe = recipes.validate({**RECIPE, "tune": {"space": {"temperature": [1, 2]}}}, "r")
    found = recipes.with_tune(recipe, {"trials": 7, "timeout": "90"}).tune
    assert found is not None and (found.trials, found.timeout) == (7, 90.0)
    assert found.space == {"temperature": Choices((1.0, 2.0))}
    with pytest.raises(InputError, match=r"^--trials: .*\(got 0\)"):
        recipes.with_tune(recipe, {"trials": 0})


@pytest.mark.parametrize("seeds", [0, 101, "three"])
def test_seeds_are_a_small_count(seeds: Any) -> None:
    assert recipes.validate({**RECIPE, "seeds": 3}, "r").seeds == 3
    with pytest.raises(InputError, match="seeds"):
        recipes.validate({**RECIPE, "seeds": seeds}, "r")
