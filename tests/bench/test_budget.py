"""What a profile's budget makes of a measurement, and of a projection."""

import pytest

from edgekd.bench import budget
from edgekd.bench.measurement import Measurement, Round
from edgekd.bench.projection import Projection
from edgekd.profiles import Profile

FIGURE = {"value": "x", "source": "https://example.org/x"}
MB = 1_000_000


def measurement(projection=None, peak=100 * MB):
    evidence = "projected" if projection else "measured"
    rounds = (Round(5.0, 1.0, [1.0, 2.0, 3.0]),)
    exact = {"size_bytes": 10 * MB}
    return Measurement(
        "p", evidence, None, rounds, 3, peak, None, None, exact, {}, {}, {}, projection
    )  # fmt: skip


def profile(**limits):
    return Profile(
        name="p", title="p", target="onnx", where="elsewhere",
        hardware={"cpu": FIGURE, "memory": FIGURE}, **limits,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        ({"memory_cap": "101 MB"}, "passed", 0),
        ({"memory_cap": "99 MB"}, "failed", 1),
        ({"budget": {"memory": "99 MB"}}, "failed", 1),
        ({"budget": {"size": "9 MB"}}, "failed", 1),
        ({"budget": {"latency": "2 ms"}}, "passed", 0),
        ({"budget": {"latency": "1.9 ms"}}, "failed", 1),
        ({"budget": {"load": "4 ms"}}, "failed", 1),
    ],
)
def test_measured_values_decide(limits, status, code):
    (line,) = budget.check("b", profile(**limits), measurement())
    assert line.status == status and budget.exit_code([line], strict=False) == code


RANGE = Projection(low=4.0, high=6.0, factor=1.22, method="m", calibration="c")


@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [("3.9 ms", "failed", 1), ("5 ms", "inconclusive", 3), ("6 ms", "passed", 0)],
)
def test_projection_decides_only_where_it_was_asked_to(limit, status, code):
    phone = profile(budget={"latency": limit})
    (line,) = budget.check("b", phone, measurement(RANGE))
    assert (line.status, line.value, line.range) == ("unchecked", None, (4.0, 6.0))
    assert budget.exit_code([line], strict=False) == 0
    assert budget.exit_code([line], strict=True) == 3
    (line,) = budget.check("b", phone, measurement(RANGE), gate_projections=True)
    assert (line.status, line.value) == (status, None)
    assert budget.exit_code([line], strict=False) == code


def test_memory_of_this_machine_is_not_the_devices():
    (line,) = budget.check(
        "b", profile(memory_cap="1 MB"), measurement(RANGE), gate_projections=True
    )
    assert line.status == "unchecked"
