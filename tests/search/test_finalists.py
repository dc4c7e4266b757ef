from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.statistics import Interval
from edgekd.search.finalists import WORTH, close, fastest, settle
from edgekd.search.trial import Candidate, Trial


def _finalist(name: str, size: int, latency: float = 1.0) -> Trial:
    return Trial(Candidate(name), 0.9, 0.0, latency, size, within=True)


SPREAD = {"told": 0.01, "noisy": 0.3}  # half widths of the intervals


def _settle(true: dict[str, tuple[float, int]], half: float) -> tuple[str, dict[str, str | None]]:
    """The winner and the notes, where each pair's ratio is known to within ``half``."""

    def ratio(above: Candidate, below: Candidate) -> Interval:
        value = true[above.precision][0] / true[below.precision][0]
        return Interval(value, value - half, value + half)

    noted = settle([_finalist(name, size) for name, (_, size) in true.items()], ratio)
    return next(iter(noted)).precision, {c.precision: t.note for c, t in noted.items()}


def test_side_by_side_the_faster_wins_where_it_is_told_apart() -> None:
    true = {"fp32-fused": (1.0, 400), "int8": (0.9, 100), "int4": (1.05, 50)}
    winner, notes = _settle(true, SPREAD["told"])
    assert winner == "int8" and notes["int8"] == "the fastest side by side"
    assert notes["int4"] == "side by side 1.17 times the fastest's median (1.16 to 1.18)"


def test_side_by_side_noise_never_chooses_the_larger() -> None:
    winner, notes = _settle({"fp32-fused": (0.95, 400), "int8": (1.0, 100)}, SPREAD["noisy"])
    assert winner == "int8"
    assert (notes["int8"] or "").endswith("not told apart; chosen at 25% of its size")


def test_a_size_within_the_tie_does_not_outweigh_the_speed() -> None:
    assert _settle({"a": (1.0, 1000), "b": (1.04, 999)}, SPREAD["noisy"])[0] == "a"


def test_noise_does_not_make_a_little_size_worth_much_time() -> None:
    true = {"int8": (1.0, 1000), "int8-fused": (1.08, 970)}
    winner, notes = _settle(true, SPREAD["noisy"])
    assert winner == "int8" and (notes["int8-fused"] or "").endswith("not told apart")


def test_of_equally_fast_the_smaller_wins() -> None:
    true = {"int8-fused": (1.0, 5_491), "int8-static": (0.99, 5_506)}
    assert _settle(true, SPREAD["noisy"])[0] == "int8-fused"


def test_of_equals_the_plainer_rung_wins() -> None:
    true = {"int8": (1.01, 1000), "int8-reduced": (1.0, 1000)}
    winner, notes = _settle(true, SPREAD["noisy"])
    assert winner == "int8" and (notes["int8"] or "").endswith("chosen as the plainer")


def test_a_far_smaller_rung_may_be_a_little_slower() -> None:
    assert _settle({"fp32": (1.0, 469), "int8": (1.045, 139)}, SPREAD["told"])[0] == "int8"
    assert _settle({"fp32": (1.0, 469), "int8": (1.12, 139)}, SPREAD["told"])[0] == "fp32"
    assert _settle({"fp32": (1.0, 469), "int8": (1.045, 300)}, SPREAD["told"])[0] == "fp32"
    notes = _settle({"fp32": (1.0, 400), "int8": (1.05, 100)}, SPREAD["told"])[1]
    assert (notes["int8"] or "").endswith("(1.04 to 1.06); chosen at 25% of its size")


timed = st.tuples(st.floats(0.5, 2.0), st.integers(1, 1000))


@given(st.lists(timed, min_size=1, max_size=6))
def test_no_loser_is_faster_and_smaller(measured: list[tuple[float, int]]) -> None:
    trials = [_finalist(str(i), size, pace) for i, (pace, size) in enumerate(measured)]
    won = fastest(trials)
    assert won is not None and won.latency_ms is not None and won.size_bytes is not None
    for trial in trials:
        assert trial.latency_ms is not None and trial.size_bytes is not None
        assert won.latency_ms <= trial.latency_ms * (1 + WORTH)
        assert not (trial.latency_ms < won.latency_ms and trial.size_bytes < won.size_bytes)


def test_untimed_rungs_come_last_and_the_smallest_of_them_first() -> None:
    big, small = Trial(Candidate("a"), 0.9, 0.0, None, 9), Trial(Candidate("b"), 0.9, 0.0, None, 5)
    assert fastest([big, small]) is small
    assert fastest([small, _finalist("c", 90)]) == _finalist("c", 90)
    assert close([small]) == [] and fastest([]) is None
