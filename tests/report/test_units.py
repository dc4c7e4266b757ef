from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.size(91_234_567), "91.2 MB"),
        (units.size(5_750_000), "5.75 MB"),
        (units.size(940), "940 B"),
        (units.duration_ms(1.4142), "1.41 ms"),
        (units.duration_ms(0.0314), "31.4 µs"),
        (units.duration_ms(2310), "2.31 s"),
        (units.seconds(125.2), "2 min 05 s"),
        (units.seconds(4810), "1 h 20 min"),
        (units.percent(0.99324), "99.3 %"),
        (units.points(-0.0031), "−0.3 points"),
        (units.times(5.83), "5.8×"),
        (units.times(15.9), "16×"),
        (units.count(22_713_293), "22.7 M"),
        (units.count(3080), "3,080"),
        (units.size(None), "–"),
        (units.span("1.37 ms", "1.47 ms"), "1.37–1.47 ms"),
        (units.span("900 µs", "1.1 ms", " to "), "900 µs to 1.1 ms"),
        (units.span("4.9×", "5.8×"), "4.9×–5.8×"),
        (units.short("6.00 MB"), "6 MB"),
        (units.short("0.900 ms"), "0.9 ms"),
        (units.short("100 MB"), "100 MB"),
        (units.short("1,000 kB"), "1,000 kB"),
        (units.short("98.50 %"), "98.5 %"),
    ],
)
def test_numbers_read_as_people_write_them(text: str, expected: str) -> None:
    assert text == expected


@given(st.floats(1, 1e11))
def test_a_printed_size_is_right_within_half_a_percent(value: float) -> None:
    number, unit = units.size(value).replace(",", "").split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert float(number) * scale == pytest.approx(value, rel=0.0051, abs=0.5)
    short, _ = units.short(f"{number} {unit}").split()
    assert float(short) == float(number)
