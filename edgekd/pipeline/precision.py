"""``precision: auto``: hand the search its score functions and build what it chose.

The search knows no bundle; here a candidate becomes one, is scored on the selection split and
timed under the profile. Bundles are made once and kept in a work folder while the search runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import tasks
from edgekd.bench.statistics import Interval
from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError
from edgekd.evaluate.run import predict, run_session
from edgekd.exporter import Exporter, Plan
from edgekd.preprocess import Row
from edgekd.profiles import Profile
from edgekd.progress import say
from edgekd.search.precision import (
    Budget,
    Candidate,
    Choice,
    Cost,
    Ratio,
    Scores,
    Trial,
    choose,
    coarse,
)

ROUNDS, SECONDS = 3, 0.3  # of each timing: enough to rank rungs, the report measures again
RACE_ROUNDS = 7  # of the finalists, side by side


@dataclass(frozen=True)
class Search:
    """One search over an exporter's ladder, and where its bundles lie."""

    exporter: Exporter
    base: Bundle  # the float bundle, which is the reference
    selection: Sequence[Row]
    calibration: Sequence[Row]
    profile: Profile | None  # None: nothing times this target here, so the smallest wins
    work: Path

    def bundle(self, candidate: Candidate) -> Bundle:
        """The candidate as a bundle, made once."""
        manifest = self.base.manifest
        if candidate == Candidate(manifest.precision):
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
        made = self.bundle(candidate)
        task, labels = tasks.get(made.manifest.task), made.manifest.labels
        decoded = task.decode(predict(made, self.selection), labels)
        return task.metrics(labels)[0](decoded, task.references(self.selection, labels))

    def cost(self, candidate: Candidate) -> Cost:
        """The median under the profile, timed alone, and the size."""
        from edgekd.bench.measure import measure

        made = self.bundle(candidate)
        if self.profile is None:
            return Cost(0.0, made.size_bytes)
        found = measure(
            made.path,
            self.profile,
            self.selection,
            rounds=ROUNDS,
            seconds=SECONDS,
            memory=False,
            settings=False,
        )
        p50 = found.p50
        cost = Cost(p50.value if p50 else 0.0, made.size_bytes)
        say(f"  {made.manifest.target} {_name(candidate)}: {cost.latency_ms:.3f} ms")
        return cost

    def race(self, candidates: Sequence[Candidate]) -> Ratio:
        """Time ``candidates`` in interleaved fresh processes; return the ratio of any two."""
        from edgekd.bench.measure import compare

        assert self.profile is not None
        say(f"  {self.base.manifest.target}: {len(candidates)} are close, timed side by side")
        made = {_name(candidate): self.bundle(candidate).path for candidate in candidates}
        found = compare(
            made,
            self.profile.model_copy(update={"clients": ()}),
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
        if candidate == Candidate(self.base.manifest.precision):
            return 0.0
        rows, _, expected = self.base.golden()
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            stage = Path(folder)
            plan = self.plan(candidate)
            manifest = self.exporter.write_compressed(self.base, plan, self.calibration, stage)
            session = self.exporter.open(Bundle(stage, manifest))
            try:  # one by one, as a device does
                found = run_session(session, self.base, rows, batch_size=1)
            finally:
                session.close()
        damage = float(np.mean([np.square(found[k] - v).mean() for k, v in expected.items()]))
        if not np.isfinite(damage):
            raise VerificationError(f"the outputs of {_name(candidate)} are not numbers")
        return damage


def auto(
    search: Search, max_drop: float, ladder: Sequence[str] | None = None
) -> tuple[Choice, Bundle]:
    """Find the fastest candidate inside the budget; return it with everything that was tried.

    Raises :class:`VerificationError` naming the nearest miss where nothing meets the budget.
    """
    if not search.selection:
        raise InputError("precision auto chooses on labelled rows that are not the test data")
    names = list(ladder or _ladder(search.exporter, search.base))
    groups = coarse([group.name for group in search.exporter.groups(search.base)])
    race = search.race if search.profile else None
    scores = Scores(search.accuracy, search.cost, search.damage, race)
    choice = choose(names, groups, scores, Budget(max_drop))
    if choice.chosen is None:
        raise VerificationError(nearest_miss(choice, max_drop))
    return choice, search.bundle(choice.chosen.candidate)


def nearest_miss(choice: Choice, max_drop: float) -> str:
    """One line for a budget that nothing meets."""
    near = choice.nearest
    if near is None or near.drop is None:
        return f"no precision could be made and measured within a drop of {max_drop:g}"
    return (
        f"no precision stays within a drop of {max_drop:g}: the nearest is {_name(near.candidate)}"
        f" with {near.drop:.4f} at {near.latency_ms:.3f} ms and {near.size_bytes:,} bytes; allow"
        " more, or distil a larger student"
    )


def as_rows(choice: Choice) -> dict[str, Any]:
    """The search as plain JSON for the report."""

    def row(trial: Trial) -> dict[str, Any]:
        values = asdict(trial)
        return {**values.pop("candidate"), **values}

    return {
        "chosen": row(choice.chosen) if choice.chosen else None,
        "trials": [row(trial) for trial in choice.trials],
        "ranking": [asdict(item) for item in choice.ranking],
    }


def _ladder(exporter: Exporter, base: Bundle) -> list[str]:
    """The float precision, then every rung that this machine's runtime is made for."""
    from edgekd.exporter import Spec
    from edgekd.program import Shapes

    manifest = base.manifest
    spec = Spec(Shapes(), deployment=manifest.runtime.get("deployment"))
    known = [name for name in exporter.precisions(spec) if name not in exporter.not_automatic]
    return [manifest.precision, *(name for name in known if name != manifest.precision)]


def _name(candidate: Candidate) -> str:
    kept = f" with {', '.join(candidate.kept)} in float" if candidate.kept else ""
    return candidate.precision + kept


def _folder(candidate: Candidate) -> str:
    import hashlib

    kept = hashlib.sha256("|".join(candidate.kept).encode()).hexdigest()[:8]
    return candidate.precision + (f"-{kept}" if candidate.kept else "")
