"""The fastest precision inside an accuracy budget, and what it took to find it.

First every rung of the ladder is tried on the whole model. Where a rung that would win misses the
budget's accuracy, the groups that cost it are found: each is put back to float alone, the groups
are ranked by what that repairs, and the worst are put back together until the budget is met.
(NNCF's ``quantize_with_accuracy_control`` reverts in the same order.) Those that come out about
equally fast are then timed side by side, since a rung timed alone may owe its place to a quiet
moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekd.errors import InputError, VerificationError
from edgekd.search.finalists import TIE, close, fastest, pace, race, reason
from edgekd.search.trial import Budget, Candidate, Choice, Scores, Sensitivity, Trial


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
    rankings: dict[str, list[Sensitivity]] = {}
    while missed := [
        t for t in _promising(trials, budget) if t.candidate.precision not in rankings
    ]:
        trial = missed[0]
        repaired, ranked = _repair(trial, groups, scores, budget, reference)
        trials += [_mark(made, [trial]) for made in repaired]
        rankings[trial.candidate.precision] = ranked
    inside = [trial for trial in trials if trial.within]
    chosen = fastest(inside)
    final = close(inside)
    if scores.race and chosen and len(final) > 1:
        noted = race(final, chosen, scores.race)
        trials = [noted.get(trial.candidate, trial) for trial in trials]
        chosen = next(iter(noted.values()))
    measured = [trial for trial in trials if trial.failure is None]
    nearest = None if chosen else min(measured, key=lambda trial: _excess(trial, budget))
    own = rankings.pop(chosen.candidate.precision, []) if chosen else []
    ranking = [*own, *(item for ranked in rankings.values() for item in ranked)]
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


def closest(trials: Sequence[Trial], budget: Budget) -> Trial:
    """Of those inside the drop, which the float candidate always is, the least over the limits."""
    inside = [t for t in trials if t.drop is not None and t.worst_drop <= budget.max_drop]
    return min(inside or trials[:1], key=lambda trial: _over(trial, budget))


def _try(candidate: Candidate, scores: Scores, budget: Budget, reference: Trial) -> Trial:
    try:
        return _measure(candidate, scores, budget, reference)
    except Exception as error:
        return Trial(candidate, failure=reason(error), refused=isinstance(error, VerificationError))


def _measure(
    candidate: Candidate, scores: Scores, budget: Budget, reference: Trial | None
) -> Trial:
    accuracy, cost = scores.accuracy(candidate), scores.cost(candidate)
    whole = accuracy if reference is None or reference.accuracy is None else reference.accuracy
    expected = None if reference is None else scores.expected(candidate)
    trial = Trial(
        candidate,
        accuracy,
        whole - accuracy,
        cost.latency_ms,
        cost.size_bytes,
        note=cost.why,
        expected_drop=expected.value if expected else None,
        drop_bound=expected.bound if expected else None,
    )
    return replace(trial, within=_excess(trial, budget) <= 0)


def _excess(trial: Trial, budget: Budget) -> float:
    """By how much the worst line of the budget is missed; at most 0 inside it.

    The drop counts absolutely, latency and size relative to their limits.
    """
    return max(trial.worst_drop - budget.max_drop, _over(trial, budget))


def _over(trial: Trial, budget: Budget) -> float:
    """By which share the worse of the latency's and the size's limit is passed."""
    assert trial.size_bytes is not None
    excess = [float("-inf")]
    if budget.max_latency_ms is not None:
        excess.append(pace(trial) / budget.max_latency_ms - 1)
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
    timed = None not in (trial.latency_ms, last.latency_ms)
    slower = timed and pace(trial) > pace(last) * (1 + TIE)
    return replace(trial, slower=slower, larger=trial.size_bytes > last.size_bytes)


def _promising(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """Rungs that lose too much accuracy and might else win: the fastest first, refused ones last.

    One that is too slow or too large already would only become more so, and so would one that is
    no better than what another's repair has come to. A refused one has no times to compare: it is
    repaired where no other could be.
    """
    best = fastest([trial for trial in trials if trial.within])
    whole = [trial for trial in trials[1:] if not trial.candidate.kept]
    measured = [t for t in whole if not (t.within or t.failure) and _over(t, budget) <= 0]
    missed = [t for t in measured if best is None or fastest([best, t]) is t]
    ordered = sorted(missed, key=lambda trial: (pace(trial), trial.size_bytes))
    if any(trial.within and trial.candidate.kept for trial in trials):
        return ordered
    return ordered + [trial for trial in whole if trial.refused]


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
