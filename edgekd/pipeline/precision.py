"""``precision: auto``: hand the search its score functions and build what it chose.

The search knows no bundle; here a candidate becomes one, is scored on the selection split and
timed under the profile. Bundles are made once and kept in a work folder while the search runs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd import tasks
from edgekd.bench.statistics import Interval
from edgekd.bundle import Bundle
from edgekd.errors import InconclusiveError, InputError, VerificationError
from edgekd.evaluate.noise import Expected, expected_drop
from edgekd.evaluate.run import predict, run_session
from edgekd.exporter import Exporter, Plan, Runtime
from edgekd.preprocess import Row
from edgekd.profiles import Profile
from edgekd.progress import say
from edgekd.search.precision import choose, coarse
from edgekd.search.trial import Budget, Candidate, Choice, Cost, Ratio, Scores, Trial

ROUNDS, SECONDS = 3, 0.3  # of each timing: enough to rank rungs, the report measures again
RACE_ROUNDS = 15  # of the finalists, side by side


@dataclass(frozen=True)
class Clock:
    """What candidates are timed on. ``profile`` is None where nothing times them here.

    ``evidence`` is ``measured`` on the profile's own hardware, ``reference`` on this machine in its
    place, and None for no time at all; ``note`` says on what, or why not.
    """

    profile: Profile | None
    evidence: Literal["measured", "reference"] | None
    note: str


@dataclass(frozen=True)
class Search:
    """One search over an exporter's ladder, and where its bundles lie."""

    exporter: Exporter
    base: Bundle  # the float bundle, which is the reference
    selection: Sequence[Row]
    calibration: Sequence[Row]
    profile: Profile | None  # whose runtime runs the candidates; None: the exporter's own
    work: Path
    timed: Profile | None = None  # None: candidates are not timed, so the smallest wins
    references: Sequence[Any] = ()  # of the selection, where its rows may not say them
    # Scores of the selection by the float bundle and by the newest candidate.
    scores: dict[Candidate, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @property
    def runtime(self) -> Runtime:
        """What every score of the search runs on: a GPU's half precision is not a CPU's."""
        return self.profile.runtime.for_session() if self.profile else Runtime()

    def bundle(self, candidate: Candidate) -> Bundle:
        """The candidate as a bundle, made once."""
        if candidate == self.whole:
            return self.base
        folder = self.work / _folder(candidate)
        if not (folder / "bundle.json").is_file():
            return self.exporter.compress(self.base, self.plan(candidate), self.calibration, folder)
        return Bundle.open(folder)

    def plan(self, candidate: Candidate) -> Plan:
        return Plan(
            candidate.precision, dict.fromkeys(candidate.kept, self.base.manifest.precision)
        )

    def accuracy(self, candidate: Candidate) -> float:
        """The main metric on the selection split."""
        task, labels, answers = self.task, self.base.manifest.labels, self.answers
        said = predict(self.bundle(candidate), self.selection, runtime=self.runtime)
        self._keep(candidate, said)
        return task.metrics(labels)[0](task.decode(said, labels), answers)

    def expected(self, candidate: Candidate) -> Expected | None:
        """The expectation of the drop where :meth:`accuracy` found one decision a row, else None."""
        if candidate not in self.scores:
            return None
        return expected_drop(
            self.scores[self.whole], self.scores[candidate], np.asarray(self.answers)
        )

    def _keep(self, candidate: Candidate, said: Mapping[str, np.ndarray]) -> None:
        """Remember log-probabilities, where the metric is the share of rows decided rightly."""
        decisions = self.task.decisions(said, self.answers)
        metric = self.task.metrics(self.base.manifest.labels)[0].name
        if metric != "accuracy" or decisions is None or len(decisions[1]) != len(self.selection):
            return
        for other in self.scores.keys() - {self.whole}:
            del self.scores[other]
        self.scores[candidate] = _log(decisions[0])

    @property
    def task(self) -> tasks.Task:
        return tasks.get(self.base.manifest.task)

    @property
    def answers(self) -> Sequence[Any]:
        """The right answers of the selection."""
        given = self.task.references
        return self.references or given(self.selection, self.base.manifest.labels)

    @property
    def whole(self) -> Candidate:
        return Candidate(self.base.manifest.precision)

    def cost(self, candidate: Candidate) -> Cost:
        """The median under the clock's profile, timed alone, and the size."""
        from edgekd.bench.measure import measure

        made = self.bundle(candidate)
        if self.timed is None:
            return Cost(None, made.size_bytes)
        found = measure(
            made.path,
            self.timed,
            self.selection,
            rounds=ROUNDS,
            seconds=SECONDS,
            memory=False,
            settings=False,
        )
        p50 = found.p50
        if p50 is None:
            return Cost(None, made.size_bytes, found.why or "no time was taken")
        say(f"  {made.manifest.target} {_name(candidate)}: {p50.value:.3f} ms")
        return Cost(p50.value, made.size_bytes)

    def race(self, candidates: Sequence[Candidate]) -> Ratio:
        """Time ``candidates`` in interleaved fresh processes; return the ratio of any two."""
        from edgekd.bench.measure import compare

        assert self.timed is not None
        say(f"  {self.base.manifest.target}: {len(candidates)} are close, timed side by side")
        made = {_name(candidate): self.bundle(candidate).path for candidate in candidates}
        found = compare(
            made,
            self.timed,
            self.selection,
            rounds=RACE_ROUNDS,
            seconds=SECONDS,
            memory=False,
            settings=False,
        )

        def ratio(above: Candidate, below: Candidate) -> Interval:
            interval = found.ratio(_name(above), _name(below))
            assert interval is not None  # each was timed alone before
            return interval

        return ratio

    def damage(self, candidate: Candidate) -> float:
        """Mean squared distance of the golden outputs from the float bundle's.

        The candidate is not kept as a bundle, so it may be further off than one may leave with:
        in a network that collapses, putting one group back never suffices, and still says much.
        Raises :class:`VerificationError` where its outputs are not numbers.
        """
        if candidate == self.whole:
            return 0.0
        rows, _, expected = self.base.golden()
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            stage = Path(folder)
            plan = self.plan(candidate)
            manifest = self.exporter.write_compressed(self.base, plan, self.calibration, stage)
            session = self.exporter.open(Bundle(stage, manifest), self.runtime)
            try:  # one by one, as a device does
                found = run_session(session, self.base, rows, batch_size=1)
            finally:
                session.close()
        damage = float(np.mean([np.square(found[k] - v).mean() for k, v in expected.items()]))
        if not np.isfinite(damage):
            raise VerificationError(f"the outputs of {_name(candidate)} are not numbers")
        return damage


def clock(exporter: Exporter, base: Bundle, profile: Profile | None) -> Clock:
    """Whether ``base``'s own runtime answers here under ``profile``, and what it then runs on."""
    if profile is None:
        return Clock(None, None, "latency was not measured: no profile was given")
    profile = profile.model_copy(update={"clients": ()})  # a rung is timed, its load is not
    threads = profile.runtime.threads
    session = exporter.open(base, profile.runtime.for_session())
    try:
        kind, said = session.kind, session.describe()
    finally:
        session.close()
    name = f"{said.get('runtime', exporter.name)} {said.get('version', '')}".strip()
    if kind != "native":
        why = f"{name} gives the numbers of {exporter.name} bundles here, not their speed"
        return Clock(None, None, f"latency was not measured ({why}): the smallest rung is chosen")
    kernels = said.get("int8_kernels")
    note = f"timed on this machine: {name}, {threads} thread{'s'[: threads > 1]}"
    note += f", int8 kernels {kernels}" if kernels else ""
    if profile.where == "host":
        return Clock(profile, "measured", note)
    note += f". {profile.title} has other kernels, on which another rung may be the fastest"
    return Clock(profile, "reference", note)


def find(
    search: Search, budget: Budget, timed: Clock, ladder: Sequence[str] | None = None
) -> Choice:
    """Try every rung and what repairs it; whether one meets ``budget`` stands in the choice.

    Raises :class:`InputError` without rows to choose on.
    """
    if not search.selection:
        raise InputError("precision auto chooses on labelled rows that are not the test data")
    say(f"  {search.exporter.name} auto: {timed.note}")
    search = replace(search, timed=timed.profile)
    names = list(ladder or _ladder(search))
    groups = coarse([group.name for group in search.exporter.groups(search.base)])
    race = search.race if search.timed else None
    scores = Scores(search.accuracy, search.cost, search.damage, race, search.expected)
    return choose(names, groups, scores, budget)


def auto(
    search: Search, budget: Budget, ladder: Sequence[str] | None = None
) -> tuple[Choice, Clock, Bundle]:
    """Find the fastest candidate inside ``budget``; return it with everything that was tried.

    Raises :class:`VerificationError` naming the nearest miss where nothing meets the budget, and
    :class:`InconclusiveError` for a limit of a latency that is not measured on the profile's own
    hardware.
    """
    timed = clock(search.exporter, search.base, search.profile)
    if budget.max_latency_ms is not None and timed.evidence != "measured":
        raise InconclusiveError(
            f"whether a latency of {budget.max_latency_ms:g} ms is met cannot be said here:"
            f" {timed.note}; drop that limit, or search on the hardware itself"
        )
    choice = find(search, budget, timed, ladder)
    if choice.chosen is None:
        raise VerificationError(nearest_miss(choice, budget))
    return choice, timed, search.bundle(choice.chosen.candidate)


def nearest_miss(choice: Choice, budget: Budget) -> str:
    """One line for a budget that nothing meets."""
    limits = [f"a drop of {budget.max_drop:g}"]
    if budget.max_latency_ms is not None:
        limits.append(f"{budget.max_latency_ms:g} ms")
    if budget.max_size_bytes is not None:
        limits.append(f"{budget.max_size_bytes:,} bytes")
    asked = " and ".join([", ".join(limits[:-1]), limits[-1]] if len(limits) > 1 else limits)
    near = choice.nearest
    if near is None or near.drop is None:
        return f"no precision could be made and measured within {asked}"
    speed = "not timed" if near.latency_ms is None else f"{near.latency_ms:.3f} ms"
    drop, rows = f"{near.drop:.4f}", ""
    if near.worst_drop > near.drop:
        drop += f" (up to {near.worst_drop:.4f} is not ruled out)"
        rows = " choose on more rows," if near.drop <= budget.max_drop < near.worst_drop else ""
    return (
        f"no precision stays within {asked}: the nearest is {_name(near.candidate)} with a drop of"
        f" {drop}, {speed} and {near.size_bytes:,} bytes; allow more,{rows} or distil another"
        " student"
    )


def doubts(search: Mapping[str, Any]) -> list[str]:
    """What a reader should know of a search (:func:`as_rows`) before trusting what it chose."""
    found = too_few(search["rows"], search["max_drop"]), unsure(search)
    return [line for line in found if line]


def too_few(rows: int, max_drop: float) -> str | None:
    """One line where ``rows`` are too few to see a drop of ``max_drop``: one row is more."""
    if not 0 < max_drop < 1 / rows:
        return None
    return (
        f"auto chose on {rows} selection rows, of which one is {1 / rows:.1%}: whether a drop stays"
        f" within {max_drop:g} is not seen on so few; give {round(1 / max_drop)} or more"
    )


def unsure(search: Mapping[str, Any]) -> str | None:
    """One line where a faster rung is inside by all but what its rows can rule out.

    The bound narrows with the root of the rows, which says how many would do.
    """
    chosen, allowed = search["chosen"], search["max_drop"]
    pace = chosen and (chosen["latency_ms"] or chosen["size_bytes"])
    for trial in search["trials"]:
        bound, expected = trial["drop_bound"], trial["expected_drop"]
        if bound is None or not max(trial["drop"], expected) < allowed < bound:
            continue
        if pace and (trial["latency_ms"] or trial["size_bytes"]) >= pace:
            continue
        rows = search["rows"] * ((bound - expected) / (allowed - expected)) ** 2
        return (
            f"{trial['precision']} is better and its drop of {trial['drop']:.4f} inside, but up to"
            f" {bound:.4f} is not ruled out on {search['rows']:,} selection rows; about"
            f" {math.ceil(rows / 100) * 100:,} would do, were it as good on those"
        )
    return None


def as_rows(choice: Choice, budget: Budget, timed: Clock, rows: int) -> dict[str, Any]:
    """The search on ``rows`` selection rows as plain JSON for the report."""

    def row(trial: Trial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        values = asdict(trial)
        return {**values.pop("candidate"), **values}

    return {
        **asdict(budget),
        "rows": rows,
        "timing": {"evidence": timed.evidence, "note": timed.note},
        "chosen": row(choice.chosen),
        "nearest": row(choice.nearest),
        "missed": nearest_miss(choice, budget) if choice.chosen is None else None,
        "trials": [row(trial) for trial in choice.trials],
        "ranking": [asdict(item) for item in choice.ranking],
    }


def _ladder(search: Search) -> list[str]:
    """The float precision, then every rung that the profile's runtime is made for."""
    from edgekd.exporter import Spec
    from edgekd.program import Shapes

    manifest = search.base.manifest
    spec = Spec(Shapes(), deployment=manifest.runtime.get("deployment"))
    known = search.exporter.automatic(spec, search.runtime)
    return [manifest.precision, *(name for name in known if name != manifest.precision)]


def _log(chances: np.ndarray) -> np.ndarray:
    """Log-probabilities; a chance of nothing is as small as numbers go."""
    return np.log(np.maximum(chances, np.finfo(np.float64).tiny))


def _name(candidate: Candidate) -> str:
    kept = f" with {', '.join(candidate.kept)} in float" if candidate.kept else ""
    return candidate.precision + kept


def _folder(candidate: Candidate) -> str:
    import hashlib

    kept = hashlib.sha256("|".join(candidate.kept).encode()).hexdigest()[:8]
    return candidate.precision + (f"-{kept}" if candidate.kept else "")
