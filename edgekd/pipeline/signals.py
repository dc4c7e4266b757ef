"""The teacher's signals in a run: what is stored, under which name, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.infer import forward, label_into
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import fingerprint
from edgekd.preprocess import Row
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.distill.examples import Signals
    from edgekd.distill.transfer import Taps
    from edgekd.models import LoadedModel
    from edgekd.signals.store import SignalSpec, SignalStore


def label_rows(context: Context, split: str, rows: Sequence[Row], dtype: str) -> SignalStore:
    store = store_of(context, split, dtype)
    label_into(store, context.teacher, rows, context.task, f"label {split}")
    return store


def store_of(context: Context, split: str, dtype: str | None = None) -> SignalStore:
    """The store of a split, one per teacher revision; ``dtype`` makes it where there is none.

    What is learned from may lie in a store of the recipe's own. Raises :class:`InputError` where
    another teacher, or the same one with other inputs, made it.
    """
    from edgekd.signals.store import SignalStore

    teacher, shared = context.teacher, context.recipe.data.signals
    folder = context.run.path / "signals" / f"{split}-{teacher.revision[:12]}"
    if shared is not None and split == context.learned:
        found = Path(context.locate(shared))
        folder = found if found.is_dir() else context.beside / shared
    top_k = context.top_k if split == context.learned else None
    spec = signal_spec(teacher, context.task, dtype, top_k) if dtype else None
    return SignalStore.open(folder, spec)


def signal_spec(
    teacher: LoadedModel, task: Task, dtype: str, top_k: int | None = None
) -> SignalSpec:
    """What a store of this teacher's outputs holds.

    Over a vocabulary: ``top_k`` tokens of each place that stand for all of them, the whole
    distribution where it is 0, or with None only what scores are made of.
    """
    from edgekd.models import example_rows
    from edgekd.signals.sampled import sampled_fields
    from edgekd.signals.store import Field, SignalSpec

    description = json.dumps(teacher.preprocessor.describe(), sort_keys=True)
    lead = (None,) if task.per_token else ()
    vocabulary: int = getattr(teacher.model.config, "vocab_size", 0)
    if not task.over_vocabulary:
        sample = example_rows(task, teacher.preprocessor, 1)
        said = task.collect(forward(teacher, sample, task), sample, teacher.preprocessor)
        kinds = {n: dtype if v.dtype.kind == "f" else v.dtype.name for n, v in said.items()}
        fields = {n: Field(kinds[n], (*lead, *v.shape[1 + len(lead) :])) for n, v in said.items()}
    elif top_k:
        fields = sampled_fields(top_k, vocabulary, ragged=True)
    elif top_k == 0:
        fields = {"logits": Field(dtype, (*lead, vocabulary))}
    else:
        kept = {"nll": "float32", "choice": "int32", "truth": "int32"}
        fields = {name: Field(kind, lead) for name, kind in kept.items()}
    if task.over_vocabulary:
        fields["mask"] = Field("uint8", (None,))
    return SignalSpec(teacher.revision, description, fields)


def intermediate_spec(teacher: LoadedModel, taps: Taps) -> SignalSpec:
    """Per token: matched hidden states [layers, width]; queries, keys, values [3 per layer, width]."""
    from edgekd.distill.transfer import Shape
    from edgekd.signals.store import Field, SignalSpec

    width = Shape.of(teacher.model).width
    shapes: dict[str, tuple[int | None, ...]] = {
        "hidden_states": (None, len(taps.layers), width),
        "qkv": (None, 3 * len(taps.attended), width),
        "embedding": (width,),
    }
    fields = {name: Field("float16", shapes[name]) for name in sorted(taps.stored)}
    places = {"layers": taps.layers, "attended": taps.attended}
    description = json.dumps({**teacher.preprocessor.describe(), **places})
    return SignalSpec(teacher.revision, description, fields)


def truth(context: Context, rows: Sequence[Row]) -> list[Any]:
    """What models are judged by on training or selection rows, an entry per row.

    Rows without answers are judged by what the first teacher said of them, which is stored.
    """
    first = context.judge or context
    found = first.task.references(rows, list(first.labels))
    if any(reference is not None for reference in found):
        return found
    said = label_rows(first, first.learned, rows, first.task.signal_dtype).get(keys_of(rows))
    return list(first.task.truth(found, {name: filled(values) for name, values in said.items()}))


def teacher_outputs(context: Context) -> Mapping[str, np.ndarray]:
    """What the teacher said about the test rows, in their order."""
    said = label_rows(context, "test", context.test, "float32").get(keys_of(context.test))
    return {name: filled(values) for name, values in said.items()}


def filled(values: Any) -> np.ndarray:
    """Stored signals of several rows as one array; rows with fewer places are filled up."""
    from edgekd.signals.store import pad

    return pad(values)[0] if isinstance(values, list) else np.asarray(values)


@dataclass(frozen=True)
class Stored:
    """Signals of rows by position, from the stores that hold them by content."""

    keys: np.ndarray
    stores: Sequence[SignalStore]

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        wanted = self.keys[list(indices)]
        return {name: value for store in self.stores for name, value in store.get(wanted).items()}


def stored(context: Context, rows: Sequence[Row], taps: Taps) -> Signals:
    """Read rows' signals by position: the logits, and what the objective matches beside them."""
    dtype = context.task.signal_dtype
    stores = [label_rows(context, context.learned, rows, dtype)]  # a damaged shard: anew
    if taps.stored:
        stores.append(_label_intermediate(context, rows, taps))
    return Stored(keys_of(rows), stores)


def _label_intermediate(context: Context, rows: Sequence[Row], taps: Taps) -> SignalStore:
    """Store the teacher's intermediate signals in float16, apart from its logits."""
    from edgekd.signals.store import SignalStore

    teacher = context.teacher
    spec = intermediate_spec(teacher, taps)
    kept = {"fields": spec.fields, "of": spec.preprocessing}  # of which layers, too
    name = f"intermediate-{teacher.revision[:12]}-{fingerprint(kept, ())[:8]}"
    store = SignalStore.open(context.run.path / "signals" / name, spec)
    with taps.on(teacher.model) as read:
        label_into(store, teacher, rows, context.task, "label intermediate layers", read=read)
    return store


def keys_of(rows: Sequence[Row]) -> np.ndarray:
    from edgekd.signals.keys import keys

    return keys(rows)
