"""What a recipe's ``distill`` section asks for: the objective, and the signals it reads.

Intermediate signals are read from the models as they run, teacher and student alike: hidden
states of matched layers, the queries, keys and values of the last one or of matched ones, the
mean-pooled embedding. Nothing is added to either model, so nothing of it can reach an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgekd.distill.attending import attention, examine
from edgekd.distill.examples import PER_TOKEN
from edgekd.distill.losses.hidden import LayerMap, layer_map
from edgekd.distill.losses.objective import Objective
from edgekd.distill.losses.registry import LOSSES
from edgekd.distill.losses.taps import queries_keys_values
from edgekd.distill.terms import EXTRA_TERMS, terms
from edgekd.errors import InputError
from edgekd.infer import pooled, position_mask
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.sections import Distill

# Losses that compare embeddings, with a projection of their own where the widths differ.
EMBEDDINGS = ("embedding_cosine", "embedding_mse", "embedding_contrastive")
# What is read from inside a model, where it is not the task's own output.
INTERMEDIATE = frozenset({"hidden_states", "attentions", "qkv", "embedding"})
RELATION_HEADS = 12  # MiniLMv2's choice; the nearest divisor of both widths is taken

Feeds = Mapping[str, Tensor]  # a batch as a model reads it
Probe = Callable[[], tuple[Feeds, Feeds]]  # the same rows as the teacher and the student read them


@dataclass(frozen=True)
class Shape:
    """What matching needs to know of a model."""

    layers: int
    width: int
    heads: int

    @classmethod
    def of(cls, model: nn.Module) -> Shape:
        config: Any = model.config
        try:
            return cls(config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
        except AttributeError as error:
            raise InputError(
                f"{type(model).__name__} has no plain layers to match ({error}); use the losses on"
                " logits alone"
            ) from error


@dataclass(frozen=True)
class Taps:
    """Which intermediate signals are read, and from which of a model's layers."""

    wanted: frozenset[str]  # of hidden_states, attentions, qkv, embedding
    layers: tuple[int, ...] = ()  # whose hidden states; counted from 0
    attended: tuple[int, ...] = (-1,)  # whose queries, keys and values; relations read the first
    heads: int = 1
    back_only: bool = False  # a position sees only itself and those before it

    @property
    def stored(self) -> frozenset[str]:
        """What is kept of the teacher: attentions follow from queries and keys."""
        return frozenset("qkv" if name == "attentions" else name for name in self.wanted)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Callable[[Any, Mapping[str, Tensor]], Any]]:
        """Yield ``read(outputs, feeds) -> {name: tensor}`` for the model's last forward pass.

        hidden_states [batch, positions, layers, width], qkv [batch, positions, 3 per layer, width],
        attentions a list of [batch, heads, positions, positions], embedding [batch, width].
        """
        needs_qkv = "qkv" in self.stored
        taps = queries_keys_values(model, *self.attended) if needs_qkv else nullcontext()
        with taps as read_qkv:

            def read(outputs: Any, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
                states = outputs.hidden_states
                found: dict[str, Any] = {}
                if "hidden_states" in self.wanted:
                    found["hidden_states"] = torch.stack([states[i + 1] for i in self.layers], 2)
                if "embedding" in self.wanted:
                    found["embedding"] = pooled(states[-1], feeds.get("attention_mask"))
                if read_qkv is not None:
                    found |= self.from_qkv(read_qkv(), feeds.get("attention_mask"))
                return found

            yield read

    def from_qkv(self, qkv: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Relations read queries, keys and values as they are; attentions are made of them."""
        found: dict[str, Any] = {"qkv": qkv}
        if "attentions" in self.wanted:
            real = position_mask(mask, qkv)
            found["attentions"] = [
                attention(layer, self.heads, real, back_only=self.back_only)
                for layer in qkv.split(3, 2)
            ]
        return found


@dataclass(frozen=True)
class Transfer:
    """One recipe's objective with the taps of both sides."""

    objective: Objective
    student: Taps
    teacher: Taps

    def complete(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The batch as losses read it: with attentions, and without a mask of other positions."""
        mask = batch.get("attention_mask")
        found: dict[str, Any] = dict(batch)
        for name in PER_TOKEN & self.teacher.stored:
            found["attention_mask"] = position_mask(mask, batch[f"teacher.{name}"])
        if "attentions" in self.teacher.wanted:
            made = self.teacher.from_qkv(batch["teacher.qkv"], mask)
            found |= {f"teacher.{name}": value for name, value in made.items()}
        return found


def hard_labels(task: Task, parts: int = 1) -> Transfer:
    """The control's objective: the labels alone, no teacher."""
    nothing = Taps(frozenset())
    return Transfer(Objective({task.hard_loss: 1.0}, parts=parts), nothing, nothing)


def plan(
    settings: Distill,
    task: Task,
    teacher: nn.Module,
    student: nn.Module,
    *,
    classes: int | None = None,
    parts: int = 1,
    matched: LayerMap | None = None,
    probe: Probe | None = None,
) -> Transfer:
    """Turn the weights of a recipe into an objective; refuse what cannot work, before training.

    ``matched`` are the pairs of layers whose hidden states are compared where the recipe maps none;
    attention is then the last layer's, as in MiniLM. Relations are of the last layer always.
    ``probe`` gives a few rows as teacher and student read them, on which each shows how it
    attends; without it both are taken to attend like BERT. Raises :class:`InputError` for weights
    that sum to nothing, a layer map past either model, a loss on two classes that needs more,
    coupled losses in several parts, and attentions that are not made of queries and keys alone.
    """
    weights, chosen = terms(settings, task)
    if not weights.keys() & {*EXTRA_TERMS.values(), *EMBEDDINGS}:
        objective = Objective(weights, chosen, classes=classes, parts=parts)
        return Transfer(objective, Taps(frozenset()), Taps(frozenset()))
    ours, theirs = Shape.of(student), Shape.of(teacher)
    given = settings.layer_map
    pairs = layer_map(ours.layers, theirs.layers, matched if given is None else given)
    last = [(-1, -1)]
    mapped = pairs if given and "attention" in weights else last
    before = last if "relation" in weights and mapped != last else []
    read, seen = (tuple(zip(*each, strict=True)) for each in (pairs, [*before, *mapped]))
    widths = {"student_width": ours.width, "teacher_width": theirs.width}
    # Only the mapped layers are read, so the loss counts them from 0.
    options: dict[str, dict[str, Any]] = {
        "hidden": {"layers": [(i, i) for i in range(len(pairs))], **widths},
        "attention": {"layers": [(i, i) for i in range(len(before), len(seen[0]))]},
        **{name: widths for name in EMBEDDINGS},
    }
    reads = {name.removeprefix("teacher.") for loss in weights for name in LOSSES[loss].reads}
    wanted = INTERMEDIATE & reads - {*task.outputs}
    back_only = _back_only(wanted, (teacher, student), (theirs.heads, ours.heads), mapped, probe)
    heads = _relation_heads(chosen.get("relation", {}).get("heads"), ours.width, theirs.width)
    options["relation"] = {"heads": heads, "back_only": any(back_only)}
    options = {name: {**options.get(name, {}), **chosen.get(name, {})} for name in weights}
    return Transfer(
        Objective(weights, options, classes=classes, parts=parts),
        Taps(wanted, read[0], seen[0], ours.heads, back_only[1]),
        Taps(wanted, read[1], seen[1], theirs.heads, back_only[0]),
    )


def _back_only(
    wanted: frozenset[str],
    models: tuple[nn.Module, nn.Module],
    heads: tuple[int, int],
    mapped: LayerMap,
    probe: Probe | None,
) -> tuple[bool, bool]:
    """Whether teacher and student see only what comes before; refuse what they cannot compare."""
    attentions = "attentions" in wanted
    if probe is None or not (attentions or "qkv" in wanted):
        return False, False
    seen = [t for _, t in mapped], [s for s, _ in mapped]
    teacher, student = (
        examine(model, count, feeds, attentions=attentions, layers=layers)
        for model, count, feeds, layers in zip(models, heads, probe(), seen, strict=True)
    )
    if attentions and teacher != student:
        raise InputError(
            "one of teacher and student sees a whole text and the other only what comes before, so"
            " they cannot look at the same places; use relation_weight or hidden_weight"
        )
    return teacher, student


def _relation_heads(asked: int | None, *widths: int) -> int:
    usable = [n for n in range(1, max(widths) + 1) if all(w % n == 0 for w in widths)]
    if asked is not None and asked not in usable:
        raise InputError(
            f"{asked} relation heads do not divide the widths {' and '.join(map(str, widths))};"
            f" give one of {', '.join(map(str, usable))}"
        )
    return asked or max(n for n in usable if n <= RELATION_HEADS)
