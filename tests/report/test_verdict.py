from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgekd.errors import InputError
from edgekd.report.verdict import Line, check, verdict


@pytest.mark.parametrize(
    ("name", "limit", "value", "status"),
    [
        ("retained", 0.985, 0.985, "passed"),
        ("retained", 0.985, 0.9849, "failed"),
        ("size", 6e6, 6e6, "passed"),
        ("size", 6e6, 6e6 + 1, "failed"),
        ("speedup", 5, 4.9, "failed"),
        ("latency_p50", 2, 1.9, "passed"),
        ("latency_p50", 2, None, "unchecked"),
        ("latency_p50", 2, (0.1, 0.2), "unchecked"),
        ("latency_p50", 2, (5, 9), "unchecked"),
        ("load", 100, 99, "passed"),
    ],
)
def test_a_line_is_held_against_its_limit(
    name: str, limit: float, value: float | tuple[float, float] | None, status: str
) -> None:
    line = check(name, limit, value)
    assert line.status == status
    assert (line.reason is not None) == (status == "unchecked")


@pytest.mark.parametrize(
    ("limit", "status"), [(3.9, "failed"), (4, "inconclusive"), (5, "inconclusive"), (6, "passed")]
)
def test_a_projected_range_decides_only_on_request(limit: float, status: str) -> None:
    assert check("latency_p50", limit, (4, 6)).status == "unchecked"
    line = check("latency_p50", limit, (4, 6), profile="phone", gate_projections=True)
    assert (line.status, line.value, line.evidence) == (status, None, "projected")
    assert "is projected from 4" in line.sentence
    assert verdict([line]).exit_code == {"passed": 0, "failed": 1, "inconclusive": 3}[status]


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        check("size", 6e6, float("nan"))


def test_the_point_estimate_decides_unless_the_interval_is_asked() -> None:
    assert check("retained", 0.985, 0.986).status == "passed"
    assert check("retained", 0.985, 0.986, interval=(0.98, 0.99)).status == "inconclusive"
    assert check("retained", 0.985, 0.986, interval=(0.9851, 0.99)).status == "passed"


GOOD = check("size", 6e6, 5e6)
BAD = check("size", 6e6, 7.1e6)
OPEN = check("retained", 0.985, 0.986, interval=(0.98, 0.99))
UNSEEN = check("latency_p50", 2, None, profile="phone-ios", reason="no phone")


@pytest.mark.parametrize(
    ("lines", "strict", "status", "code"),
    [
        ([], False, "passed", 0),
        ([GOOD], False, "passed", 0),
        ([GOOD, BAD, OPEN, UNSEEN], False, "failed", 1),
        ([GOOD, OPEN], False, "inconclusive", 3),
        ([GOOD, UNSEEN], False, "passed", 0),
        ([GOOD, UNSEEN], True, "inconclusive", 3),
        ([BAD, UNSEEN], True, "failed", 1),
    ],
)
def test_lines_make_the_verdict_and_its_exit_code(
    lines: list[Line], strict: bool, status: str, code: int
) -> None:
    found = verdict(lines, strict=strict)
    assert (found.status, found.exit_code) == (status, code)


def test_the_reason_says_what_where_and_how_much() -> None:
    assert verdict([BAD]).reason == "Model size is 7.10 MB, at most 6 MB was asked"
    assert "Median latency (phone-ios)" in verdict([UNSEEN], strict=True).reason
    assert "no phone" in verdict([UNSEEN], strict=True).reason
    assert verdict([GOOD, UNSEEN]).reason == (
        "1 of 2 budget lines held; unchecked: median latency on phone-ios"
    )


def test_an_unknown_line_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'retained'"):
        check("retaind", 1, 1)
