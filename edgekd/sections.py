"""The sections of a recipe, one model each; ``recipe.py`` puts them together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

from edgekd import space
from edgekd.quantities import (
    Bytes,
    Count,
    Factor,
    Milliseconds,
    Parameters,
    Positive,
    Seconds,
    Share,
    Weight,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(Section):
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
    processes: Annotated[int, Field(ge=1)] = 1  # that share each batch, on this machine
    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # auto: bf16 where the hardware has it
    # How often rare pieces of words are missing, so that their words are cut further.
    subword_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def parts(self) -> int:
        """In how many parts a batch is computed."""
        return self.gradient_accumulation * self.processes

    @model_validator(mode="after")
    def _whole_parts(self) -> Training:
        if self.batch_size % self.parts:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.parts} equal parts"
                " (gradient_accumulation × processes)"
            )
        if self.subword_dropout and self.batch_size == self.gradient_accumulation:
            raise ValueError(
                "subword_dropout draws how words are cut from the rows that are computed together,"
                " and here each row is computed alone; use a larger batch_size or a smaller"
                " gradient_accumulation"
            )
        return self


class Control(Section):
    """How student-no-kd may differ: the best of several learning rates, on held-out rows."""

    learning_rates: Annotated[list[Positive], Field(min_length=1)]


class Term(Section):
    """A loss by name: a weight, and beside it any of that loss's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    weight: Weight | None = None  # unset where another weight of the recipe is this loss's

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """``dist: 0.5`` is ``dist: {weight: 0.5}``."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"weight": value}
        if not isinstance(value, dict | Term):
            raise ValueError("write a weight, or {weight: 0.5} with settings of the loss")
        return value

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Distill(Training):
    """Distillation: the objective beside the training values."""

    temperature: Positive | None = None  # 2, or what the method's stored sample is made for: 1
    method: str | None = None  # the loss that soft_weight weighs; the task's own by default
    # Of a distribution over a vocabulary: how many tokens stand for it in the store, 0 is all.
    top_k: Annotated[int, Field(ge=0)] | None = None
    soft_weight: Weight = 1.0
    hard_weight: Weight = 0.0
    hidden_weight: Weight = 0.0  # hidden states of matched layers
    attention_weight: Weight = 0.0  # where the last layer looks, or those of layer_map
    relation_weight: Weight = 0.0  # MiniLM relations of the last layer
    embedding_weight: Weight = 0.0  # direction of the mean-pooled embedding
    contrastive_weight: Weight = 0.0  # which of the batch's embeddings is meant
    similarity_weight: Weight = 0.0  # how alike the batch's embeddings are to each other
    losses: dict[str, Term] = {}  # any others by name, and settings of all of them
    # Of hidden states and attention: (student, teacher), counted from 0.
    layer_map: Annotated[list[tuple[int, int]], Field(min_length=1)] | None = None
    control: bool | Control = True  # train student-no-kd at the same budget

    @property
    def weights(self) -> dict[str, float]:
        return {k: v for k, v in self.model_dump().items() if k.endswith("_weight")}

    @model_validator(mode="after")
    def _some_weight(self) -> Distill:
        named = [term.weight or 0.0 for term in self.losses.values()]
        if not sum([*self.weights.values(), *named]):
            raise ValueError(
                "soft_weight and the other weights are all 0: nothing would be learned"
            )
        return self


class Teacher(Section):
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


class Augment(Section):
    """Variants of the training rows, made anew of each row's content.

    Text: mask, delete, swap, window. Images: shift, rotate, noise, erase. Audio: shift, gain,
    noise, speed. All that suit the task's input by default.
    """

    copies: Count = 1  # of each row
    operations: list[str] | None = None


class Data(Section):
    """Where the rows are and which columns play which role."""

    train: str
    test: str
    selection: str | None = None  # else held out of train where something is chosen
    unlabelled: str | None = None  # the teacher labels it
    augment: Augment | None = None  # variants of training rows, which the teacher labels too
    signals: str | None = None  # a store that ``edgekd label`` began, or several runs share
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


class Student(Section):
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
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # unset: what it comes with

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


class Stage(Section):
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

    def check_follows(self, before: Stage) -> None:
        """Raise :class:`ValueError` where this stage would not use what ``before`` made."""
        where = f"the student of '{self.name}'"
        if before.task and self.task:
            raise ValueError(
                f"'{self.name}' would not start from what '{before.name}' learned, for both have a"
                " task of their own; drop one of them"
            )
        given = self.student.model_dump(exclude_none=True)
        chosen = [key for key in ("params", "size_mb", "model", "config") if key in given]
        if before.task and chosen:
            raise ValueError(
                f"{where} starts from the weights of '{before.name}', which {chosen[0]} would drop;"
                f" give {chosen[0]} to the student of '{before.name}'"
            )
        has, asked = before.student.layers, self.student.layers
        if has and asked and not self.task and max(asked) >= len(has):
            raise ValueError(
                f"{where} names layer {max(asked)}, but it is made of the model of '{before.name}',"
                f" which has {len(has)} (0 to {len(has) - 1}); count in that one's layers"
            )


# Settings that a search may change, beside the student's shape.
SEARCHED = (
    "temperature",
    "method",
    *(name for name in Distill.model_fields if name.endswith("_weight")),
    "losses",
    "learning_rate",
    "epochs",
    "batch_size",
    "weight_decay",
    "warmup",
    "schedule",
    "subword_dropout",
)


class Tune(Section):
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
        known["temperature"] = TypeAdapter(Positive)  # a number, not the method's own
        known["student"] = TypeAdapter(Student)
        return None if value is None else space.parse(value, known)


class Target(Section):
    """One export target; unset values are the exporter's defaults."""

    precisions: list[str] = []  # "auto" is the fastest within max_drop, found on the selection
    max_drop: Share = (
        0.01  # absolute, of the main metric, against float: no more counted or to fear
    )
    batch: Count | None = None
    lengths: list[Count] = []
    deployment: str | None = None
    options: dict[str, Any] = {}


class Budget(Section):
    """What the device allows. Every line becomes a row of the verdict."""

    retained: Share | None = None  # at least, of the teacher's main metric
    size: Bytes | None = None  # at most, files the runtime loads
    latency: Milliseconds | None = None  # at most, p50
    speedup: Factor | None = None  # at least, over the teacher's fp32 in the same runtime
    memory: Bytes | None = None  # at most, peak above the after-import baseline
    load: Milliseconds | None = None  # at most
