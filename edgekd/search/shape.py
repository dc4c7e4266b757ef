"""The shape of a student under a limit: how many layers, how wide.

Nothing here knows what a model is: a shape is a few numbers, its cost a function. The candidates
stand in one order of preference, and the first that fits is taken, so the choice can be said in a
sentence:

1. where the family embeds at a width of its own, that width, down to a third of the hidden one
   (ALBERT, arXiv:1909.11942, loses little at a sixth);
2. heads, one by one, and the width with them, down to a third; at each width the feed-forward
   first, down to half of the teacher's ratio. Every layer stays;
3. layers, at a third of the width, down to one;
4. the rest of the heads.

Of a family whose width cannot be reduced, layers alone are dropped.

Depth is kept because the width's reduction is fitted to the rows and a dropped layer's is not.
banking77's teacher (6 layers, 384 wide) at 14 to 15 % of its parameters, after two epochs on 1,500
rows, one seed: 84.2 % for 6 layers 192 wide, 79.8 % for 3 of 256, 77.8 % for 2 of 320, 75.7 % for
2 of 384 with a sixth of the feed-forward, 32.5 % for 1 of 384; at 4 to 5 %, 67.2 % for 3 of 128,
63.7 % for 6 of 96, 61.0 % for 2 of 128, 3.3 % for 1 of 192. Fewer and wider layers run faster
on some devices: whoever wants them names ``layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edgekd.errors import InputError

NARROW = 3  # layers are kept until the width has come down to the teacher's over this
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


def choose_layers(
    total: int, cost: Callable[[int], int], limit: float, say: Callable[[float], str], reason: str
) -> tuple[int, str]:
    """How many of ``total`` layers fit, the most of them, and why; ``reason`` is why layers alone.

    Raises :class:`InputError` where a single one does not.
    """
    for layers in range(total, 0, -1):
        found = cost(layers)
        if found <= limit:
            what = f"{layers} of {total} layer{'s' if total > 1 else ''}, the whole width"
            return layers, f"{what}: {say(found)}, at most {say(limit)} asked; {reason}"
    raise InputError(
        f"no student of this teacher fits {say(limit)}: one of its {total} layers has"
        f" {say(cost(1))}, and {reason}; ask for that, or give a smaller student as model: or config:"
    )


def candidates(teacher: Shape) -> Iterator[Shape]:
    """Every shape that is considered, the preferred ones first; the teacher's own is the first."""
    yield from _embeddings(teacher)
    narrow = -(-teacher.heads // NARROW)
    for heads in range(teacher.heads, narrow - 1, -1):
        yield from _feed_forwards(_narrower(teacher, teacher.layers, heads))
    for layers in range(teacher.layers - 1, 0, -1):
        yield from _feed_forwards(_narrower(teacher, layers, narrow))
    for heads in range(narrow - 1, 0, -1):
        yield from _feed_forwards(_narrower(teacher, 1, heads))


def _embeddings(shape: Shape) -> Iterator[Shape]:
    """From the shape itself to the narrowest embedding, halving the way left."""
    if shape.embedding is None:
        yield shape
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
    if shape.layers < teacher.layers:
        reason = f"all {teacher.layers} layers do not fit even at a third of the width"
    elif shape.heads < teacher.heads:
        reason = "every layer is kept, for narrower layers keep more of the teacher than fewer ones"
    elif shape.intermediate < teacher.intermediate:
        reason = "the feed-forward gives way before the width"
    else:
        reason = "the embedding gives way before the layers"
    return f"{what}; {reason}"
