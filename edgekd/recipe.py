"""The YAML file a user writes, as pydantic models.

Unknown keys are errors that name the nearest valid key. ``${NAME}`` stands for an environment
variable. Sizes read ``6 MB``, shares read ``98.5%`` or ``0.985``, durations ``5 ms``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from edgekd import space, tasks
from edgekd.errors import EdgekdError, InputError, nearest

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(value: Any) -> int:
    """``6 MB`` -> 6,000,000; ``6 MiB`` -> 6,291,456; a bare number is bytes."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([kmg]?i?b)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a size; write it as 6 MB")
    return round(float(match[1]) * _UNITS[match[2] or "b"])


def parse_share(value: Any) -> float:
    """``98.5%`` -> 0.985."""
    text = str(value).strip()
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"'{value}' is not a share; write it as 98.5% or 0.985") from None


def parse_parameters(value: Any) -> float:
    """``12%`` -> 0.12, a share of the teacher's; ``2M`` -> 2,000,000 parameters."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([km%]?)\s*", str(value).lower().replace(",", ""))
    if not match or (match[2] == "%" and float(match[1]) > 100):
        raise ValueError(f"'{value}' is neither a share nor a number; write it as 12% or 2M")
    return float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "%": 0.01}[match[2]]


def parse_milliseconds(value: Any) -> float:
    """``5 ms`` -> 5.0; ``0.5 s`` -> 500.0."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(ms|s)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a duration; write it as 5 ms")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def parse_seconds(value: Any) -> float:
    """``30 min`` -> 1800.0; a bare number is seconds."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(s|min|h)?\s*", str(value).lower())
    if not match:
        raise ValueError(f"'{value}' is not a duration; write it as 30 min")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2] or "s"]


def parse_factor(value: Any) -> float:
    """``5x`` -> 5.0."""
    try:
        return float(str(value).strip().lower().removesuffix("x").removesuffix("×"))
    except ValueError:
        raise ValueError(f"'{value}' is not a factor; write it as 5x") from None


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Share = Annotated[float, BeforeValidator(parse_share), Field(ge=0)]
Milliseconds = Annotated[float, BeforeValidator(parse_milliseconds), Field(gt=0)]
Factor = Annotated[float, BeforeValidator(parse_factor), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]
Parameters = Annotated[float, BeforeValidator(parse_parameters), Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(_Section):
    """How one model is trained; the student and its control share every value."""

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Positive = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06  # share of all steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    max_grad_norm: Positive = 1.0
    keep: Literal["last", "best"] = "last"  # best: the epoch that scores best on held-out rows

    @model_validator(mode="after")
    def _whole_parts(self) -> Training:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.gradient_accumulation}"
                " equal parts (gradient_accumulation)"
            )
        return self


class Control(_Section):
    """How student-no-kd may differ: the best of several learning rates, on held-out rows."""

    learning_rates: Annotated[list[Positive], Field(min_length=1)]


class Distill(Training):
    """Distillation: the objective beside the training values."""

    temperature: Positive = 2.0
    method: str | None = None  # the loss that soft_weight weighs; the task's own by default
    # Of a distribution over a vocabulary: the likeliest tokens that are stored, 0 is all.
    top_k: Annotated[int, Field(ge=0)] | None = None
    soft_weight: Weight = 1.0
    hard_weight: Weight = 0.0
    hidden_weight: Weight = 0.0  # hidden states of matched layers
    attention_weight: Weight = 0.0  # where the last layer looks
    relation_weight: Weight = 0.0  # MiniLM relations of the last layer
    embedding_weight: Weight = 0.0  # direction of the mean-pooled embedding
    contrastive_weight: Weight = 0.0  # which of the batch's embeddings is meant
    similarity_weight: Weight = 0.0  # how alike the batch's embeddings are to each other
    layer_map: list[tuple[int, int]] | None = None  # (student, teacher), counted from 0
    control: bool | Control = True  # train student-no-kd at the same budget

    @property
    def weights(self) -> dict[str, float]:
        return {k: v for k, v in self.model_dump().items() if k.endswith("_weight")}

    @model_validator(mode="after")
    def _some_weight(self) -> Distill:
        if not sum(self.weights.values()):
            raise ValueError(
                "soft_weight and the other weights are all 0: nothing would be learned"
            )
        return self


class Teacher(_Section):
    """A fine-tuned ``model``, or a ``base`` / ``config`` that ``fit`` trains on the data first."""

    model: str | None = None
    base: str | None = None
    config: dict[str, Any] | None = None
    vocabulary: Annotated[int, Field(ge=300)] | None = None  # pieces learned from the text
    revision: str | None = None
    fit: Training = Training(epochs=3, learning_rate=5e-5)

    @model_validator(mode="after")
    def _one_source(self) -> Teacher:
        if sum(x is not None for x in (self.model, self.base, self.config)) != 1:
            raise ValueError(
                "give exactly one of model (fine-tuned), base or config (to be fitted)"
            )
        if self.vocabulary is not None and self.config is None:
            raise ValueError("vocabulary goes with config; a model has its own tokenizer")
        return self


class Augment(_Section):
    """Variants of the training rows, made anew of each row's content.

    Text: mask, delete, swap, window. Images: shift, rotate, noise, erase. Audio: shift, gain,
    noise, speed. All that suit the task's input by default.
    """

    copies: Count = 1  # of each row
    operations: list[str] | None = None


class Data(_Section):
    """Where the rows are and which columns play which role."""

    train: str
    test: str
    selection: str | None = None  # else held out of train where something is chosen
    unlabelled: str | None = None  # the teacher labels it
    augment: Augment | None = None  # variants of training rows, which the teacher labels too
    served: str | None = None  # what production sees, unlabelled: does it look like train?
    text: str | None = None
    text_pair: str | None = None
    tokens: str | None = None
    tags: str | None = None
    image: str | None = None
    audio: str | None = None
    label: str | None = None
    labels: list[str] | None = None  # the order that integer labels mean
    max_length: Annotated[int, Field(ge=2)] | None = None
    allow_overlap: bool = False
    allow_empty_classes: bool = False

    @property
    def columns(self) -> dict[str, str]:
        roles = ("text", "text_pair", "tokens", "tags", "image", "audio", "label")
        return {role: getattr(self, role) for role in roles if getattr(self, role)}


class Student(_Section):
    """From the teacher (layers copied, width reduced, vocabulary trimmed), or a model or config.

    ``params`` (at most 1 is a share of the teacher's) or ``size_mb`` have the shape chosen.
    """

    layers: list[Annotated[int, Field(ge=0)]] | None = None  # of the teacher, counted from 0
    hidden_size: Count | None = None  # whole heads: a multiple of the teacher's head size
    heads: Count | None = None
    intermediate_size: Count | None = None
    embedding_size: Count | None = None  # where the family embeds at a width of its own
    vocabulary: Literal["keep", "trim"] | None = None  # unset: trimmed where a limit is given
    params: Parameters | None = None
    size_mb: Positive | None = None  # of the bundle at the smallest precision of the targets
    model: str | None = None
    config: dict[str, Any] | None = None

    @property
    def limited(self) -> bool:
        """Whether the shape is to be chosen."""
        return self.params is not None or self.size_mb is not None

    @property
    def widths(self) -> dict[str, int]:
        """The sizes that are asked for beside the layers."""
        names = ("hidden_size", "heads", "intermediate_size", "embedding_size")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if sum(x is not None for x in (self.layers, self.model, self.config)) > 1:
            raise ValueError("give one of layers (of the teacher), model or config")
        if self.layers is not None and not self.layers:
            raise ValueError("layers is empty; name at least one of the teacher's layers")
        if self.params is not None and self.size_mb is not None:
            raise ValueError("give one of params and size_mb")
        explicit = ["layers"] * (self.layers is not None) + list(self.widths)
        source = "model" if self.model is not None else "config" if self.config is not None else ""
        if self.limited and (explicit or source):
            limit = "params" if self.params is not None else "size_mb"
            raise ValueError(f"{limit} has the shape chosen; drop it, or {source or explicit[0]}")
        if source and self.widths:
            raise ValueError(f"{explicit[0]} reduces the teacher's width; drop it, or {source}")
        return self


class Stage(_Section):
    """One of several stages: a student, and how it learns from the stage before.

    With a ``task`` (fill-mask), ``teacher`` and ``data`` of its own it learns the language first,
    and the next stage's student starts from its weights.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    student: Student = Student()
    distill: Distill = Distill()
    task: str | None = None
    teacher: Teacher | None = None
    data: Data | None = None

    @model_validator(mode="after")
    def _whole(self) -> Stage:
        if len({self.task is None, self.teacher is None, self.data is None}) > 1:
            raise ValueError("a stage has task, teacher and data of its own, or none of them")
        return self


# Settings that a search may change, beside the student's shape.
SEARCHED = (
    "temperature",
    "method",
    *(name for name in Distill.model_fields if name.endswith("_weight")),
    "learning_rate",
    "epochs",
    "batch_size",
    "weight_decay",
    "warmup",
    "schedule",
)


class Tune(_Section):
    """Settings searched on rows held out of the training data, before the student is trained."""

    trials: Count = 30  # in all, the recipe's own setting among them
    timeout: Seconds | None = None  # no trial is begun after it
    jobs: Count = 1  # processes
    epochs: Count | None = None  # at most, of one trial
    rows: Count | None = None  # training rows of one trial; all by default
    space: dict[str, Any] | None = None  # see edgekd.space; a default one where absent

    @field_validator("space", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        fields = {name: Distill.model_fields[name] for name in SEARCHED}
        known: dict[str, TypeAdapter[Any]] = {
            name: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
            for name, field in fields.items()
        }
        known["student"] = TypeAdapter(Student)
        return None if value is None else space.parse(value, known)


class Target(_Section):
    """One export target; unset values are the exporter's defaults."""

    precisions: list[str] = []  # "auto" is the fastest within max_drop, found on the selection
    max_drop: Share = 0.01  # absolute, of the main metric, against the float bundle
    batch: Count | None = None
    lengths: list[Count] = []
    deployment: str | None = None
    options: dict[str, Any] = {}


class Budget(_Section):
    """What the device allows. Every line becomes a row of the verdict."""

    retained: Share | None = None  # at least, of the teacher's main metric
    size: Bytes | None = None  # at most, files the runtime loads
    latency: Milliseconds | None = None  # at most, p50
    speedup: Factor | None = None  # at least, over the teacher's fp32 in the same runtime
    memory: Bytes | None = None  # at most, peak above the after-import baseline
    load: Milliseconds | None = None  # at most


class Recipe(_Section):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: str
    teacher: Teacher
    data: Data
    student: Student = Student()
    distill: Distill = Distill()
    stages: list[Stage] = []  # teacher -> assistant -> student; the last one is the student
    tune: Tune | None = None  # searched first, where it is given
    targets: dict[str, Target] = {"onnx": Target()}
    profiles: list[str] = ["host"]
    budget: Budget = Budget()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    seeds: Annotated[int, Field(ge=1, le=100)] = 1  # of student and control: seed, seed + 1, …
    license: str | None = None
    author: str | None = None  # both travel into the packages that carry metadata

    @model_validator(mode="after")
    def _whole_stages(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        taken = {"teacher", "student-no-kd", "bundles", "signals", "stages", "partial", "seeds"}
        if len(set(names)) < len(names) or taken & set(names) or "student" in names[:-1]:
            raise ValueError("stages need names of their own, and no earlier one is the student")
        if self.stages and (self.stages[-1].task or self.tune):
            raise ValueError("the last of stages is the student; it has no task, and no tune")
        return self

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
    try:
        methods = tasks.get(recipe.task).methods
    except EdgekdError as error:
        raise InputError(f"{where}: {error}") from error
    method = recipe.distill.method
    if recipe.task == "fill-mask" and recipe.targets:
        raise InputError(
            f"{where}: fill-mask is what a student learns before its task, and is not deployed; say"
            " 'targets: {}', or make it one of stages"
        )
    top_k = recipe.distill.top_k
    if top_k is not None and not tasks.get(recipe.task).over_vocabulary:
        raise InputError(f"{where}: distill.top_k is for vocabularies, not for {recipe.task}")
    if top_k is not None and method not in (None, methods[top_k == 0]):
        raise InputError(f"{where}: distill.method {method} does not go with top_k {top_k}")
    if method is not None and method not in methods:
        raise InputError(
            f"{where}: distill.method: '{method}' does not fit {recipe.task}"
            f"{nearest(method, methods)}; it has {', '.join(methods)}"
        )
    return recipe


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
