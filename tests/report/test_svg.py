from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from edgekd.report.svg import Axis, Canvas, around

values = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=8)


@given(values, st.booleans())
def test_ticks_are_few_and_inside(points: list[float], log: bool) -> None:
    axis = Axis(*around(points, log=log), 0, 400, log=log)
    ticks = axis.ticks()
    slack = 1e-9 * abs(axis.high)
    assert len(ticks) <= 20
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)
    assert ticks == sorted(ticks)
    if not log:
        assert len(ticks) >= 2
    assert all(-0.01 <= axis(point) <= 400.01 for point in points)


@given(values)
def test_an_axis_keeps_the_order(points: list[float]) -> None:
    axis = Axis(*around(points, log=True), 400, 0, log=True)
    places = [axis(point) for point in sorted(points)]
    assert places == sorted(places, reverse=True)


def test_labels_avoid_each_other() -> None:
    canvas = Canvas(400, 300, "two points in one place")
    inside = Axis(0, 1, 0, 400)
    for name in ("one", "two", "three"):
        canvas.label(200, 150, name, "name", inside)
    boxes = canvas._taken
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_text_is_escaped() -> None:
    canvas = Canvas(10, 10, '<script> & "quotes"')
    canvas.text(0, 0, "</text><script>")
    root = ElementTree.fromstring(canvas.markup())
    assert [node.text for node in root] == ['<script> & "quotes"', "</text><script>"]
