"""A canvas that writes SVG, and the axes that plots share.

Colours come from the page's style sheet by class, so that one drawing serves light, dark and
print. ElementTree escapes every text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from markupsafe import Markup

from edgekd.report import units

_CHARACTER = 6.2  # mean width of a character at the 11 px that labels are set in


@dataclass(frozen=True)
class Axis:
    """Maps values between ``low`` and ``high`` to pixels between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis: 1, 2 and 5 times powers of ten."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            inside = [s for s in steps if self.low <= s <= self.high]
            powers = [10.0**e for e in range(first, last + 1) if self.low <= 10.0**e <= self.high]
            if len(inside) <= count + 1 or len(powers) < 2:
                return inside
            return powers[:: math.ceil(len(powers) / (count + 1))]
        span = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(span))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= span * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def around(
    values: Sequence[float], *, log: bool = False, room: float = 0.08
) -> tuple[float, float]:
    """Low and high of an axis that shows ``values`` with some room on both sides."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** room, 1.25)
        return low / factor, high * factor
    margin = (high - low) * room or abs(high) * room or 1.0
    return low - margin, high + margin


@dataclass
class Canvas:
    """An SVG of ``width`` x ``height`` that scales with the page; ``title`` is read aloud."""

    width: float
    height: float
    title: str
    _root: ElementTree.Element = field(init=False, repr=False)
    _taken: list[tuple[float, float, float, float]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._root = ElementTree.Element(
            "svg",
            {"viewBox": f"0 0 {self.width:g} {self.height:g}", "role": "img", "class": "plot"},
        )
        self._root.set("width", f"{self.width:g}")
        self._root.set("height", f"{self.height:g}")
        self.add("title", self.title)

    def add(self, tag: str, text: str | None = None, **attributes: object) -> None:
        """Append an element; ``class_`` and ``text_anchor`` become class and text-anchor."""
        names = {key.rstrip("_").replace("_", "-"): str(v) for key, v in attributes.items()}
        ElementTree.SubElement(self._root, tag, names).text = text

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def text(self, x: float, y: float, text: str, class_: str = "", anchor: str = "start") -> None:
        self.add("text", text, x=round(x, 1), y=round(y, 1), class_=class_, text_anchor=anchor)

    def rect(
        self, x1: float, y1: float, x2: float, y2: float, class_: str, radius: float = 0
    ) -> None:
        self.add(
            "rect",
            x=min(x1, x2),
            y=min(y1, y2),
            width=round(abs(x2 - x1), 2),
            height=round(abs(y2 - y1), 2),
            rx=radius,
            class_=class_,
        )

    def path(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        self.add("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), class_=class_)

    def take(self, x1: float, y1: float, x2: float, y2: float, room: float = 2) -> None:
        """Keep labels off a line or box."""
        self._taken.append((x1 - room, min(y1, y2) - room, x2 + room, max(y1, y2) + room))

    def label(self, x: float, y: float, text: str, class_: str, inside: Axis) -> None:
        """Set ``text`` beside the point, on the first side that overlaps nothing set before."""
        width = len(text) * _CHARACTER
        gap, places = 9, []
        for dx, dy, anchor in (
            (gap, 4, "start"),
            (-gap, 4, "end"),
            (0, -gap, "middle"),
            (0, gap + 9, "middle"),
            (gap, -gap, "start"),
            (gap, gap + 9, "start"),
            (-gap, -gap, "end"),
            (-gap, gap + 9, "end"),
            (0, -gap - 14, "middle"),
            (0, gap + 23, "middle"),
        ):
            left = x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, y + dy - 10, left + width, y + dy + 2)
            outside = max(0.0, inside.start - box[0]) + max(0.0, box[2] - inside.end)
            places.append(
                (outside * 20 + sum(_overlap(box, o) for o in self._taken), dx, dy, anchor, box)
            )
        _, dx, dy, anchor, box = min(places, key=lambda place: place[0])
        self._taken.append(box)
        self.text(x + dx, y + dy, text, class_, anchor)

    def frame(
        self,
        x: Axis,
        y: Axis,
        x_text: Callable[[float], str],
        y_text: Callable[[float], str],
        x_title: str,
        y_title: str,
    ) -> None:
        """Grid lines with their values, and the titles of both axes."""
        for value in y.ticks():
            self.line(x.start, y(value), x.end, y(value), "grid")
            self.text(x.start - 8, y(value) + 4, units.short(y_text(value)), "tick", "end")
        for value in x.ticks():
            self.line(x(value), y.start, x(value), y.start + 4, "axis")
            self.text(x(value), y.start + 18, units.short(x_text(value)), "tick", "middle")
        self.text(0, 11, y_title, "title")
        self.line(x.start, y.start, x.end, y.start, "axis")
        self.text((x.start + x.end) / 2, y.start + 38, x_title, "title", "middle")

    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area that two boxes (left, top, right, bottom) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
