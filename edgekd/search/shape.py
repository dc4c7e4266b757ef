"""The shape of a student under a limit: how many layers, how wide.

Nothing here knows what a model is: a shape is a few numbers, its cost a function. The candidates
stand in one order of preference, and the first that fits is taken, so the choice can be said in a
sentence. The order keeps what is copied from the teacher as it is for as long as it can:

1. all of the teacher's layers, then fewer, down to two. Copied whole layers keep most: 99.4 % of
   the teacher with 4 of 12, 97.5 % with 2, 94.6 % with 1 (sentence-transformers on STSb);
2. where the family embeds at a width of its own, that width, down to a third of the hidden one
   (ALBERT, arXiv:1909.11942, loses little at a sixth);
3. the feed-forward of two layers, down to half;
4. heads, one by one, and the width with them; again the feed-forward first. On banking77 at 15 %
   of the teacher, two layers 320 wide came to 77.8 % after two epochs on 1,500 rows, two at the
   whole width with a sixth of the feed-forward to 75.7 %, one at the whole width to 32.5 %;
5. one layer, in the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edgekd.errors import InputError

FEW = 2  # layers, below which the width gives way first
STEPS = 32  # in which a feed-forward is cut


@dataclass(frozen=True)
class Shape:
    """``heads`` times ``head_size`` is the hidden width; a width of None is the hidden one."""

    layers: int
    heads: int
    head_size: int
    intermediate: int
    embedding: int | None = None

    @property
    def hidden(self) -> int:
        return self.heads * self.head_size


@dataclass(frozen=True)
class Choice:
    """The shape that was chosen, what it costs, and why it is this one."""

    shape: Shape
    cost: int
    why: str


def choose(
    teacher: Shape, cost: Callable[[Shape], int], limit: float, say: Callable[[float], str]
) -> Choice:
    """Return the first shape of :func:`candidates` whose cost is at most ``limit``.

    ``say`` writes a cost with its unit. Raises :class:`InputError` that names the smallest
    reachable one where nothing fits.
    """
    smallest: tuple[int, Shape] | None = None
    for shape in candidates(teacher):
        found = cost(shape)
        if found <= limit:
            return Choice(shape, found, _why(teacher, shape, found, limit, say))
        if smallest is None or found < smallest[0]:
            smallest = (found, shape)
    assert smallest is not None
    raise InputError(
        f"no student of this teacher fits {say(limit)}: the smallest reachable has"
        f" {say(smallest[0])} ({describe(teacher, smallest[1])}); ask for that, or give a smaller"
        " student as model: or config:"
    )


def candidates(teacher: Shape) -> Iterator[Shape]:
    """Every shape that is considered, the preferred ones first; the teacher's own is the first."""
    few = min(FEW, teacher.layers)
    for layers in range(teacher.layers, few - 1, -1):
        yield replace(teacher, layers=layers)
    for layers in range(few, 0, -1):
        yield from _embeddings(replace(teacher, layers=layers))
        for heads in range(teacher.heads, 0, -1):
            yield from _feed_forwards(_narrower(teacher, layers, heads))


def _embeddings(shape: Shape) -> Iterator[Shape]:
    """From the family's embedding width to the narrowest, halving the way left."""
    while shape != (narrowest := _factorised(shape)):
        yield shape
        assert shape.embedding is not None and narrowest.embedding is not None
        shape = replace(shape, embedding=(shape.embedding + narrowest.embedding) // 2)


def _factorised(shape: Shape) -> Shape:
    """The shape with the narrowest embedding, where its family has one."""
    if shape.embedding is None:
        return shape
    return replace(shape, embedding=min(shape.embedding, max(shape.hidden // 3, 1)))


def _feed_forwards(shape: Shape) -> Iterator[Shape]:
    """From the whole feed-forward to half of it, in even steps."""
    step = max(shape.intermediate // STEPS, 1)
    for width in range(shape.intermediate, max(shape.intermediate // 2, 1) - 1, -step):
        yield replace(shape, intermediate=width)


def _narrower(teacher: Shape, layers: int, heads: int) -> Shape:
    """Fewer layers and heads, the feed-forward in the teacher's ratio to the width."""
    width = max(teacher.intermediate * heads // teacher.heads, 1)
    return _factorised(replace(teacher, layers=layers, heads=heads, intermediate=width))


def describe(teacher: Shape, shape: Shape) -> str:
    """``2 of 6 layers, 8 of 12 heads (256 wide), feed-forward 512``."""
    words = [f"{shape.layers} of {teacher.layers} layer{'s' if teacher.layers > 1 else ''}"]
    if shape.heads == teacher.heads:
        words.append(f"the whole width of {shape.hidden}")
    else:
        words.append(f"{shape.heads} of {teacher.heads} heads ({shape.hidden} wide)")
    words.append(f"feed-forward {shape.intermediate} of {teacher.intermediate}")
    if shape.embedding is not None and shape.embedding != teacher.embedding:
        words.append(f"embedding {shape.embedding} of {teacher.embedding}")
    return ", ".join(words)


def _why(teacher: Shape, shape: Shape, cost: int, limit: float, say: Callable[[float], str]) -> str:
    what = f"{describe(teacher, shape)}: {say(cost)}, at most {say(limit)} asked"
    if shape == teacher:
        return f"{what}; the teacher's own shape fits"
    if replace(shape, layers=teacher.layers) == teacher:
        return f"{what}; layers are dropped first, and whole copied layers keep the most"
    if shape.layers < min(FEW, teacher.layers):
        return f"{what}; two layers do not fit even with a single head"
    if shape.heads == teacher.heads:
        return f"{what}; {shape.layers} whole layers do not fit, so the feed-forward gave way first"
    return f"{what}; {shape.layers} layers at the whole width do not fit, so heads gave way with it"
