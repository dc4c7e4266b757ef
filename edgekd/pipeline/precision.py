"""``precision: auto``: hand the search its score functions and build what it chose.

The search knows no bundle; here a candidate becomes one, is scored on the selection split and
timed under the profile. Bundles are made once and kept in a work folder while the search runs.
"""

from __future__ import annotations

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
    # What the float bundle and the newest candidate say of the selection.
    said: dict[Candidate, Mapping[str, np.ndarray]] = field(default_factory=dict)

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
        task, labels = self.task, self.base.manifest.labels
        return task.metrics(labels)[0](task.decode(self.outputs(candidate), labels), self.answers)

    def expected(self, candidate: Candidate) -> Expected | None:
        """The drop on average of an accuracy of one decision a row; None of any other metric."""
        if self.task.metrics(self.base.manifest.labels)[0].name != "accuracy":
            return None
        whole = self.task.decisions(self.outputs(self.whole), self.answers)
        said = self.task.decisions(self.outputs(candidate), self.answers)
        if whole is None or said is None:
            return None
        return expected_drop(_log(whole[0]), _log(said[0]), whole[1])

    def outputs(self, candidate: Candidate) -> Mapping[str, np.ndarray]:
        """What the candidate says of the selection."""
        if candidate not in self.said:
            for other in self.said.keys() - {self.whole}:
                del self.said[other]
            self.said[candidate] = predict(
                self.bundle(candidate), self.selection, runtime=self.runtime
            )
        return self.said[candidate]

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
    return (
        f"no precision stays within {asked}: the nearest is {_name(near.candidate)} with a drop of"
        f" {near.lost:.4f}, {speed} and {near.size_bytes:,} bytes; allow more, or distil another"
        " student"
    )


def too_few(rows: int, max_drop: float) -> str | None:
    """One line where ``rows`` are too few to see a drop of ``max_drop``: one row is more."""
    if not 0 < max_drop < 1 / rows:
        return None
    return (
        f"auto chose on {rows} selection rows, of which one is {1 / rows:.1%}: whether a drop stays"
        f" within {max_drop:g} is not seen on so few; give {round(1 / max_drop)} or more"
    )


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
    """Log-probabilities that are numbers."""
    return np.log(np.maximum(chances, np.finfo(np.float64).tiny))


def _name(candidate: Candidate) -> str:
    kept = f" with {', '.join(candidate.kept)} in float" if candidate.kept else ""
    return candidate.precision + kept


def _folder(candidate: Candidate) -> str:
    import hashlib

    kept = hashlib.sha256("|".join(candidate.kept).encode()).hexdigest()[:8]
    return candidate.precision + (f"-{kept}" if candidate.kept else "")
