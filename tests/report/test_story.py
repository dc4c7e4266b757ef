from __future__ import annotations

import pytest

from edgekd.report import story
from edgekd.report.document import BlindSpot, Document, Gain
from edgekd.report.plots import _thinned


@pytest.mark.parametrize(
    ("ci", "p_value", "expected"),
    [
        ((0.002, 0.011), 0.004, "above zero: distillation helped"),
        ((0.002, 0.011), None, "above zero: distillation helped"),
        ((0.002, 0.011), 0.06, "the exact test does not confirm it (p = 0.06)"),
        ((-0.011, -0.002), 0.004, "below zero: distillation hurt"),
        ((-0.001, 0.011), 0.2, "includes zero"),
        ((0.0, 0.0), 1.0, "includes zero"),
    ],
)
def test_a_gain_is_claimed_only_where_interval_and_test_agree(
    document: Document, ci: tuple[float, float], p_value: float | None, expected: str
) -> None:
    gain = Gain(metric="accuracy", value=sum(ci) / 2, ci=ci, p_value=p_value)
    assert expected in story.bought(document.model_copy(update={"gain": gain}))


def test_inherited_errors_say_what_they_are_counted_over(document: Document) -> None:
    assert story.inherited(document).startswith("Of the 560 examples of these 14 classes")
    spot = BlindSpot(label="a", examples=3080, teacher_errors=0, student_errors=1, inherited=0)
    whole = document.model_copy(update={"blind_spots": [spot]})
    assert story.inherited(whole).startswith("Of 3,080 examples the teacher gets none wrong")


def test_the_headline_claims_no_speed_without_the_teachers(document: Document) -> None:
    students = [row for row in document.bundles if row.model == "student"]
    alone = document.model_copy(update={"bundles": students})
    sentence = story.headline(alone)
    assert sentence == "The ONNX int8 bundle keeps 99.3 % of its teacher’s accuracy in 5.62 MB."


def test_a_long_curve_keeps_its_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(2400)]
    drawn = _thinned(points)
    assert len(drawn) == 120
    assert sum(v for _, v in drawn) / 120 == pytest.approx(sum(v for _, v in points) / 2400)
    assert _thinned(points[:50]) == points[:50]
