"""``report.json``: the models of ``edgekd.report/1``.

Sizes are in bytes, times in milliseconds (stages in seconds), shares between 0 and 1. Every
number that was not obtained is None, and the row that lacks it says why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekd import __version__
from edgekd.errors import InputError
from edgekd.report.check import Check
from edgekd.report.folder import Folder
from edgekd.report.precision import Search
from edgekd.report.tuning import Tuning
from edgekd.report.verdict import Verdict

SCHEMA = "edgekd.report/1"

# How a number was obtained; see Evidence in the glossary of the report itself.
Evidence = Literal["measured", "reference", "published", "projected"]

Interval = Annotated[tuple[float, float], Field(description="95 % interval: low, high")]


class Part(BaseModel):
    """A misspelt field is an error: a number must not get lost on its way into the report."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Scores(Part):
    """What :class:`edgekd.evaluate.Evaluation` holds; ``**evaluation.to_dict()`` fits."""

    n: int | None = None  # examples
    metrics: dict[str, float] = {}  # the task's main metric first
    metrics_ci: dict[str, Interval] = {}
    retained: float | None = None
    retained_ci: Interval | None = None
    agreement: float | None = None
    ece: float | None = None


class Model(Scores):
    """A trained model in PyTorch: ``teacher``, ``student-no-kd`` or ``student``."""

    id: str
    params: int
    size_bytes: int  # its weights on disk
    source: str | None = None  # where it came from: an id, "2 of 6 layers, vocabulary trimmed"
    seeds: int = 1
    by_seed: list[float] = []  # its main metric with each; the scores above are the first one's


class Latency(Part):
    """Of one inference, in milliseconds. A projection is a range and has no p50."""

    p50: float | None = None
    p50_ci: Interval | None = None
    p90: float | None = None  # None below 64 samples
    p95: float | None = None  # None below 130
    p99: float | None = None  # None below 662
    low: float | None = None
    high: float | None = None
    samples: int | None = None


class Setting(Part):
    """One bundle on one device with so many threads; times in ms."""

    threads: int
    device: str
    dtype: str | None = None  # the model that ran: its dtype in a browser, else its precision
    download_bytes: int | None = None  # of the model
    engine_bytes: int | None = None  # of the runtime
    engine_ms: float | None = None
    download_ms: float | None = None
    create_ms: float | None = None
    first_ms: float | None = None
    p50_ms: float | None = None
    p50_ci: tuple[float, float] | None = None
    memory_bytes: int | None = None
    missing: str | None = None  # why it did not run


class Bench(Part):
    """One bundle under one profile."""

    profile: str
    evidence: Evidence
    latency_ms: Latency | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_memory_bytes: int | None = None  # above the imports; in a browser the WASM heap alone
    runtime: str | None = None  # name and version; compared only with its equal
    threads: int | None = None
    inputs: str | None = None  # what was fed: "256 test sentences, batch 1"
    method: str | None = None  # of a projection, with its error; or the citation
    missing: str | None = None  # why there is no latency
    settings: list[Setting] = []  # the same bundle with other threads and devices
    details: dict[str, Any] = {}  # raw samples, fingerprint, throughput: kept, not rendered

    @model_validator(mode="after")
    def _honest(self) -> Self:
        latency = self.latency_ms
        if latency is None:
            if not self.missing:
                raise ValueError(f"profile {self.profile}: no latency and no reason in 'missing'")
        elif self.evidence == "projected":
            if latency.p50 is not None or latency.low is None or latency.high is None:
                raise ValueError(f"profile {self.profile}: a projection is a range, not a p50")
            if not self.method:
                raise ValueError(f"profile {self.profile}: a projection names its 'method'")
        elif latency.p50 is None:
            raise ValueError(f"profile {self.profile}: {self.evidence} latency without a p50")
        return self


class BundleRow(Scores):
    """One exported bundle; the teacher's own fp32 export is one of them."""

    path: str  # relative to the run directory
    model: str  # an id of ``models``
    target: str
    precision: str
    variant: str
    size_bytes: int  # the files that the runtime loads
    bundle_bytes: int  # the whole directory
    evidence: Evidence  # of the scores
    scored_on: str | None = None  # runtime and device that the scores are of
    checks: list[Check] = []  # the same rows in other runtimes
    bench: list[Bench] = []
    missing: str | None = None  # why there are no scores
    exact: dict[str, Any] = {}  # what Exporter.inspect counted: MACs, ops
    notes: list[str] = []

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if not self.metrics and not self.missing:
            raise ValueError(f"{self.path}: no metrics and no reason in 'missing'")
        return self


class Gain(Part):
    """What distillation bought: student minus student-no-kd on the main metric."""

    metric: str
    value: float  # the mean over seeds
    ci: Interval  # over examples, and over seeds where there are several
    p_value: float | None = None  # McNemar, exact; of one seed
    seeds: int = 1
    by_seed: list[float] = []  # the gain of each


class Shape(Part):
    """A student whose shape was chosen under a limit; ``why`` is one sentence."""

    why: str
    layers: list[int]  # of the teacher, counted from 0
    hidden_size: int | None = None  # None: the teacher's, as for those below
    heads: int | None = None
    intermediate_size: int | None = None
    embedding_size: int | None = None
    vocabulary: str | None = None
    params: int  # predicted; the row of ``models`` has those of the model that was built
    precision: str  # that the size is estimated at: the targets' smallest
    estimated_bytes: int
    built_bytes: int | None = None  # the bundle's; None where none has that precision


class Data(Part):
    """What went in, and what was taken out before."""

    source: str | None = None
    rows: dict[str, int]  # split -> rows used: train, selection, test, unlabelled
    classes: int | None = None
    dropped_overlaps: int = 0  # training rows that also stand in the test data
    duplicates: int = 0  # repeated training rows


class FarRow(Part):
    row: str
    distance: float  # to the nearest training row, in usual distances between training rows


class Shift(Part):
    """Served rows against training rows on the teacher's features, by the energy distance."""

    statistic: float  # energy coefficient: 0 alike, 1 worlds apart
    p_value: float  # by permutation
    rows: tuple[int, int]  # training, served
    found: bool
    farthest: list[FarRow] = []

    @property
    def sentence(self) -> str:
        """Without the rows themselves: they are private, and a model card repeats it."""
        return (
            "the served rows do not look like the training data (energy coefficient"
            f" {self.statistic:.3f}, p = {self.p_value:.3f}, {self.rows[0]} training and"
            f" {self.rows[1]} served rows on the teacher's features): the test figures may not hold"
            " for them"
        )

    @property
    def lines(self) -> list[str]:
        """The served rows that are farthest from the training data, for whoever owns them."""
        return [
            f"{far.distance:.1f} times as far from a training row as those lie apart: {far.row}"
            for far in self.farthest
        ]


class Stage(Part):
    name: str
    seconds: float
    reused: bool = False  # an earlier run's result; seconds are what it took then


class BlindSpot(Part):
    """:class:`edgekd.evaluate.ClassErrors`: one class, what the teacher and student get wrong."""

    label: str
    examples: int
    teacher_errors: int
    student_errors: int
    inherited: int
    mistaken_for: str | None = None


class Bin(Part):
    confidence: float
    accuracy: float
    count: int


class Calibration(Part):
    """Reliability of one model or bundle, in bins of equal mass."""

    id: str
    ece: float
    bins: list[Bin]


class Curve(Part):
    """One line of a training plot: (step, value) pairs."""

    model: str
    name: str  # "loss", "accuracy"
    points: list[tuple[float, float]]


class Document(Part):
    """``report.json``. Everything after ``verdict`` may be empty."""

    name: str
    task: str
    models: list[Model]
    bundles: list[BundleRow]
    verdict: Verdict
    chosen: str | None = None  # path of the bundle that the verdict is about
    folders: list[Folder] = []  # the first of each opens unless another is asked for
    searches: list[Search] = []
    student: Shape | None = None
    tuning: Tuning | None = None
    gain: Gain | None = None
    data: Data | None = None
    shift: Shift | None = None  # where the recipe names served rows
    blind_spots: list[BlindSpot] = []
    calibration: list[Calibration] = []
    curves: list[Curve] = []
    stages: list[Stage] = []
    settings: dict[str, Any] = {}  # what was chosen or resolved: temperature, layers, …
    environment: dict[str, Any] = {}
    recipe: str | None = None  # the YAML text
    warnings: list[str] = []
    created: str | None = None  # ISO 8601
    schema_: str = Field(SCHEMA, alias="schema")
    edgekd: str = __version__

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    def model(self, name: str) -> Model | None:
        return next((model for model in self.models if model.id == name), None)

    def bundle(self, path: str | None) -> BundleRow | None:
        return next((bundle for bundle in self.bundles if bundle.path == path), None)

    @property
    def metric(self) -> str | None:
        """Name of the task's main metric."""
        rows: list[Scores] = [*self.models, *self.bundles]
        return next((name for row in rows for name in row.metrics), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, ``schema`` first."""
        values = self.model_dump(mode="json")
        return {"schema": values.pop("schema"), **values}

    def write(self, path: Path) -> None:
        """Write as JSON; an interrupted write leaves the earlier file."""
        partial = path.with_name(f"{path.name}.partial")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read ``report.json``; raise :class:`InputError` where it is absent or not one."""
        if not path.is_file():
            raise InputError(f"{path} is missing; `edgekd run RECIPE` writes it")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            schema = values.get("schema") if isinstance(values, dict) else None
            if schema != SCHEMA:
                raise InputError(f"{path} has schema {schema!r}, this edgekd reads {SCHEMA!r}")
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise InputError(f"{path}: {where}: {first['msg']}; run the recipe again") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}); run the recipe again") from error


def speedup(document: Document, bundle: BundleRow, bench: Bench) -> float | None:
    """How many times lower ``bench``'s p50 is than the teacher's fp32 export's.

    None unless both were measured under the same profile in the same runtime with the same
    threads: anything else compares two things at once.
    """
    if bench.evidence != "measured" or bench.latency_ms is None or not bench.latency_ms.p50:
        return None
    for row in document.bundles:
        if row.model != "teacher" or row.precision != "fp32" or row.target != bundle.target:
            continue
        for other in row.bench:
            same = (other.profile, other.runtime, other.threads) == (
                bench.profile,
                bench.runtime,
                bench.threads,
            )
            if same and other.evidence == "measured" and other.latency_ms:
                return (other.latency_ms.p50 or 0) / bench.latency_ms.p50 or None
    return None
