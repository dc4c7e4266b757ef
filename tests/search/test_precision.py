from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.statistics import Interval
from edgekd.errors import InconclusiveError, InputError, MissingDependency, VerificationError
from edgekd.evaluate.noise import Expected
from edgekd.search.finalists import TIE, WORTH
from edgekd.search.precision import choose, closest, coarse
from edgekd.search.trial import Budget, Candidate, Choice, Cost, Scores

GROUPS = ("stem", "body", "head")
LATENCY = {"fp32": 10.0, "int8": 4.0, "int4": 3.0, "fp16": 12.0}
SIZE = {"fp32": 400, "int8": 100, "int4": 50, "fp16": 200}


@dataclass
class World:
    """Each group costs its accuracy in a precision, and a third of the saving when kept."""

    costs: dict[str, dict[str, float]]
    broken: frozenset[str] = frozenset()
    refused_above: float = float("inf")
    asked: list[Candidate] = field(default_factory=list)

    def damage(self, candidate: Candidate) -> float:
        if candidate.precision in self.broken:
            raise MissingDependency(f"{candidate.precision} cannot be made")
        if set(candidate.kept) == set(GROUPS):
            raise InputError("nothing left to compress")
        costs = self.costs.get(candidate.precision, {})
        return sum(cost for group, cost in costs.items() if group not in candidate.kept)

    def loss(self, candidate: Candidate) -> float:
        loss = self.damage(candidate)
        if loss > self.refused_above:
            raise VerificationError("the outputs are too far off")
        return loss

    def accuracy(self, candidate: Candidate) -> float:
        self.asked.append(candidate)
        return 0.9 - self.loss(candidate)

    def cost(self, candidate: Candidate) -> Cost:
        share = len(candidate.kept) / len(GROUPS)
        name = candidate.precision
        return Cost(
            LATENCY[name] + share * (LATENCY["fp32"] - LATENCY[name]),
            round(SIZE[name] + share * (SIZE["fp32"] - SIZE[name])),
        )

    def choose(self, ladder: tuple[str, ...], budget: Budget) -> Choice:
        scores = Scores(self.accuracy, self.cost, self.damage)
        return choose(ladder, GROUPS, scores, budget)


def test_the_fastest_inside_the_budget_wins() -> None:
    world = World({"int8": {"body": 0.004}, "int4": {"body": 0.5}})
    found = world.choose(("fp32", "int8"), Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate == Candidate("int8")
    assert found.ranking == () and found.nearest is None


def test_a_drop_that_only_luck_hid_is_repaired() -> None:
    world = World({"int8": {"stem": 0.004, "body": 0.001, "head": 0.3}})

    def lucky(candidate: Candidate) -> float:
        return 0.9

    def expected(candidate: Candidate) -> Expected:
        return Expected(world.damage(candidate), world.damage(candidate) + 0.001)

    scores = Scores(lucky, world.cost, world.damage, expected=expected)
    found = choose(("fp32", "int8"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate == Candidate("int8", ("head",))
    whole = found.trials[1]
    assert whole.drop == 0 and whole.expected_drop == pytest.approx(0.305) and not whole.within
    assert found.trials[0].drop_bound is None
    # Inside by less than the rows can tell is not inside.
    narrow = choose(("fp32", "int8"), GROUPS, scores, Budget(0.0055))
    assert narrow.chosen is not None and narrow.chosen.candidate.kept == ("head", "stem")


def test_the_worst_group_goes_back_to_float() -> None:
    world = World({"int8": {"stem": 0.004, "body": 0.001, "head": 0.3}})
    found = world.choose(("fp32", "int8"), Budget(0.01))
    assert found.chosen is not None
    assert found.chosen.candidate == Candidate("int8", ("head",))
    assert [item.group for item in found.ranking] == ["head", "stem", "body"]
    assert found.ranking[0].remaining == pytest.approx(0.005)
    assert found.chosen.larger and found.chosen.slower  # than the whole-model rung


def test_a_faster_rung_whose_repair_is_dear_does_not_hide_a_cheap_one() -> None:
    world = World({"int4": {"stem": 0.5, "body": 0.5}, "int8": {"head": 0.02}})
    found = world.choose(("fp32", "int8", "int4"), Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate == Candidate("int8", ("head",))
    dear = next(t for t in found.trials if t.candidate == Candidate("int4", ("stem", "body")))
    assert dear.within and dear.latency_ms is not None and found.chosen.latency_ms is not None
    assert found.chosen.latency_ms < dear.latency_ms
    assert [item.precision for item in found.ranking] == ["int8"] * 3 + [
        "int4"
    ] * 3  # its own first


def test_more_groups_are_kept_until_it_fits() -> None:
    world = World({"int8": {"stem": 0.2, "head": 0.3}})
    found = world.choose(("fp32", "int8"), Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.kept == ("head", "stem")
    assert [trial.candidate.kept for trial in found.trials] == [(), (), ("head",), ("head", "stem")]


def test_the_fewest_groups_are_found_by_doubling_and_halving() -> None:
    groups = [f"layer.{i:02}" for i in range(40)]
    needed = 11
    costs = {group: 0.1 + 0.01 * (needed - i) for i, group in enumerate(groups[:needed])}

    def loss(candidate: Candidate) -> float:
        if candidate.precision == "fp32":
            return 0.0
        return sum(cost for group, cost in costs.items() if group not in candidate.kept)

    def cost(candidate: Candidate) -> Cost:
        return Cost(5.0 if candidate.precision == "int8" else 10.0, 100 + len(candidate.kept))

    scores = Scores(lambda candidate: 0.9 - loss(candidate), cost, loss)
    found = choose(("fp32", "int8"), groups, scores, Budget(0.01))
    assert found.chosen is not None
    assert list(found.chosen.candidate.kept) == groups[:needed]
    assert [len(t.candidate.kept) for t in found.trials[2:]] == [1, 2, 4, 8, 16, 12, 10, 11]


def test_a_deep_network_is_ranked_block_by_block() -> None:
    inner = ["expand", "depthwise", "reduce"]
    deep = [f"net.layer.{i}.{name}" for i in range(16) for name in inner] + ["net.stem", "head"]
    assert coarse(deep) == [*(f"net.layer.{i}" for i in range(16)), "net.stem", "head"]
    assert coarse(deep[:20]) == deep[:20]
    wide = [f"net.{i}" for i in range(60)]
    assert coarse(wide) == wide and coarse([]) == []


def test_a_rung_slower_than_the_winner_is_not_repaired() -> None:
    world = World({"int4": {}, "int8": {"head": 0.5}})
    found = world.choose(("fp32", "int8", "int4"), Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "int4"
    assert found.ranking == ()


def test_without_a_clock_a_smaller_rung_is_repaired() -> None:
    world = World({"int8": {"head": 0.5}})
    scores = Scores(world.accuracy, lambda c: Cost(None, world.cost(c).size_bytes), world.damage)
    found = choose(("fp32", "int8"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate == Candidate("int8", ("head",))


def test_without_a_clock_the_smallest_wins() -> None:
    world = World({})
    scores = Scores(world.accuracy, lambda c: Cost(None, SIZE[c.precision]), world.damage)
    found = choose(("fp32", "int4", "int8"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "int4"
    assert not any(trial.slower for trial in found.trials)
    limited = choose(("fp32", "int4"), GROUPS, scores, Budget(0.01, max_latency_ms=1e9))
    assert limited.chosen is None  # what was not timed is inside no limit


def test_a_rung_does_not_win_by_being_untimed() -> None:
    world = World({"int8": {"head": 0.5}})

    def cost(candidate: Candidate) -> Cost:
        untimed = candidate.precision == "int4"
        return Cost(None if untimed else world.cost(candidate).latency_ms, 10)

    scores = Scores(world.accuracy, cost, world.damage)
    found = choose(("fp32", "int4", "fp16"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "fp32"


def test_slower_and_larger_rungs_are_marked() -> None:
    found = World({}).choose(("fp32", "int4", "fp16"), Budget(0.01))
    marks = {trial.candidate.precision: (trial.slower, trial.larger) for trial in found.trials}
    assert marks == {"fp32": (False, False), "int4": (False, False), "fp16": (True, True)}


def test_a_broken_rung_is_a_row_and_not_the_end() -> None:
    world = World({}, broken=frozenset({"int8"}))
    found = world.choose(("fp32", "int8", "int4"), Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "int4"
    row = found.trials[1]
    assert row.failure == "int8 cannot be made" and row.accuracy is None and not row.within


def test_what_a_library_raises_ends_one_rung() -> None:
    world = World({})

    def cost(candidate: Candidate) -> Cost:
        if candidate.precision == "int8":
            raise RuntimeError("no kernel\nfor it")
        return world.cost(candidate)

    scores = Scores(world.accuracy, cost, world.damage)
    found = choose(("fp32", "int8", "int4"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "int4"
    assert found.trials[1].failure == "RuntimeError: no kernel for it"


def test_a_rung_over_a_limit_is_not_repaired() -> None:
    world = World({"int8": {"head": 0.5}})
    found = world.choose(("fp32", "int8"), Budget(0.01, max_size_bytes=90))
    assert found.chosen is None and found.ranking == () and len(found.trials) == 2
    assert closest(found.trials, Budget(0.01, max_size_bytes=90)).candidate.precision == "fp32"


def test_a_refused_rung_is_repaired_too() -> None:
    world = World({"int8": {"body": 0.9, "head": 0.002}}, refused_above=0.5)
    found = world.choose(("fp32", "int8"), Budget(0.01))
    assert found.trials[1].refused and found.trials[1].latency_ms is None
    ranked = [(item.group, item.remaining) for item in found.ranking]  # none fit for a bundle
    assert ranked[1:] == [("head", pytest.approx(0.9)), ("stem", pytest.approx(0.902))]
    assert found.chosen is not None and found.chosen.candidate == Candidate("int8", ("body",))


def test_a_broken_reference_is_the_end() -> None:
    with pytest.raises(MissingDependency):
        World({}, broken=frozenset({"fp32"})).choose(("fp32", "int8"), Budget(0.01))
    with pytest.raises(InputError, match="no precision"):
        World({}).choose((), Budget(0.01))


def test_a_budget_that_nothing_meets_names_the_nearest_miss() -> None:
    world = World({"int8": {"body": 0.004}})
    found = world.choose(("fp32", "int8"), Budget(0.01, max_latency_ms=3.9))
    assert found.chosen is None and found.nearest is not None
    assert found.nearest.candidate == Candidate("int8")


def test_a_tie_goes_to_the_smaller() -> None:
    world = World({})
    scores = Scores(
        world.accuracy,
        lambda c: Cost(1.0 if c.precision == "fp32" else 1.0 + TIE / 2, SIZE[c.precision]),
        world.loss,
    )
    found = choose(("fp32", "int8"), GROUPS, scores, Budget(0.01))
    assert found.chosen is not None and found.chosen.candidate.precision == "int8"


def test_only_what_is_close_is_timed_again() -> None:
    raced: list[str] = []

    def race(candidates: Sequence[Candidate]) -> Callable[[Candidate, Candidate], Interval]:
        raced.extend(candidate.precision for candidate in candidates)
        return lambda above, below: Interval(1.0, 0.9, 1.1)

    world = World({})
    latency = {"fp32": 1.0, "int8": 1.1, "int4": 0.9, "fp16": 1.2}
    scores = Scores(
        world.accuracy,
        lambda c: Cost(latency[c.precision], SIZE[c.precision]),
        world.damage,
        race,
    )
    found = choose(("fp32", "int8", "int4", "fp16"), GROUPS, scores, Budget(0.01))
    assert raced == ["fp32", "int8", "int4"]
    assert found.chosen is not None and found.chosen.candidate.precision == "int4"
    assert [bool(trial.note) for trial in found.trials] == [True, True, True, False]
    assert found.chosen in found.trials


def test_where_side_by_side_fails_the_times_taken_alone_decide() -> None:
    def race(candidates: Sequence[Candidate]) -> Callable[[Candidate, Candidate], Interval]:
        raise InconclusiveError("the page stopped answering")

    world = World({})
    latency = {"fp32": 1.0, "int8": 1.1, "int4": 0.9}
    scores = Scores(
        world.accuracy,
        lambda c: Cost(latency[c.precision], SIZE[c.precision]),
        world.damage,
        race,
    )
    found = choose(("fp32", "int8", "int4"), GROUPS, scores, Budget(0.01))
    assert found.chosen in found.trials and found.chosen is not None
    assert found.chosen.candidate.precision == "int4"
    for trial in found.trials:
        assert (trial.note or "").endswith("side by side failed: the page stopped answering")


def test_a_rung_without_a_time_says_why() -> None:
    world = World({})
    scores = Scores(world.accuracy, lambda c: Cost(None, 1, "no clock"), world.damage)
    assert choose(("fp32",), GROUPS, scores, Budget(0.01)).trials[0].note == "no clock"


costs = st.dictionaries(st.sampled_from(GROUPS), st.floats(0, 0.1))


@given(costs, costs, st.floats(0, 0.2))
def test_laws(int8: dict[str, float], int4: dict[str, float], max_drop: float) -> None:
    world = World({"int8": int8, "int4": int4})
    found = world.choose(("fp32", "int8", "int4"), Budget(max_drop))
    assert found.chosen is not None  # float always loses nothing
    assert found.chosen.drop is not None and found.chosen.drop <= max_drop
    inside = [trial for trial in found.trials if trial.within]
    assert found.chosen in inside
    for trial in inside:
        assert trial.latency_ms is not None and found.chosen.latency_ms is not None
        assert found.chosen.latency_ms <= trial.latency_ms * (1 + WORTH)
    candidates = [trial.candidate for trial in found.trials]
    assert len(set(candidates)) == len(candidates) == len(world.asked)  # nothing twice
