"""``student: {params: …}`` and ``{size_mb: …}``: hand the search what a shape costs.

What costs the task nothing goes first: pieces of the vocabulary that no row uses and positions
that no row reaches. The search then chooses layers and widths, and its answer is a recipe's
student with every size spelt out.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import InputError
from edgekd.preprocess import Row, TextPreprocessor
from edgekd.recipe import Recipe
from edgekd.search.shape import Shape, choose, choose_layers
from edgekd.sections import Student

if TYPE_CHECKING:
    from torch import nn

    from edgekd.distill.student.anatomy import Weights
    from edgekd.models import LoadedModel
    from edgekd.pipeline.context import Context

GRAPH_BYTES = 12_000  # of a model file per layer, beside its weights
SCALE_BYTES = 5  # scale and zero point of one output channel
FLOAT_BITS = 32


@dataclass(frozen=True)
class Chosen:
    """A student with its shape spelt out, and why; ``why`` is empty where the recipe did it."""

    student: Student
    why: str = ""
    precision: str | None = None  # that the size is estimated at
    estimated_bytes: int | None = None
    estimated_params: int | None = None

    def to_dict(self) -> dict[str, Any] | None:
        """Plain JSON for the stage's record; None where nothing was chosen."""
        if not self.why:
            return None
        return {
            "why": self.why,
            "layers": self.student.layers,
            **self.student.widths,
            "vocabulary": self.student.vocabulary,
            "precision": self.precision,
            "estimated_bytes": self.estimated_bytes,
            "params": self.estimated_params,
        }


def resolve(context: Context, rows: Sequence[Row]) -> Chosen:
    """Spell out the recipe's student; ``rows`` say which pieces a trimmed vocabulary keeps.

    Raises :class:`edgekd.errors.InputError` for a limit that nothing meets, which it names.
    """
    from edgekd.distill.student import build

    spec = context.recipe.student
    if not spec.limited:
        return Chosen(spec)
    teacher, length = context.teacher, context.max_length or 0
    # A distribution over a vocabulary is taught to one who has the same.
    trims = isinstance(teacher.preprocessor, TextPreprocessor) and not context.task.over_vocabulary
    vocabulary = spec.vocabulary or ("trim" if trims else "keep")
    whole = build(Student(vocabulary=vocabulary), teacher, context.task, rows, length, 0).model
    precision, bits = smallest_precision(context.recipe)

    def price(found: Weights, layers: int) -> int:
        return found.total if spec.params is not None else estimate(found, layers, bits)

    if spec.params is not None:
        limit = spec.params if spec.params > 1 else spec.params * teacher.parameters
    else:
        limit = (spec.size_mb or 0) * 1e6

    def say(value: float) -> str:
        if spec.params is None:
            return f"{value / 1e6:.2f} MB at {precision}"
        return f"{value:,.0f} parameters ({value / teacher.parameters:.1%} of the teacher's)"

    sizes, found, why = _search(whole, price, limit, say)
    student = Student(vocabulary=vocabulary, dropout=spec.dropout, **sizes)
    size = estimate(found, len(sizes["layers"]), bits)
    return Chosen(student, why, precision, size, found.total)


def _search(
    whole: nn.Module,
    price: Callable[[Weights, int], int],
    limit: float,
    say: Callable[[float], str],
) -> tuple[dict[str, Any], Weights, str]:
    """A student's ``layers`` and widths that fit, the weights that it has, and why it is this one.

    ``price`` of weights and a number of layers is held against ``limit``.
    """
    from edgekd.distill.student import dissect, even_layers, layer_list, weights_of
    from edgekd.distill.student.anatomy import Sizes

    try:
        anatomy = dissect(whole)
    except InputError as error:
        depth = layer_list(whole)[1]

        def left(layers: int) -> Weights:
            return weights_of(whole, even_layers(layers, depth))

        count, why = choose_layers(
            depth, lambda n: price(left(n), n), limit, say, str(error).partition(";")[0]
        )
        return {"layers": even_layers(count, depth)}, left(count), why
    own = anatomy.sizes

    def weights(shape: Shape) -> Weights:
        sizes = Sizes(shape.hidden, shape.heads, shape.intermediate, shape.embedding)
        return anatomy.count(shape.layers, sizes)

    start = Shape(anatomy.depth, own.heads, own.head_size, own.intermediate, own.embedding)
    choice = choose(start, lambda shape: price(weights(shape), shape.layers), limit, say)
    shape = choice.shape
    asked = {
        "heads": (shape.heads, own.heads),
        "hidden_size": (shape.hidden, own.hidden),
        "intermediate_size": (shape.intermediate, own.intermediate),
        "embedding_size": (shape.embedding, own.embedding),
    }
    sizes = {name: ours for name, (ours, theirs) in asked.items() if ours != theirs}
    layers = even_layers(shape.layers, anatomy.depth)
    return {"layers": layers, **sizes}, weights(shape), choice.why


def check(context: Context, teacher: LoadedModel) -> None:
    """Refuse a shape that ``teacher``, which may not have been fitted yet, cannot give.

    Of stages it is the first one's: the others are made of the models before them.
    """
    from edgekd.distill.student import check_shape

    trial = copy.copy(context)
    trial.__dict__["teacher"] = teacher
    if context.recipe.stages:
        first = context.recipe.stages[0]
        spec = Student() if first.task else first.student
        trial.recipe = context.recipe.model_copy(update={"student": spec})
    check_shape(trial.recipe.student, teacher.model)
    resolve(trial, [*context.train, *context.unlabelled])


def copied_layers(context: Context, student: LoadedModel) -> list[int] | None:
    """Which of the teacher's layers the student has; None where it was not made of them."""
    from edgekd.distill.student import even_layers, layer_list

    spec = context.recipe.student
    if not spec.limited:
        return None if spec.model else spec.layers
    return even_layers(layer_list(student.model)[1], layer_list(context.teacher.model)[1])


def describe(spec: Student, teacher: LoadedModel) -> str:
    """The student's origin in a few words, for the report."""
    dropout = "" if spec.dropout is None else f", dropout {spec.dropout:g}"
    plural = "s" if len(spec.layers or ()) > 1 else ""
    layers = f"layer{plural} {', '.join(map(str, spec.layers or ()))} of "
    if spec.config:
        return f"a {spec.config.get('model_type')} from its config{dropout}"
    if spec.model:
        return f"{layers if spec.layers else ''}{named(spec.model)}{dropout}"
    total = getattr(teacher.model.config, "num_hidden_layers", "?")
    rest = "".join(f", {name.replace('_', ' ')} {size}" for name, size in spec.widths.items())
    rest += ", vocabulary trimmed" if spec.vocabulary == "trim" else ""
    origin = (
        f"{layers}the teacher's {total}" if spec.layers else "the teacher's own shape, all layers"
    )
    return origin + rest + dropout


def named(source: str | None) -> str:
    """A model in a report: its id, or the last name of its folder and never the path."""
    if source is None:
        return "a config, fitted here"
    return Path(source).name if Path(source).expanduser().exists() else source


def smallest_precision(recipe: Recipe) -> tuple[str, int]:
    """The precision of fewest bits per weight among the recipe's targets, and those bits."""
    from edgekd import exporter

    names: list[str] = []
    for target, settings in recipe.targets.items():
        asked = [name for name in settings.precisions if name != exporter.AUTO]
        names += asked or list(exporter.get(target).default_precisions)
    pairs = [(name, _bits(name)) for name in names or ["fp32"]]  # a stage is not deployed
    return min(pairs, key=lambda pair: pair[1])


def _bits(precision: str) -> int:
    """``int8`` 8, ``lut4-int8`` 4, ``a8w4`` 4 (weights), ``fp16`` 16."""
    found = re.search(r"(?:int|lut|fp|w)(\d+)", precision)
    return int(found[1]) if found else FLOAT_BITS


def estimate(weights: Weights, layers: int, bits: int) -> int:
    """Bytes of the files that a runtime loads: matrices compressed, vectors in float."""
    scales = 0 if bits == FLOAT_BITS else SCALE_BYTES * weights.channels
    return weights.matrices * bits // 8 + scales + weights.vectors * 4 + GRAPH_BYTES * layers
