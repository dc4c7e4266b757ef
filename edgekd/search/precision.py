"""The fastest precision inside an accuracy budget, and what it took to find it.

First every rung of the ladder is tried on the whole model. Where a rung that would be faster
than the best one inside the budget misses it, the groups that cost the accuracy are found: each
is put back to float alone, the groups are ranked by what that repairs, and the worst are put
back together until the budget is met. (NNCF's ``quantize_with_accuracy_control`` reverts in the
same order.) Those that come out about equally fast are then timed side by side, since a rung timed
alone may owe its place to a quiet moment. Where nothing times the target the smallest wins, and a
rung that alone could not be timed never wins by that. Nothing here knows what a bundle is:
candidates are names, scores are functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgekd.errors import EdgekdError, InputError, VerificationError


@dataclass(frozen=True)
class Candidate:
    """A precision for the whole model but for the groups ``kept`` in float."""

    precision: str
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """``latency_ms`` is None where the candidate could not be timed, and ``why`` then says why."""

    latency_ms: float | None
    size_bytes: int
    why: str | None = None


@dataclass(frozen=True)
class Budget:
    """What a bundle may cost. ``max_drop`` is the absolute loss of the main metric against the
    float candidate, on the selection split; a limit of None is no limit. An untimed candidate is
    inside no limit of the latency."""

    max_drop: float
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None


@dataclass(frozen=True)
class Trial:
    """One candidate and what came out: a row of the report.

    ``failure`` says why a candidate could not be made or measured; its figures are then None.
    ``latency_ms`` is None too where nothing timed it. ``refused``: it was made, and its outputs
    were too far off to keep. ``slower`` and ``larger`` compare with the rung tried just above it.
    ``note`` says how a finalist fared side by side, or why there is no latency.
    """

    candidate: Candidate
    accuracy: float | None = None
    drop: float | None = None
    latency_ms: float | None = None
    size_bytes: int | None = None
    within: bool = False
    slower: bool = False
    larger: bool = False
    failure: str | None = None
    refused: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Sensitivity:
    """The damage that ``precision`` does while ``group`` alone is back in float.

    The less remains, the more that group costs. Where that settled nothing, ``alone`` is the
    damage while all but ``group`` are in float. None stands for outputs that are not numbers.
    """

    precision: str
    group: str
    remaining: float | None
    alone: float | None = None


@dataclass(frozen=True)
class Choice:
    """``chosen`` is None where nothing meets the budget; ``nearest`` is then the closest miss."""

    chosen: Trial | None
    nearest: Trial | None
    trials: tuple[Trial, ...]
    ranking: tuple[Sensitivity, ...]


# (of what, against what) -> the ratio of their median latencies.
class Interval(Protocol):
    """An estimate with its 95 % interval, as a benchmark gives it."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


Ratio = Callable[[Candidate, Candidate], Interval]


@dataclass(frozen=True)
class Scores:
    """How candidates are scored. Whatever one raises ends that candidate and not the search.

    ``accuracy``: the main metric on the selection split, higher is better. ``cost``: measured
    latency and size. ``damage``: how far the outputs are from the float candidate's, lower is
    better; finer than an accuracy, which moves in steps of one example, so it ranks the groups.
    ``race`` times candidates side by side; None where nothing can be timed. Where it raises, the
    times taken alone decide.
    """

    accuracy: Callable[[Candidate], float]
    cost: Callable[[Candidate], Cost]
    damage: Callable[[Candidate], float]
    race: Callable[[Sequence[Candidate]], Ratio] | None = None


# Latencies closer than this are a tie, which goes to the smaller candidate; so are sizes.
TIE = 0.02
# Latencies closer than this are not told apart by timing each alone.
CLOSE = 0.25


def choose(ladder: Sequence[str], groups: Sequence[str], scores: Scores, budget: Budget) -> Choice:
    """Return the fastest candidate inside ``budget``, with everything that was tried.

    ``ladder`` names the precisions in the order to try them, the float one first; ``groups``
    names the parts that can be kept in float. Raises :class:`InputError` for an empty ladder
    and whatever the float candidate's scores raise: without it there is no reference.
    """
    if not ladder:
        raise InputError("no precision to choose from; name at least the float one")
    reference = _measure(Candidate(ladder[0]), scores, budget, None)
    trials = [reference]
    for precision in ladder[1:]:
        trial = _try(Candidate(precision), scores, budget, reference)
        trials.append(_mark(trial, trials))
    ranking: list[Sensitivity] = []
    for trial in _promising(trials, budget):
        repaired, ranked = _repair(trial, groups, scores, budget, reference)
        trials += [_mark(made, [trial]) for made in repaired]
        ranking += ranked
        if any(made.within for made in repaired):
            break
    inside = [trial for trial in trials if trial.within]
    chosen = fastest(inside)
    final = _close(inside, chosen)
    if scores.race and chosen and len(final) > 1:
        noted = _race(final, chosen, scores.race)
        trials = [noted.get(trial.candidate, trial) for trial in trials]
        chosen = next(iter(noted.values()))
    measured = [trial for trial in trials if trial.failure is None]
    nearest = None if chosen else min(measured, key=lambda trial: _excess(trial, budget))
    return Choice(chosen, nearest, tuple(trials), tuple(ranking))


def coarse(groups: Sequence[str], most: int = 24) -> list[str]:
    """Module paths cut to the deepest level with at most ``most`` parts: the blocks of a deep network.

    One sensitivity pass makes a bundle per part. Paths that no level brings below ``most`` without
    leaving fewer than four parts stay as they are.
    """
    for depth in range(max((name.count(".") + 1 for name in groups), default=0), 0, -1):
        parts = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in groups))
        if len(parts) <= most:
            return parts if len(parts) >= min(4, len(groups)) else list(groups)
    return list(groups)


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """The trial of least latency; among ties within :data:`TIE`, the smallest.

    One without a latency comes after all that have one; where none has, the smallest is taken.
    """
    measured = [trial for trial in trials if trial.failure is None]
    if not measured:
        return None
    best = min(map(_pace, measured))
    ties = [trial for trial in measured if _pace(trial) <= best * (1 + TIE)]
    return min(ties, key=lambda trial: (trial.size_bytes, _pace(trial)))


def closest(trials: Sequence[Trial], budget: Budget) -> Trial:
    """Of those inside the drop, which the float candidate always is, the least over the limits."""
    inside = [t for t in trials if t.drop is not None and t.drop <= budget.max_drop]
    return min(inside or trials[:1], key=lambda trial: _over(trial, budget))


def _pace(trial: Trial) -> float:
    """The latency in ms, without end for an untimed trial."""
    return float("inf") if trial.latency_ms is None else trial.latency_ms


def _close(inside: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """Those that timing each alone cannot rule out as the fastest."""
    if best is None or best.latency_ms is None:
        return []
    least = min(map(_pace, inside))
    return [trial for trial in inside if _pace(trial) <= least * (1 + CLOSE)]


def _race(
    finalists: Sequence[Trial], chosen: Trial, race: Callable[[Sequence[Candidate]], Ratio]
) -> dict[Candidate, Trial]:
    """Settle side by side; where that fails, ``chosen`` by the times taken alone stays first."""
    try:
        return settle(finalists, race([trial.candidate for trial in finalists]))
    except Exception as error:
        note = f"compared by times taken alone; side by side failed: {_reason(error)}"
        ordered = (chosen, *(trial for trial in finalists if trial is not chosen))
        return {trial.candidate: replace(trial, note=note) for trial in ordered}


def settle(finalists: Sequence[Trial], ratio: Ratio) -> dict[Candidate, Trial]:
    """Decide between ``finalists`` timed side by side; the winner comes first, each with a note.

    The winner is the smallest of those that are not told apart from the fastest: by the interval
    of the ratio, or by more than :data:`TIE`. Among sizes within :data:`TIE` it is the faster, and
    among those as fast within :data:`TIE` the first of ``finalists``: the plainer rung.
    """
    first = finalists[0].candidate
    fast = min(finalists, key=lambda trial: ratio(trial.candidate, first).value)
    behind = {trial: ratio(trial.candidate, fast.candidate) for trial in finalists}
    tied = [trial for trial, r in behind.items() if r.low <= 1 or r.value <= 1 + TIE]
    least = min(trial.size_bytes or 0 for trial in tied)
    small = [trial for trial in tied if (trial.size_bytes or 0) <= least * (1 + TIE)]
    best = min(behind[trial].value for trial in small)
    winner = next(trial for trial in small if behind[trial].value <= best * (1 + TIE))
    noted = {}
    for trial in (winner, *(trial for trial in finalists if trial is not winner)):
        r = behind[trial]
        note = (
            f"side by side {r.value:.2f} times the fastest's median ({r.low:.2f} to {r.high:.2f})"
        )
        if trial is fast:
            note = "the fastest side by side"
        elif trial in tied:
            note += ", not told apart"
        if trial is winner is not fast:
            smaller = (trial.size_bytes or 0) < (fast.size_bytes or 0)
            note += "; chosen as the smaller" if smaller else "; chosen as the plainer"
        noted[trial.candidate] = replace(trial, note=note)
    return noted


def _try(candidate: Candidate, scores: Scores, budget: Budget, reference: Trial) -> Trial:
    try:
        return _measure(candidate, scores, budget, reference)
    except Exception as error:
        return Trial(
            candidate, failure=_reason(error), refused=isinstance(error, VerificationError)
        )


def _reason(error: Exception) -> str:
    """One line; what a library raised is named by its class."""
    if isinstance(error, EdgekdError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"


def _measure(
    candidate: Candidate, scores: Scores, budget: Budget, reference: Trial | None
) -> Trial:
    accuracy, cost = scores.accuracy(candidate), scores.cost(candidate)
    whole = accuracy if reference is None or reference.accuracy is None else reference.accuracy
    trial = Trial(
        candidate, accuracy, whole - accuracy, cost.latency_ms, cost.size_bytes, note=cost.why
    )
    return replace(trial, within=_excess(trial, budget) <= 0)


def _excess(trial: Trial, budget: Budget) -> float:
    """By how much the worst line of the budget is missed; at most 0 inside it.

    The drop counts absolutely, latency and size relative to their limits.
    """
    assert trial.drop is not None
    return max(trial.drop - budget.max_drop, _over(trial, budget))


def _over(trial: Trial, budget: Budget) -> float:
    """By which share the worse of the latency's and the size's limit is passed."""
    assert trial.size_bytes is not None
    excess = [float("-inf")]
    if budget.max_latency_ms is not None:
        excess.append(_pace(trial) / budget.max_latency_ms - 1)
    if budget.max_size_bytes is not None:
        excess.append(trial.size_bytes / budget.max_size_bytes - 1)
    return max(excess)


def _mark(trial: Trial, above: Sequence[Trial]) -> Trial:
    """Compare ``trial`` with the last of ``above`` that could be measured."""
    measured = [other for other in above if other.failure is None]
    if trial.failure is not None or not measured:
        return trial
    last = measured[-1]
    assert trial.size_bytes is not None and last.size_bytes is not None
    slower = None not in (trial.latency_ms, last.latency_ms) and _pace(trial) > _pace(last)
    return replace(trial, slower=slower, larger=trial.size_bytes > last.size_bytes)


def _promising(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """Rungs that lose too much accuracy and might else win: the fastest first, refused ones last.

    One that is too slow or too large already would only become more so.
    """
    best = fastest([trial for trial in trials if trial.within])

    def rank(trial: Trial) -> tuple[float, float]:
        return _pace(trial), trial.size_bytes or 0

    limit = rank(best) if best else (float("inf"), float("inf"))
    measured = [t for t in trials[1:] if not (t.within or t.failure) and _over(t, budget) <= 0]
    missed = [trial for trial in measured if rank(trial) < limit]
    return sorted(missed, key=rank) + [trial for trial in trials if trial.refused]


def _repair(
    missed: Trial, groups: Sequence[str], scores: Scores, budget: Budget, reference: Trial
) -> tuple[list[Trial], list[Sensitivity]]:
    """Put the most damaging groups back to float, worst first, until the budget is met.

    Where that fails, the groups are ranked anew by the damage that each does alone: two that
    share a tensor with a wide range repair nothing until both are back.
    """
    precision = missed.candidate.precision
    tried: list[Trial] = []
    ranked: list[Sensitivity] = []
    for alone in (False, True):
        ranked = _rank(precision, groups, scores.damage, alone)
        order = [item.group for item in ranked]
        done = {frozenset(trial.candidate.kept) for trial in tried}
        tried += _fewest(precision, order, done, scores, budget, reference)
        if any(trial.within for trial in tried):
            break
    return tried, ranked


def _rank(
    precision: str, groups: Sequence[str], damage: Callable[[Candidate], float], alone: bool
) -> list[Sensitivity]:
    """The costliest group first: each alone back in float, or each ``alone`` in ``precision``."""
    ranked = []
    for group in groups:
        others = tuple(other for other in groups if other != group)
        try:
            found = damage(Candidate(precision, others if alone else (group,)))
        except VerificationError:  # not numbers
            ranked.append(Sensitivity(precision, group, None))
        except Exception:
            continue  # nothing is left for the precision to do, or it breaks on this one
        else:
            made = Sensitivity(precision, group, None, found)
            ranked.append(made if alone else Sensitivity(precision, group, found))
    if alone:
        return sorted(ranked, key=lambda r: float("-inf") if r.alone is None else -r.alone)
    return sorted(ranked, key=lambda r: float("inf") if r.remaining is None else r.remaining)


def _fewest(
    precision: str,
    order: Sequence[str],
    done: set[frozenset[str]],
    scores: Scores,
    budget: Budget,
    reference: Trial,
) -> list[Trial]:
    """Keep the first groups of ``order`` in float, as few as meet the budget.

    Their number is doubled until it suffices, then halved back to the fewest that do: a network
    of fifty layers is settled in about ten trials. What is ``done`` already missed the budget.
    """
    tried: list[Trial] = []
    most = len(order) - 1  # one at least stays compressed
    too_few, enough, count = 0, most + 1, 1
    while too_few < most and enough - too_few > 1:
        kept = tuple(order[:count])
        within = False
        if frozenset(kept) not in done:
            tried.append(_try(Candidate(precision, kept), scores, budget, reference))
            within = tried[-1].within
        if within:
            enough = count
        else:
            too_few = count
        count = min(2 * count, most) if enough > most else (too_few + enough) // 2
    return tried
