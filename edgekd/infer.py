"""Run a torch model over raw rows: what the teacher is asked, and how a fresh student is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.preprocess import Row
from edgekd.progress import track

if TYPE_CHECKING:
    import torch

    from edgekd.models import LoadedModel
    from edgekd.signals.label import Engine
    from edgekd.signals.store import SignalStore
    from edgekd.tasks import Task


def accelerator() -> torch.device | None:
    """What this machine computes on beside its processor; None where there is nothing."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True)


@contextmanager
def accelerated(model: LoadedModel) -> Iterator[None]:
    """``model`` on the accelerator, and back: nothing happens where there is none.

    Inside a training a model is where it is trained, and stays there.
    """
    device = accelerator()
    if device is None or _device(model).type != "cpu":
        yield
        return
    model.model.to(device)
    try:
        yield
    finally:
        model.model.to("cpu")


def _device(model: LoadedModel) -> torch.device:
    return next(model.model.parameters()).device


def forward(model: LoadedModel, rows: Sequence[Row], task: Task) -> dict[str, np.ndarray]:
    """One batch: the task's outputs as float32 arrays [rows, …]."""
    import torch

    encoded = model.preprocessor.encode(rows)
    feeds = {k: torch.from_numpy(v).to(_device(model)) for k, v in encoded.items()}
    with torch.inference_mode():
        said = model.model(**feeds)
        read = task.read(said, model.model.config, feeds.get("attention_mask"))
    return {name: read[name].float().cpu().numpy() for name in task.outputs}


def predict(
    model: LoadedModel, rows: Sequence[Row], task: Task, what: str, batch: int = 32
) -> dict[str, np.ndarray]:
    """Collected outputs of every row, those of similar length together, in the rows' order."""
    lengths = getattr(model.preprocessor, "lengths", None)
    order = np.argsort(lengths(rows), kind="stable") if lengths else np.arange(len(rows))
    parts: list[dict[str, np.ndarray]] = []
    with track(what, len(rows)) as advance, accelerated(model):
        for start in range(0, len(rows), batch):
            indices = order[start : start + batch]
            chosen = [rows[i] for i in indices]
            said = forward(model, chosen, task)
            parts.append(task.collect(said, chosen, model.preprocessor))
            advance(len(indices))
    back = np.argsort(order)
    return {name: join([part[name] for part in parts])[back] for name in parts[0]}


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate batches; an axis that varies between them is filled with zeros at its end."""
    shape = np.max([part.shape[1:] for part in parts], axis=0)
    whole = np.zeros((sum(len(part) for part in parts), *map(int, shape)), parts[0].dtype)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return whole


def position_mask(mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor | None:
    """``mask`` where it is of the positions of ``states`` [batch, positions, …], else None.

    A sound's mask counts samples and its states are frames, all of which are taken as real.
    """
    return mask if mask is not None and mask.shape == states.shape[:2] else None


def pooled(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of ``states`` [batch, positions, width] over the real positions: [batch, width]."""
    mask = position_mask(mask, states)
    if mask is None:
        return states.mean(1)
    weight = mask.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def label_into(
    store: SignalStore,
    model: LoadedModel,
    rows: Sequence[Row],
    task: Task,
    what: str,
    read: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    engine: Engine | None = None,
) -> int:
    """Store the teacher's signals of the rows that ``store`` lacks; return how many those were.

    ``read(said, feeds)`` gives intermediate signals after each forward pass; those per token are
    stored without their padding. ``engine`` runs the planned batches elsewhere, on processors;
    signals that are read from inside the model stay here.
    """
    from edgekd.signals.keys import keys
    from edgekd.signals.label import label

    names, fields = keys(rows), dict(store.spec.fields)
    seen, missing = 0, len(store.missing(names))
    here = missing and (read is not None or engine in (None, map))
    with track(what, missing) as advance, accelerated(model) if here else nullcontext():

        def progress(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        def run_teacher(batch: Sequence[Row]) -> Mapping[str, Any]:
            said = forward(model, batch, task)
            return _per_place(task, task.signals(said, batch, model.preprocessor, fields))

        run: Callable[[Sequence[Row]], Mapping[str, Any]] = run_teacher
        if read is not None:
            run, engine = partial(_intermediate, model, read=read, store=store), None
        return label(rows, names, run, store, progress=progress, engine=engine or map)


def _per_place(task: Task, kept: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Without the filling: what a store keeps of a row is as long as the row has places."""
    if not task.per_token:
        return kept
    lengths = [int(np.max(np.flatnonzero(mask), initial=-1)) + 1 for mask in kept["mask"]]
    return {
        name: [value[:n] for value, n in zip(values, lengths, strict=True)]
        for name, values in kept.items()
    }


def _intermediate(
    model: LoadedModel,
    rows: Sequence[Row],
    read: Callable[[Any, Any], Mapping[str, Any]],
    store: SignalStore,
) -> dict[str, Any]:
    import torch

    encoded = model.preprocessor.encode(rows)
    feeds = {k: torch.from_numpy(v).to(_device(model)) for k, v in encoded.items()}
    with torch.inference_mode():
        found = read(model.model(**feeds, output_hidden_states=True), feeds)
    signals: dict[str, Any] = {}
    for name, field in store.spec.fields.items():
        values = found[name].float()
        mask = position_mask(feeds.get("attention_mask"), values) if field.ragged else None
        if mask is not None:
            signals[name] = [v[m].cpu().numpy() for v, m in zip(values, mask.bool(), strict=True)]
        else:
            whole = values.cpu().numpy()
            signals[name] = list(whole) if field.ragged else whole
    return signals
