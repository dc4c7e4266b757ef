"""The YAML file a user writes, as pydantic models.

Unknown keys are errors that name the nearest valid key. ``${NAME}`` stands for an environment
variable. Sizes read ``6 MB``, shares read ``98.5%`` or ``0.985``, durations ``5 ms``.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from edgekd import tasks
from edgekd.errors import EdgekdError, InputError, nearest
from edgekd.sections import (
    Budget,
    Data,
    Distill,
    Section,
    Stage,
    Student,
    Target,
    Teacher,
    Tune,
)

# What a run writes under these names, so that no stage can have them.
RECORDS = {
    *("recipe", "data", "rehearsal", "teacher", "label", "objective", "control-rate"),
    *("student-no-kd", "untrained", "analysis", "shift", "tune"),
    *("stages", "partial", "seeds", "signals", "bundles"),
}


class Recipe(Section):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: str
    teacher: Teacher
    data: Data
    student: Student = Student()
    distill: Distill = Distill()
    stages: list[Stage] = Field(
        default_factory=list
    )  # teacher -> assistant -> student; the last one is the student
    tune: Tune | None = None  # searched first, where it is given
    targets: dict[str, Target] = Field(default_factory=lambda: {"onnx": Target()})
    profiles: list[str] = Field(default_factory=lambda: ["host"])
    budget: Budget = Budget()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    seeds: Annotated[int, Field(ge=1, le=100)] = 1  # of student and control: seed, seed + 1, …
    license: str | None = None
    author: str | None = None  # both travel into the packages that carry metadata

    @model_validator(mode="after")
    def _whole_stages(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        taken = RECORDS & set(names) or any(n.startswith(("untrained-", "label-")) for n in names)
        if len(set(names)) < len(names) or taken or "student" in names[:-1]:
            raise ValueError("stages need names of their own, and no earlier one is the student")
        if self.stages and (self.stages[-1].task or self.tune):
            raise ValueError("the last of stages is the student; it has no task, and no tune")
        for stage, following in pairwise(self.stages):
            following.check_follows(stage)
            if "control" in stage.distill.model_fields_set:
                raise ValueError(
                    f"'{stage.name}' has no control, which is of the last of stages alone; give"
                    " control to the distill of that one"
                )
        return self

    def of(self, stage: Stage) -> Recipe:
        """What one of ``stages`` is as a recipe of its own; without a task it has this one's rows."""
        if not (stage.task and stage.teacher and stage.data):
            own = {"name": stage.name, "student": stage.student, "distill": stage.distill}
            return self.model_copy(update={**own, "stages": []})
        return Recipe(
            name=stage.name,
            task=stage.task,
            teacher=stage.teacher,
            data=stage.data,
            student=stage.student,
            distill=stage.distill,
            targets={},
            profiles=[],
            seed=self.seed,
        )

    @model_validator(mode="after")
    def _served_lengths(self) -> Recipe:
        longest = max((n for target in self.targets.values() for n in target.lengths), default=0)
        if self.data.max_length and longest > self.data.max_length:
            raise ValueError(
                f"targets asks for the length {longest}, data.max_length cuts at"
                f" {self.data.max_length}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """``teacher: PATH`` and ``targets: [onnx]`` mean what they look like."""
        if isinstance(values, dict):
            values = dict(values)
            stages = values.get("stages")
            last = stages[-1] if isinstance(stages, list) and stages else None
            if isinstance(last, dict):
                if "student" in values or "distill" in values:
                    raise ValueError("student and distill stand in the last of stages")
                values |= {k: last[k] for k in ("student", "distill") if k in last}
            if isinstance(values.get("teacher"), str):
                values["teacher"] = {"model": values["teacher"]}
            if isinstance(values.get("targets"), str):
                values["targets"] = [values["targets"]]
            if isinstance(values.get("targets"), list):
                values["targets"] = {str(name): {} for name in values["targets"]}
            if isinstance(values.get("targets"), dict):
                values["targets"] = {k: v or {} for k, v in values["targets"].items()}
            if isinstance(values.get("profiles"), str):
                values["profiles"] = [values["profiles"]]
        return values


def with_tune(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """``recipe`` whose ``tune`` section says what ``options`` say; the space stays its own."""
    own = recipe.tune or Tune()
    try:
        given = Tune.model_validate({**own.model_dump(exclude={"space"}), **options})
    except ValidationError as error:
        raise InputError(f"--{_first_fault(error)}") from error
    return recipe.model_copy(update={"tune": given.model_copy(update={"space": own.space})})


def load(path: Path) -> Recipe:
    """Read, expand and validate a recipe; every fault is an :class:`InputError` of one line."""
    if not path.is_file():
        raise InputError(f"there is no recipe file {path}; 'edgekd init' writes one to start from")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})"
        ) from error
    if not isinstance(values, dict):
        raise InputError(
            f"{path} is empty or not a mapping; 'edgekd init' writes one to start from"
        )
    return validate(_expand(values, path), str(path))


def validate(values: dict[str, Any], where: str) -> Recipe:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(error)}") from error
    _check_objective(recipe, where)
    for stage in recipe.stages[:-1]:
        _check_objective(recipe.of(stage), f"{where}, stage '{stage.name}'")
    if recipe.task == "fill-mask" and recipe.targets:
        raise InputError(
            f"{where}: fill-mask is what a student learns before its task, and is not deployed; say"
            " 'targets: {}', or make it one of stages"
        )
    return recipe


def _check_objective(recipe: Recipe, where: str) -> None:
    """Refuse a task that there is not, and a method that it does not have."""
    try:
        methods = tasks.get(recipe.task).methods
    except EdgekdError as error:
        raise InputError(f"{where}: {error}") from error
    method, top_k = recipe.distill.method, recipe.distill.top_k
    if top_k is not None and not tasks.get(recipe.task).over_vocabulary:
        raise InputError(f"{where}: distill.top_k is for vocabularies, not for {recipe.task}")
    if top_k is not None and method not in (None, methods[top_k == 0]):
        raise InputError(f"{where}: distill.method {method} does not go with top_k {top_k}")
    if method is not None and method not in methods:
        raise InputError(
            f"{where}: distill.method: '{method}' does not fit {recipe.task}"
            f"{nearest(method, methods)}; it has {', '.join(methods)}"
        )


def _expand(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, path) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise InputError(
                f"{path} uses ${{{name}}}, which is not set; set the environment variable {name}"
                + (" to the folder that holds data/ and models/" if name == "EDGEKD_ASSETS" else "")
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", replace, value)


def _first_fault(error: ValidationError) -> str:
    """The first fault of a recipe in the user's words: where, what, and the nearest valid key."""
    faults = error.errors()
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        key = str(fault["loc"][-1])
        return f"unknown key '{where}'{nearest(key, known)}; valid here: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"the key '{where}' is missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    got = f" (got {given!r})" if isinstance(given, str | int | float | None) else ""
    return f"{where or 'recipe'}: {message}{got if message == fault['msg'] else ''}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in location:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        model = Target if field is None else field.annotation
        if isinstance(model, UnionType):  # a section that may be absent
            model = get_args(model)[0]
        if getattr(model, "__origin__", None) is dict:
            model = Target
    return list(getattr(model, "model_fields", {}))
