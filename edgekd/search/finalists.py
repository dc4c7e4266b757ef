"""Which of the candidates inside the budget wins: first by times taken alone, then side by side.

The fastest does, but for a size that is worth it: nobody feels a few per cent of latency, while a
download of half the size is felt; so a rung that is far smaller may be a little slower. What is
far smaller, and how much slower it may be, are the numbers below. A rung that could not be timed never wins by that, and where
nothing times the target the smallest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekd.errors import EdgekdError
from edgekd.search.trial import Candidate, Ratio, Trial

# Latencies closer than this are a tie, which goes to the smaller candidate; so are sizes.
TIE = 0.02
# A candidate of at most SMALL times the fastest's size may be slower by WORTH.
WORTH, SMALL = 0.1, 0.6
# Sizes closer than this are the same: names and headers make up as much.
SAME = 0.001
# Latencies closer than this are not told apart by timing each alone.
CLOSE = 0.25


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """The trial of least latency; the smallest of those that are as good as that one.

    One without a latency comes after all that have one; where none has, the smallest is taken.
    """
    measured = [trial for trial in trials if trial.failure is None]
    if not measured:
        return None
    best = min(measured, key=lambda trial: (pace(trial), trial.size_bytes))
    if best.latency_ms is None:
        return best
    equals = [t for t in measured if _as_good(pace(t) / best.latency_ms, t, best)]
    return min(equals, key=lambda trial: (trial.size_bytes, pace(trial)))


def close(inside: Sequence[Trial]) -> list[Trial]:
    """Those that timing each alone cannot rule out as the fastest."""
    timed = [trial for trial in inside if trial.latency_ms is not None]
    least = min(map(pace, timed), default=0.0)
    return [trial for trial in timed if pace(trial) <= least * (1 + CLOSE)]


def race(
    finalists: Sequence[Trial], chosen: Trial, timed: Callable[[Sequence[Candidate]], Ratio]
) -> dict[Candidate, Trial]:
    """Settle side by side; where that fails, ``chosen`` by the times taken alone stays first."""
    try:
        return settle(finalists, timed([trial.candidate for trial in finalists]))
    except Exception as error:
        note = f"compared by times taken alone; side by side failed: {reason(error)}"
        ordered = (chosen, *(trial for trial in finalists if trial is not chosen))
        return {trial.candidate: replace(trial, note=note) for trial in ordered}


def settle(finalists: Sequence[Trial], ratio: Ratio) -> dict[Candidate, Trial]:
    """Decide between ``finalists`` timed side by side; the winner comes first, each with a note.

    The winner is the smallest of those as good as the fastest: slower by no more than a tie or than
    their size is worth, or far smaller and not told apart from it. Among sizes within :data:`TIE`
    it is the faster, among those as fast within :data:`TIE` the smaller by :data:`SAME` at least,
    and of equals the first of ``finalists``: the plainer rung.
    """
    first = finalists[0].candidate
    fast = min(finalists, key=lambda trial: ratio(trial.candidate, first).value)
    behind = {trial: ratio(trial.candidate, fast.candidate) for trial in finalists}
    equals = [
        trial
        for trial, r in behind.items()
        if _as_good(r.value, trial, fast) or (r.low <= 1 and _far_smaller(trial, fast))
    ]
    least = min(trial.size_bytes or 0 for trial in equals)
    small = [trial for trial in equals if (trial.size_bytes or 0) <= least * (1 + TIE)]
    best = min(behind[trial].value for trial in small)
    quick = [trial for trial in small if behind[trial].value <= best * (1 + TIE)]
    least = min(trial.size_bytes or 0 for trial in quick)
    winner = next(trial for trial in quick if (trial.size_bytes or 0) <= least * (1 + SAME))
    noted = {}
    for trial in (winner, *(trial for trial in finalists if trial is not winner)):
        r = behind[trial]
        note = (
            f"side by side {r.value:.2f} times the fastest's median ({r.low:.2f} to {r.high:.2f})"
        )
        if trial is fast:
            note = "the fastest side by side"
        elif r.low <= 1:
            note += ", not told apart"
        if trial is winner is not fast:
            share = (trial.size_bytes or 0) / (fast.size_bytes or 1)
            note += (
                f"; chosen at {share:.0%} of its size" if share < 1 else "; chosen as the plainer"
            )
        noted[trial.candidate] = replace(trial, note=note)
    return noted


def pace(trial: Trial) -> float:
    """The latency in ms, without end for an untimed trial."""
    return float("inf") if trial.latency_ms is None else trial.latency_ms


def reason(error: Exception) -> str:
    """One line; what a library raised is named by its class."""
    if isinstance(error, EdgekdError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"


def _as_good(slower: float, trial: Trial, fast: Trial) -> bool:
    """Whether ``slower`` times the latency of ``fast`` is a tie, or is made up for by the size."""
    return slower <= 1 + (WORTH if _far_smaller(trial, fast) else TIE)


def _far_smaller(trial: Trial, fast: Trial) -> bool:
    return (trial.size_bytes or 0) <= SMALL * (fast.size_bytes or 0)
