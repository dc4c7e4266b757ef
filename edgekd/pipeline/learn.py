"""The stages that make models: read the data, fit the teacher, label, distil, score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import data
from edgekd.errors import InputError
from edgekd.infer import forward, label_into, predict
from edgekd.pipeline import preflight, shape
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Done, fingerprint
from edgekd.preprocess import Row
from edgekd.recipe import Control, Training
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.distill.examples import Signals
    from edgekd.distill.trainer import Outcome
    from edgekd.distill.transfer import Taps, Transfer
    from edgekd.models import LoadedModel
    from edgekd.recipe import Distill, Student
    from edgekd.signals.store import SignalSpec, SignalStore

READING = (
    "edgekd.audio",
    "edgekd.blocks",
    "edgekd.data",
    "edgekd.media",
    "edgekd.preprocess",
    "edgekd.tasks",
    "edgekd.pipeline.context",
)
MODELS = (
    *READING,
    "edgekd.models",
    "edgekd.processors",
    "edgekd.infer",
    "edgekd.evaluate",
    "edgekd.pipeline.learn",
    "edgekd.pipeline.preflight",
)
TRAINING = (
    *MODELS,
    "edgekd.distill",
    "edgekd.signals",
    "edgekd.pipeline.shape",
    "edgekd.search.shape",
)
SOURCES = ("train", "test", "selection", "unlabelled", "served")


def read(context: Context) -> Done:
    """Read and check every row; the result counts them."""
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        labels = list(context.labels)
        if not recipe.data.allow_empty_classes and context.task.answer == "label" and labels:
            data.check_classes(context.train, labels, recipe.data.train)
        context.task.references(context.test, labels)
        seen = {data.content_key(row) for row in context.train}
        return {
            "labels": labels,
            "rows": {
                "train": len(context.train),
                "selection": len(context.selection),
                "test": len(context.test),
                "unlabelled": len(context.unlabelled),
            },
            "overlap": vars(context.overlap),
            "duplicates": len(context.train) - len(seen),
        }

    depends = {
        "task": recipe.task,
        # What the sources say, not where they lie: a moved folder changes nothing.
        "data": recipe.data.model_dump(exclude=set(SOURCES)),
        "train": context.identity(recipe.data.train),
        "selection": context.identity(recipe.data.selection) or context.chooses,
        "test": context.identity(recipe.data.test),
        "unlabelled": context.identity(recipe.data.unlabelled),
        "teacher": context.identity(recipe.teacher.model),
    }
    return context.run.stage("data", depends, READING, make)


def fit_teacher(context: Context, rows: Done) -> Done | None:
    """Train the teacher on the labels where the recipe gives a base model or a config."""
    spec = context.recipe.teacher
    if spec.model is not None:
        return None

    def make(scratch: Path) -> Mapping[str, Any]:
        import torch

        from edgekd import models
        from edgekd.distill.student import check_shape

        labels = rows.result["labels"]
        torch.manual_seed(context.recipe.seed)  # a base model gets a fresh head
        if spec.base is not None:
            where, length = context.locate(spec.base), context.recipe.data.max_length
            teacher = models.load(
                where, context.task, revision=spec.revision, max_length=length, labels=labels
            )
        else:
            from edgekd.processors import fresh_preprocessor

            config = spec.config or {}
            fresh = not spec.vocabulary
            encoder = fresh_preprocessor(context.train, config) if fresh else context.encoder
            encoder = context.task.prepare(encoder)
            seed = context.recipe.seed
            teacher = models.from_config(spec.config or {}, context.task, encoder, labels, seed)
        check_shape(context.recipe.student, teacher.model)
        return _train(context, teacher, spec.fit, scratch, "teacher", context.recipe.seed)

    depends = {
        "rows": rows,
        "teacher": spec.model_dump(exclude={"base"}),
        "base": context.identity(spec.base),
        "seed": context.recipe.seed,
    }
    return context.run.stage("teacher", depends, TRAINING, make, output="teacher")


def label(context: Context, rows: Done, fitted: Done | None, name: str = "label") -> Done:
    """Run the teacher once over every row and keep what it said; check that it knows the task.

    Test rows are kept in float32, for what is retained is computed from them; the rows that the
    student learns from in float16.
    """
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.distill.student import check_shape
        from edgekd.evaluate.run import evaluate

        teacher, labels = context.teacher, list(context.labels)
        check_shape(recipe.student, teacher.model)
        shape.resolve(context, [*context.train, *context.unlabelled])
        _label(context, "test", context.test, "float32")
        said = teacher_outputs(context)
        references = context.task.references(context.test, labels)
        preflight.teacher_knows(context.task, said, references, labels, recipe.teacher.model)
        learned_from = [*context.train, *context.unlabelled]
        _label(context, context.learned, learned_from, "float16")
        return {
            "params": teacher.parameters,
            "revision": teacher.revision,
            "size_bytes": _weight_bytes(teacher.source) or _memory_bytes(teacher),
            "source": _named(recipe.teacher.model or recipe.teacher.base),
            "evaluation": evaluate(context.task, labels, said, references).to_dict(),
            "longest": context.longest_row or 0,
            # Running text is cut into blocks anyway, and nothing of it is lost.
            "cut": 0.0
            if context.task.over_vocabulary
            else preflight.share_cut_off(teacher.preprocessor, learned_from),
        }

    depends = {
        "rows": rows,
        "store": context.learned,
        "teacher": fitted or context.identity(recipe.teacher.model),
        "revision": recipe.teacher.revision,
    }
    return context.run.stage(name, depends, (*MODELS, "edgekd.signals"), make)


def assistant(context: Context, labelled: Done, name: str) -> Done:
    """Distil a model between teacher and student; it lies in the run directory under ``name``."""
    return _student(context, labelled, name, 0, context.recipe.distill)


def untrained(context: Context, labelled: Done) -> Done:
    """The student as it was before it learned anything, for a control to start from."""
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        fresh = fresh_student(context, [*context.train, *context.unlabelled], recipe.seed)
        fresh.save(scratch / "output")
        return {"params": fresh.parameters}

    depends = _depends(context, labelled, "student-no-kd", recipe.distill, recipe.seed)
    return context.run.stage("untrained", depends, TRAINING, make, output="untrained")


def student(context: Context, labelled: Done, nth: int = 0) -> Done:
    """Distil the student from the stored signals, with the ``nth`` of the recipe's seeds.

    The first one is the student that ships; the others say how much the seed matters.
    """
    return _student(context, labelled, "student", nth, context.recipe.distill)


def control(context: Context, labelled: Done, nth: int = 0) -> Done:
    """Train the same student for the same steps on the labels alone."""
    settings = context.recipe.distill
    if isinstance(settings.control, Control):
        rate = control_rate(context, labelled, settings.control).result["learning_rate"]
        settings = settings.model_copy(update={"learning_rate": rate})
    return _student(context, labelled, "student-no-kd", nth, settings)


def control_rate(context: Context, labelled: Done, spec: Control) -> Done:
    """The learning rate that serves the control best, on the held-out rows and the first seed."""
    recipe = context.recipe

    def make(scratch: Path) -> Mapping[str, Any]:
        from edgekd.infer import predict

        scores: dict[str, float] = {}
        metric = context.task.metrics(context.labels)[0]
        references = context.task.references(context.selection, list(context.labels))
        for rate in spec.learning_rates:
            model = fresh_student(context, [*context.train, *context.unlabelled], recipe.seed)
            settings = recipe.distill.model_copy(update={"learning_rate": rate})
            _fit(context, model, settings, scratch / f"{rate:g}", "student-no-kd", recipe.seed)
            said = predict(model, context.selection, context.task, f"score at {rate:g}")
            scores[f"{rate:g}"] = metric(context.task.decode(said, model.labels), references)
        order = sorted(scores, key=lambda r: scores[r] if metric.lower_is_better else -scores[r])
        return {"learning_rate": float(order[0]), "scores": scores}

    depends = {
        "rates": spec.learning_rates,
        **_depends(context, labelled, "student-no-kd", recipe.distill, recipe.seed),
    }
    return context.run.stage("control-rate", depends, TRAINING, make)


def seed_folder(name: str, nth: int) -> str:
    """Where the ``nth`` training of a model lies in the run directory."""
    return f"seeds/{name}-{nth}" if nth else name


def fresh_student(
    context: Context, rows: Sequence[Row], seed: int, spec: Student | None = None
) -> LoadedModel:
    """The untrained student; ``rows`` say which pieces a trimmed vocabulary keeps.

    ``spec`` is the recipe's with its shape spelt out, where the caller has it already.
    """
    import torch

    from edgekd.distill.student import build

    torch.manual_seed(seed)  # student and control start from the same weights
    spec = spec or shape.resolve(context, rows).student
    if spec.model is not None:
        spec = spec.model_copy(update={"model": context.locate(spec.model)})
    return build(spec, context.teacher, context.task, rows, context.max_length or 0, seed)


def _student(context: Context, labelled: Done, name: str, nth: int, settings: Distill) -> Done:
    recipe = context.recipe
    seed = recipe.seed + nth

    def make(scratch: Path) -> Mapping[str, Any]:
        learned_from = [*context.train, *context.unlabelled]
        chosen = shape.resolve(context, learned_from)
        fresh = fresh_student(context, learned_from, seed, chosen.student)
        result = _train(context, fresh, settings, scratch, name, seed)
        source = _describe(chosen.student, context.teacher)
        return {
            **result,
            "source": source,
            "learning_rate": settings.learning_rate,
            "shape": chosen.to_dict(),
            "cut": preflight.share_cut_off(fresh.preprocessor, learned_from),
        }

    depends = _depends(context, labelled, name, settings, seed)
    stage = f"{name}-seed-{nth}" if nth else name
    return context.run.stage(stage, depends, TRAINING, make, output=seed_folder(name, nth))


def _depends(
    context: Context, labelled: Done, name: str, settings: Distill, seed: int
) -> dict[str, Any]:
    """What a student or its control is made of."""
    recipe = context.recipe
    # The control does not depend on how the teacher is listened to.
    control = name == "student-no-kd"
    fields = Training.model_fields if control else type(settings).model_fields
    values = set(fields) - {"control"}
    return {
        "labelled": labelled,
        "student": recipe.student.model_dump(exclude={"model"}),
        "precision": shape.smallest_precision(recipe) if recipe.student.size_mb else None,
        "model": context.identity(recipe.student.model),
        "distill": settings.model_dump(include=values),
        # A target's length counts only where it is more than the rows ask for anyway.
        "length": max(labelled.result["longest"], context.longest_target),
        "seed": seed,
    }


def _train(
    context: Context, model: LoadedModel, settings: Training, scratch: Path, name: str, seed: int
) -> Mapping[str, Any]:
    """Train ``model``, write it, score it on the test rows."""
    from edgekd.evaluate.run import evaluate

    outcome, kept = _fit(context, model, settings, scratch / "training", name, seed)
    model.save(scratch / "output")
    outputs = predict(model, context.test, context.task, f"test {name}")
    labels = list(model.labels)
    references = context.task.references(context.test, labels)
    said = None if name == "teacher" else teacher_outputs(context.judge or context)
    np.savez(scratch / "output" / "test-outputs.npz", allow_pickle=False, **outputs)
    return {
        "params": model.parameters,
        "size_bytes": _weight_bytes(str(scratch / "output")),
        "steps": outcome.steps,
        "train_seconds": outcome.seconds,
        "history": outcome.history,
        "gradient_shares": outcome.shares,
        "kept": kept,
        "evaluation": evaluate(context.task, labels, outputs, references, said).to_dict(),
    }


def _fit(
    context: Context, model: LoadedModel, settings: Training, folder: Path, name: str, seed: int
) -> tuple[Outcome, Mapping[str, Any] | None]:
    """Train ``model`` in place; say what training did and, where asked, which epoch was kept."""
    from edgekd.distill import trainer, transfer
    from edgekd.distill.examples import Examples
    from edgekd.pipeline.keep import BestEpoch
    from edgekd.recipe import Distill

    rows: Sequence[Row] = context.train
    signals: Signals | None = None
    objective = transfer.hard_labels(context.task, settings.gradient_accumulation)
    if name != "student-no-kd" and isinstance(settings, Distill):
        rows = [*context.train, *context.unlabelled]
        objective = plan(context, settings, model)
        signals = stored(context, rows, objective.teacher)
    examples = Examples(rows, context.task, model.preprocessor, model.labels, signals)
    folder.mkdir(parents=True, exist_ok=True)
    keeps = settings.keep == "best"
    best = BestEpoch(context.task, model, context.selection, folder, name) if keeps else None
    outcome = trainer.train(
        model.model,
        examples,
        objective,
        settings,
        seed=seed,
        folder=folder,
        what=name,
        steps=None if name == "teacher" else _student_steps(context),
        after_epoch=best,
    )
    return outcome, best.restore() if best else None


def _label(context: Context, split: str, rows: Sequence[Row], dtype: str) -> SignalStore:
    store = _store(context, split, dtype)
    label_into(store, context.teacher, rows, context.task, f"label {split}")
    return store


def _store(context: Context, split: str, dtype: str | None = None) -> SignalStore:
    """The store of a split, one per teacher revision; ``dtype`` makes it where there is none."""
    from edgekd.signals.store import SignalStore

    teacher = context.teacher
    folder = context.run.path / "signals" / f"{split}-{teacher.revision[:12]}"
    top_k = context.top_k if split == context.learned else None
    spec = signal_spec(teacher, context.task, dtype, top_k) if dtype else None
    return SignalStore.open(folder, spec)


def signal_spec(
    teacher: LoadedModel, task: Task, dtype: str, top_k: int | None = None
) -> SignalSpec:
    """What a store of this teacher's outputs holds.

    Over a vocabulary: the ``top_k`` likeliest tokens of each place, all of them where it is 0,
    or with None only what scores are made of.
    """
    from edgekd.models import example_rows
    from edgekd.signals.store import Field, SignalSpec
    from edgekd.signals.topk import topk_fields

    description = json.dumps(teacher.preprocessor.describe(), sort_keys=True)
    lead = (None,) if task.per_token else ()
    vocabulary: int = getattr(teacher.model.config, "vocab_size", 0)
    if not task.over_vocabulary:
        sample = example_rows(task, teacher.preprocessor, 1)
        said = task.collect(forward(teacher, sample, task), sample, teacher.preprocessor)
        kinds = {n: dtype if v.dtype.kind == "f" else v.dtype.name for n, v in said.items()}
        fields = {n: Field(kinds[n], (*lead, *v.shape[1 + len(lead) :])) for n, v in said.items()}
    elif top_k:
        fields = topk_fields(top_k, vocabulary, ragged=True)
    elif top_k == 0:
        fields = {"logits": Field(dtype, (*lead, vocabulary))}
    else:
        kept = {"nll": "float32", "choice": "int32", "truth": "int32"}
        fields = {name: Field(kind, lead) for name, kind in kept.items()}
    if task.over_vocabulary:
        fields["mask"] = Field("uint8", (None,))
    return SignalSpec(teacher.revision, description, fields)


def intermediate_spec(teacher: LoadedModel, taps: Taps) -> SignalSpec:
    """Per token: matched hidden states [layers, width], queries, keys and values [3, width]."""
    from edgekd.distill.transfer import Shape
    from edgekd.signals.store import Field, SignalSpec

    width = Shape.of(teacher.model).width
    shapes: dict[str, tuple[int | None, ...]] = {
        "hidden_states": (None, len(taps.layers), width),
        "qkv": (None, 3, width),
        "embedding": (width,),
    }
    fields = {name: Field("float16", shapes[name]) for name in sorted(taps.stored)}
    description = json.dumps({**teacher.preprocessor.describe(), "layers": taps.layers})
    return SignalSpec(teacher.revision, description, fields)


def teacher_outputs(context: Context) -> Mapping[str, np.ndarray]:
    """What the teacher said about the test rows, in their order."""
    said = _store(context, "test").get(_keys(context.test))
    return {name: filled(values) for name, values in said.items()}


def filled(values: Any) -> np.ndarray:
    """Stored signals of several rows as one array; rows with fewer places are filled up."""
    from edgekd.signals.store import pad

    return pad(values)[0] if isinstance(values, list) else np.asarray(values)


def _student_steps(context: Context) -> int:
    """Steps of student and control alike: unlabelled rows must not give the student more."""
    from edgekd.distill.trainer import step_count

    return step_count(len(context.train) + len(context.unlabelled), context.recipe.distill)


def plan(context: Context, settings: Distill, student: LoadedModel) -> Transfer:
    """The objective, refused here where it cannot work: nothing has been trained yet."""
    from edgekd.distill import transfer

    teacher, copied = context.teacher, shape.copied_layers(context, student)
    if copied and settings.layer_map is None:  # each copied layer against its original
        settings = settings.model_copy(update={"layer_map": list(enumerate(copied))})
    if context.task.over_vocabulary and not preflight.same_vocabulary(
        teacher.preprocessor, student.preprocessor
    ):
        raise InputError(
            "the student has another vocabulary than the teacher, and a distribution over tokens"
            " needs the same; copy the student's layers without trimming its vocabulary, or take a"
            " model or config with the teacher's tokenizer"
        )
    found = transfer.plan(
        settings,
        context.task,
        teacher.model,
        student.model,
        classes=len(teacher.labels) or None,
        parts=settings.gradient_accumulation,
    )
    per_token = found.teacher.stored & {"hidden_states", "qkv"}
    spans = context.task.name == "question-answering"  # whose places are the tokens themselves
    if (per_token or spans) and not preflight.same_tokens(
        teacher.preprocessor, student.preprocessor, context.train
    ):
        raise InputError(
            "the student cuts texts into other tokens than the teacher, so they cannot be matched"
            " token by token; keep the teacher's tokenizer"
            + ("" if spans else ", or use the losses on logits and embeddings")
        )
    return found


def stored(context: Context, rows: Sequence[Row], taps: Taps) -> Signals:
    """Read rows' signals by position: the logits, and what the objective matches beside them."""
    keys = _keys(rows)
    stores = [_store(context, context.learned)]
    if taps.stored:
        stores.append(_label_intermediate(context, rows, taps))

    def read(indices: Sequence[int]) -> dict[str, Any]:
        wanted = keys[list(indices)]
        return {name: value for store in stores for name, value in store.get(wanted).items()}

    return read


def _label_intermediate(context: Context, rows: Sequence[Row], taps: Taps) -> SignalStore:
    """Store the teacher's intermediate signals in float16, apart from its logits."""
    from edgekd.signals.store import SignalStore

    teacher = context.teacher
    spec = intermediate_spec(teacher, taps)
    name = f"intermediate-{teacher.revision[:12]}-{fingerprint(spec.fields, ())[:8]}"
    store = SignalStore.open(context.run.path / "signals" / name, spec)
    with taps.on(teacher.model) as read:
        label_into(store, teacher, rows, context.task, "label intermediate layers", read=read)
    return store


def _keys(rows: Sequence[Row]) -> np.ndarray:
    from edgekd.signals.keys import keys

    return keys(rows)


def _named(source: str | None) -> str:
    """A model in a report: its id, or the last name of its folder and never the path."""
    if source is None:
        return "a config, fitted here"
    return Path(source).name if Path(source).expanduser().exists() else source


def _memory_bytes(model: LoadedModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.model.parameters())


def _weight_bytes(source: str) -> int:
    files = Path(source).glob("*.safetensors") if Path(source).is_dir() else ()
    return sum(file.stat().st_size for file in files)


def _describe(spec: Student, teacher: LoadedModel) -> str:
    """The student's origin in a few words, for the report."""
    if spec.model or spec.config:
        return (
            _named(spec.model)
            if spec.model
            else f"a {(spec.config or {}).get('model_type')} from its config"
        )
    total = getattr(teacher.model.config, "num_hidden_layers", "?")
    rest = "".join(f", {name.replace('_', ' ')} {size}" for name, size in spec.widths.items())
    rest += ", vocabulary trimmed" if spec.vocabulary == "trim" else ""
    if not spec.layers:
        return f"the teacher's own shape, all layers{rest}"
    plural = "s" if len(spec.layers) > 1 else ""
    return f"layer{plural} {', '.join(map(str, spec.layers))} of the teacher's {total}{rest}"


def check_student(context: Context) -> None:
    """Refuse an impossible student before anything is trained."""
    if context.recipe.student.vocabulary == "trim" and not context.task.default_columns.keys() & {
        "text",
        "tokens",
    }:
        raise InputError("student.vocabulary: trim needs a text task; drop the key")
