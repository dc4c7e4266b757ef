"""Train one model of a run: its objective, its epochs, its score on the test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import InputError
from edgekd.infer import predict
from edgekd.pipeline import preflight, shape
from edgekd.pipeline.context import Context
from edgekd.pipeline.signals import stored, teacher_outputs, truth
from edgekd.preprocess import Row, TextPreprocessor
from edgekd.sections import Training

if TYPE_CHECKING:
    import torch

    from edgekd.distill.examples import Signals
    from edgekd.distill.trainer import Outcome
    from edgekd.distill.transfer import Transfer
    from edgekd.models import LoadedModel
    from edgekd.sections import Distill


def train(
    context: Context, model: LoadedModel, settings: Training, scratch: Path, name: str, seed: int
) -> Mapping[str, Any]:
    """Train ``model``, write it, score it on the test rows."""
    outcome, kept = fit(context, model, settings, scratch / "training", name, seed)
    return finish(context, model, asdict(outcome), kept, scratch, name)


def finish(
    context: Context,
    model: LoadedModel,
    outcome: Mapping[str, Any],
    kept: Mapping[str, Any] | None,
    scratch: Path,
    name: str,
) -> Mapping[str, Any]:
    """Write a trained ``model``, score it on the test rows; ``outcome`` is the trainer's."""
    from edgekd.evaluate.run import evaluate

    model.save(scratch / "output")
    outputs = predict(model, context.test, context.task, f"test {name}")
    labels = list(model.labels)
    references = context.task.references(context.test, labels)
    said = None if name == "teacher" else teacher_outputs(context.judge or context)
    np.savez(scratch / "output" / "test-outputs.npz", allow_pickle=False, **outputs)
    return {
        "params": model.parameters,
        "size_bytes": weight_bytes(str(scratch / "output")),
        "steps": outcome["steps"],
        "train_seconds": outcome["seconds"],
        "history": outcome["history"],
        "gradient_shares": outcome["shares"],
        "kept": kept,
        "evaluation": evaluate(context.task, labels, outputs, references, said).to_dict(),
    }


def fit(
    context: Context, model: LoadedModel, settings: Training, folder: Path, name: str, seed: int
) -> tuple[Outcome, Mapping[str, Any] | None]:
    """Train ``model`` in place; say what training did and, where asked, which epoch was kept."""
    from edgekd.distill import trainer, transfer
    from edgekd.distill.examples import Examples
    from edgekd.pipeline.keep import BestEpoch
    from edgekd.sections import Distill

    rows: Sequence[Row] = context.train
    signals: Signals | None = None
    objective = transfer.hard_labels(context.task, settings.parts)
    if name != "student-no-kd" and isinstance(settings, Distill):
        rows = [*context.train, *context.unlabelled]
        objective = plan(context, settings, model)
        signals = stored(context, rows, objective.teacher)
    cuts = cutters_of(model, settings, rows, seed)
    examples = Examples(rows, context.task, model.preprocessor, model.labels, signals, cuts)
    folder.mkdir(parents=True, exist_ok=True)
    best = None
    if settings.keep == "best":
        held = context.selection
        best = BestEpoch(context.task, model, held, truth(context, held), folder, name)
    outcome = trainer.train(
        model.model,
        examples,
        objective,
        settings,
        seed=seed,
        folder=folder,
        what=name,
        steps=None if name == "teacher" else student_steps(context),
        after_epoch=best,
    )
    return outcome, best.restore() if best else None


def cutters_of(
    model: LoadedModel, settings: Training, rows: Sequence[Row], seed: int
) -> list[TextPreprocessor]:
    """Tokenizers that lack rare pieces, where the settings ask for them."""
    from edgekd.distill.subwords import cutters

    if not settings.subword_dropout:
        return []
    assert isinstance(model.preprocessor, TextPreprocessor)  # a recipe of another task is refused
    return cutters(model.preprocessor, rows, settings.subword_dropout, seed)


def student_steps(context: Context) -> int:
    """Steps of student and control alike: unlabelled rows must not give the student more."""
    from edgekd.distill.trainer import step_count

    return step_count(len(context.train) + len(context.unlabelled), context.recipe.distill)


def plan(context: Context, settings: Distill, student: LoadedModel) -> Transfer:
    """The objective, refused here where it cannot work: nothing has been trained yet."""
    from edgekd.distill import subwords, trainer, transfer

    teacher, copied = context.teacher, shape.copied_layers(context, student)
    trainer.check_parts(student.model, settings)
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
        parts=settings.parts,
        matched=list(enumerate(copied)) if copied else None,  # each with its original
        probe=lambda: (_feeds(context, teacher), _feeds(context, student)),
    )
    if settings.subword_dropout and isinstance(student.preprocessor, TextPreprocessor):
        subwords.readable(student.preprocessor)
    per_token = found.teacher.stored & {"hidden_states", "qkv"}
    spans = context.task.name == "question-answering"  # whose places are the tokens themselves
    if (per_token or spans) and not preflight.same_tokens(
        teacher.preprocessor, student.preprocessor, [*context.train, *context.unlabelled]
    ):
        raise InputError(
            "the student cuts texts into other tokens than the teacher, so they cannot be matched"
            " token by token; keep the teacher's tokenizer"
            + ("" if spans else ", or use the losses on logits and embeddings")
        )
    return found


def _feeds(context: Context, model: LoadedModel) -> dict[str, torch.Tensor]:
    """A few training rows of every length as ``model`` reads them."""
    import torch

    encoded = model.preprocessor.encode(context.examples())
    return {name: torch.from_numpy(array) for name, array in encoded.items()}


def weight_bytes(source: str) -> int:
    files = Path(source).glob("*.safetensors") if Path(source).is_dir() else ()
    return sum(file.stat().st_size for file in files)
