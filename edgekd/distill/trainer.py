"""Train one model on ``transformers.Trainer``: the teacher, the student, or its control.

They differ in their objective alone, so that a student and its control share every step. A run
killed inside training continues from its last whole checkpoint and ends with the same weights:
the order of rows depends on seed and epoch only, and the random state travels with the
checkpoint.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from edgekd.distill import processes
from edgekd.distill.examples import Examples, SeededOrder
from edgekd.distill.first_token import first_positions
from edgekd.distill.precision import in_bf16
from edgekd.distill.transfer import Transfer
from edgekd.errors import InputError
from edgekd.progress import Advance, track
from edgekd.sections import Training
from edgekd.tasks import Task

CHECKPOINT_SECONDS = 5.0  # between two checkpoints, and at least fifty times what one costs
WEIGHTS = "weights.safetensors"  # under the modules' own names
PROJECTIONS = "objective.safetensors"  # what the losses own, beside the model in a checkpoint
SHARES = "gradient-shares.json"
NOT_INPUTS = frozenset({"labels", "places", "mask"})
PROBE = 4  # rows on which a model shows which positions it reads
_SCHEDULES = {"constant": "constant_with_warmup"}  # by their names in transformers
COMPLETE = "complete"  # written into a checkpoint last: without it the checkpoint is not used


@dataclass(frozen=True)
class Outcome:
    """What training did."""

    steps: int
    seconds: float  # of this process; a resumed run reports its last part
    history: list[dict[str, float]]  # {"step", "loss"} about two hundred times
    shares: dict[str, float]  # of the gradient, by loss, at the first step


def train(
    model: torch.nn.Module,
    examples: Examples,
    transfer: Transfer,
    settings: Training,
    *,
    seed: int,
    folder: Path,
    what: str,
    steps: int | None = None,
    after_epoch: Callable[[int], bool] | None = None,
) -> Outcome:
    """Train ``model`` in place; checkpoints live in ``folder`` until the caller removes it.

    ``steps`` replaces what epochs make of the rows, so that a control takes as many steps as its
    student. ``after_epoch`` is called with the model in evaluation mode, ``settings.epochs`` times at
    equal distances and each time with its number from 1: a control, whose rows may be fewer, is
    looked at as often as its student. True ends the training.
    What the objective owns (projections) is trained beside the model and dropped. The
    model comes back on the CPU, wherever it was trained. ``settings.processes`` of them are
    started and ended here, and what they are given is pickled. Raises :class:`InputError` where the loss
    stops being finite, and for what :func:`check_parts` refuses.
    """
    bf16 = in_bf16(settings.precision)
    check_parts(model, settings)
    if settings.processes > 1 and not torch.distributed.is_initialized():
        job = {"examples": examples, "transfer": transfer, "settings": settings, "seed": seed}
        job |= {"folder": folder, "what": what, "steps": steps, "after_epoch": after_epoch}
        return processes.train_in_processes(settings.processes, model, job)
    torch.manual_seed(seed)
    steps = steps or step_count(len(examples), settings)
    if processes.first():
        _forget_unfinished(folder)
    processes.together()
    order = SeededOrder(len(examples), settings.batch_size, seed, examples.lengths)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size // settings.gradient_accumulation or 1,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=_SCHEDULES.get(settings.schedule, settings.schedule),
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bf16,  # weights and losses stay in fp32
        use_cpu=bf16 and not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:  # one device, or the batch would be another
        arguments._n_gpu = 1
    started = time.monotonic()
    objective = transfer.objective
    with (
        track(f"train {what}", steps, unit="steps") as advance,
        transfer.student.on(model) as read,
        _narrowed(model, examples, transfer),
    ):
        trainer = _DistillTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=lambda indices: examples.collate(processes.share(indices), indices),
            callbacks=[
                _Checkpoints(objective),
                _Projections(objective),
                _Report(advance, max(steps // 200, 1)),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        if after_epoch is not None:
            trainer.add_callback(_AfterEpoch(after_epoch, steps, settings.epochs))
        # Which units drop out should differ between processes, as it does between rows.
        torch.manual_seed(seed + arguments.process_index)
        trainer.transfer, trainer.order, trainer.read = transfer, order, read
        objective.to(arguments.device)
        checkpoint = last_checkpoint(folder)
        if checkpoint and list(objective.parameters()):
            load_model(objective, str(Path(checkpoint) / PROJECTIONS))
        result = trainer.train(resume_from_checkpoint=checkpoint)
    model.to("cpu").eval()
    return Outcome(
        steps=result.global_step,
        seconds=round(time.monotonic() - started, 2),
        history=[
            {"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e
        ],
        shares=trainer.shares or json.loads((folder / SHARES).read_text(encoding="utf-8")),
    )


def check_parts(model: torch.nn.Module, settings: Training) -> None:
    """Refuse batch normalisation where a batch is computed in parts: each has other statistics."""
    batchwise = torch.nn.modules.batchnorm._BatchNorm
    if settings.parts > 1 and any(isinstance(module, batchwise) for module in model.modules()):
        raise InputError(
            f"the model has batch normalisation, which would see one of {settings.parts} parts of"
            " each batch at a time and so train another model; use processes: 1 and"
            " gradient_accumulation: 1 (a smaller batch_size takes less memory, too)"
        )


def _narrowed(
    model: torch.nn.Module, examples: Examples, transfer: Transfer
) -> AbstractContextManager[Any]:
    """The last layer computes only what the objective reads, where that is the logits alone."""
    if transfer.student.wanted or examples.task.per_token:
        return nullcontext()
    feeds = _feeds(examples.collate(range(min(len(examples), PROBE))))
    task, config, mask = examples.task, model.config, feeds.get("attention_mask")
    return first_positions(model, feeds, lambda said: task.read(said, config, mask))


def _feeds(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the model reads."""
    return {k: v for k, v in batch.items() if k not in NOT_INPUTS and k[:8] != "teacher."}


def step_count(rows: int, settings: Training) -> int:
    """Optimizer steps of a training: the last, smaller batch of an epoch counts as one."""
    return -(-rows // settings.batch_size) * settings.epochs


def _forget_unfinished(folder: Path) -> None:
    """Remove checkpoints that a kill cut off, so that no later run mistakes one for whole."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).is_file():
            shutil.rmtree(checkpoint)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    whole = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    newest = max(whole, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    return str(newest) if newest else None


class _DistillTrainer(Trainer):
    """Trainer with our objective, our order of rows, and a loss that is a mean over samples."""

    transfer: Transfer
    order: SeededOrder
    read: Callable[[Any, Mapping[str, torch.Tensor]], dict[str, Any]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.shares: dict[str, float] = {}
        # Our loss is divided by the samples of the whole step, however it is split into batches.
        self.model_accepts_loss_kwargs = True

    # save_pretrained writes some families' weights under older names, and Trainer, which reads a
    # checkpoint without translating them back, would go on with fresh layers and not say so.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        found: Any = self.model if model is None else model
        load_model(found, str(Path(resume_from_checkpoint) / WEIGHTS))

    def get_train_dataloader(self) -> DataLoader[int]:
        """Every process goes through all batches in one order; the collator takes its share."""
        loader: DataLoader[int] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=self._train_batch_size,
            sampler=self.order,
            collate_fn=self.data_collator,
        )
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )

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
        feeds = _feeds(inputs)
        tapped = bool(self.transfer.student.wanted)
        said = model(**feeds, output_hidden_states=True) if tapped else model(**feeds)
        task: Task = self.train_dataset.task  # type: ignore[union-attr]
        config = self.accelerator.unwrap_model(model).config
        answers = task.read(said, config, feeds.get("attention_mask"))
        outputs = {name: _at_places(answers[name], inputs.get("places")) for name in answers}
        outputs |= self.read(said, feeds) if tapped else {}
        batch = self.transfer.complete(inputs)
        objective = self.transfer.objective
        if not self.shares and self.state.global_step == 0:
            body = [p for p in model.parameters() if p.requires_grad]
            self.shares = objective.gradient_shares(outputs, batch, body)
            # Kept beside the checkpoints: a resumed run never sees the first step again.
            if processes.first():
                shares = Path(str(self.args.output_dir)) / SHARES
                shares.parent.mkdir(parents=True, exist_ok=True)
                shares.write_text(json.dumps(self.shares), encoding="utf-8")
        terms = objective(outputs, batch)
        samples = num_items_in_batch if num_items_in_batch is not None else len(inputs["labels"])
        # Gradients are averaged over processes, so each process counts for all of them.
        total = torch.stack(list(terms.values())).sum() * self.accelerator.num_processes / samples
        if not torch.isfinite(total):
            raise InputError(
                f"the loss became {total.item()} at step {self.state.global_step}; lower"
                " learning_rate or max_grad_norm"
            )
        return (total, said) if return_outputs else total

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The projections that a loss owns are trained like the model's own weights."""
        optimizer = super().create_optimizer(model)
        owned = list(self.transfer.objective.parameters())
        if owned:
            optimizer.add_param_group({"params": owned, "weight_decay": 0.0})
        return optimizer


def _at_places(values: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """The values [batch, places, …] of the tokens that answer for their row's places."""
    if places is None:
        return values
    index = places.reshape(*places.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


class _Checkpoints(TrainerCallback):
    """Save by the clock, and mark what was saved to its end."""

    def __init__(self, objective: torch.nn.Module) -> None:
        self.objective = objective
        self.last = time.monotonic()
        self.cost = 0.0
        self.asked = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        due = now - self.last > max(CHECKPOINT_SECONDS, 50 * self.cost)
        if processes.agreed(lambda: due and not control.should_training_stop):
            control.should_save = True
            self.asked = now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        processes.together()  # each has its random state in the folder
        if processes.first():
            self._finish(args, state)
        self.last = time.monotonic()
        self.cost = self.last - self.asked

    def _finish(self, args: Any, state: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if list(self.objective.parameters()):
            save_model(self.objective, str(folder / PROJECTIONS))
        (folder / COMPLETE).touch()
        for older in Path(args.output_dir).glob("checkpoint-*"):
            if older != folder:  # the mark goes first: half removed is not whole
                (older / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(older)


class _Projections(TrainerCallback):
    """What Trainer does for the model's gradients, done for those of what the losses own."""

    def __init__(self, objective: torch.nn.Module) -> None:
        self.objective = objective

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        processes.average_gradients(self.objective)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.objective.zero_grad()


class _AfterEpoch(TrainerCallback):
    """Ask ``count`` times in ``steps`` whether to go on.

    Asked at the end of a step and not of an epoch, for Trainer saves between the two: a run that
    is killed after would never ask about that epoch.
    """

    def __init__(self, ask: Callable[[int], bool], steps: int, count: int) -> None:
        self.ask = ask
        self.numbers = {round(steps * nth / count): nth for nth in range(1, count + 1)}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        number = self.numbers.get(state.global_step)
        if number is None:
            return
        model.eval()
        control.should_training_stop |= processes.agreed(lambda: self.ask(number))
        model.train()


class _Report(TrainerCallback):
    """Advance the progress and keep about two hundred points of the loss curve."""

    def __init__(self, advance: Advance, every: int) -> None:
        self.advance, self.every = advance, every
        self.seen = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(state.global_step - self.seen)
        self.seen = state.global_step
        control.should_log = state.global_step % self.every == 0
