"""Train one model on ``transformers.Trainer``: the teacher, the student, or its control.

They differ in their objective alone, so that a student and its control share every step. A run
killed inside training continues from its last whole checkpoint and ends with the same weights:
the order of rows depends on seed and epoch only, and the random state travels with the
checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from edgekd.distill.examples import UNLABELLED, Examples, SeededOrder
from edgekd.distill.losses.logits import softened_kl
from edgekd.errors import InputError
from edgekd.progress import Advance, track
from edgekd.recipe import Distill, Training

CHECKPOINT_SECONDS = 5.0  # between two checkpoints, and at least fifty times what one costs
COMPLETE = "complete"  # written into a checkpoint last: without it the checkpoint is not used

# outputs, batch -> one loss per sample for each named term, already weighted
Objective = Callable[[Any, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Outcome:
    """What training did."""

    steps: int
    seconds: float  # of this process; a resumed run reports its last part
    history: list[dict[str, float]]  # {"step", "loss"} about two hundred times


def hard_objective(outputs: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cross-entropy with the labels: per-sample [batch], zero for unlabelled rows."""
    loss = cross_entropy(outputs.logits, batch["labels"], ignore_index=UNLABELLED, reduction="none")
    return {"hard": loss}


def soft_objective(settings: Distill) -> Objective:
    """Softened KL to the teacher's logits, mixed with the labels.

    soft_weight * T^2 * KL(teacher || student) + hard_weight * CE, sums over classes, one value
    per sample (Hinton et al., arXiv:1503.02531).
    """

    def objective(outputs: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        teacher = batch["teacher.logits"].float()
        soft = softened_kl(outputs.logits, teacher, settings.temperature)
        terms = {"soft": settings.soft_weight * soft}
        if settings.hard_weight:
            terms["hard"] = settings.hard_weight * hard_objective(outputs, batch)["hard"]
        return terms

    return objective


def train(
    model: torch.nn.Module,
    examples: Examples,
    objective: Objective,
    settings: Training,
    *,
    seed: int,
    folder: Path,
    what: str,
) -> Outcome:
    """Train ``model`` in place; checkpoints live in ``folder`` until the caller removes it.

    Raises :class:`InputError` where the loss stops being finite.
    """
    torch.manual_seed(seed)
    order = SeededOrder(len(examples), settings.batch_size, seed, examples.lengths)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // settings.gradient_accumulation or 1,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    started = time.monotonic()
    steps = -(-len(examples) // settings.batch_size) * settings.epochs
    with track(f"train {what}", steps, unit="steps") as advance:
        trainer = _DistillTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=examples.collate,
            callbacks=[_Checkpoints(), _Report(advance, max(steps // 200, 1))],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.objective, trainer.order = objective, order
        result = trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    model.eval()
    return Outcome(
        steps=result.global_step,
        seconds=round(time.monotonic() - started, 2),
        history=[
            {"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e
        ],
    )


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    whole = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    newest = max(whole, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    return str(newest) if newest else None


class _DistillTrainer(Trainer):
    """Trainer with our objective, our order of rows, and a loss that is a mean over samples."""

    objective: Objective
    order: SeededOrder

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Our loss is divided by the samples of the whole step, however it is split into batches.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededOrder:
        return self.order

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        count = torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        feeds = {k: v for k, v in inputs.items() if k != "labels" and not k.startswith("teacher.")}
        outputs = model(**feeds)
        terms = self.objective(outputs, inputs)
        samples = num_items_in_batch if num_items_in_batch is not None else len(inputs["labels"])
        # Gradients are averaged over processes, so each process counts for all of them.
        total = torch.stack(list(terms.values())).sum() * self.accelerator.num_processes / samples
        if not torch.isfinite(total):
            raise InputError(
                f"the loss became {total.item()} at step {self.state.global_step}; lower"
                " learning_rate or max_grad_norm"
            )
        return (total, outputs) if return_outputs else total


class _Checkpoints(TrainerCallback):
    """Save by the clock, and mark what was saved to its end."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.cost = 0.0
        self.asked = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        if (
            now - self.last > max(CHECKPOINT_SECONDS, 50 * self.cost)
            and not control.should_training_stop
        ):
            control.should_save = True
            self.asked = now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / COMPLETE).touch()
        self.last = time.monotonic()
        self.cost = self.last - self.asked


class _Report(TrainerCallback):
    """Advance the progress and keep about two hundred points of the loss curve."""

    def __init__(self, advance: Advance, every: int) -> None:
        self.advance, self.every = advance, every
        self.seen = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(state.global_step - self.seen)
        self.seen = state.global_step
        control.should_log = state.global_step % self.every == 0
