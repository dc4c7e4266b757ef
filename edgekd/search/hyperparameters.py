"""Hyper-parameters by trials: one study on disk, which several processes work on.

Trials are drawn by the tree-structured Parzen estimator (Bergstra et al., 2011) and stopped by
the median rule (Golovin et al., 2017, section 3.2.2) where they fall behind, both Optuna's. Trial
0 is the setting one came with, so the choice can never be worse than it on the rows that choose.
Nothing here knows what is trained: settings are values by name, the score is a function.

The study is a journal file. A trial is claimed under a lock, so the total holds however many
processes join; it is counted by a *number* of its own, which also seeds its draw. A process that
dies gives the number of its trial back: a study that was killed and resumed draws what an
undisturbed one draws.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekd.errors import EdgekdError, InputError
from edgekd.search.journal import alive, lives, locked, open_journal
from edgekd.space import Choices, Range, Space

if TYPE_CHECKING:
    import optuna

NAME = "edgekd"
JOURNAL, CLAIM = "study.journal", "claim.lock"
STARTUP = 6  # trials drawn at random before the estimator models anything
UNPRUNED = 4  # trials that must be complete before one is stopped early
WARMUP = 2  # epochs that every trial gets
FEW = 10  # complete trials below which importance would be noise
WAIT_SECONDS = 0.2  # between two looks at what other processes still run


State = Literal["complete", "pruned", "failed", "running"]


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it: a row of the report.

    ``score`` is the last one reported (of a pruned trial: where it was stopped), ``curve`` has one
    per epoch. ``failure`` says why a setting could not be trained.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    score: float | None = None
    curve: tuple[float, ...] = ()
    seconds: float | None = None
    failure: str | None = None


# report(score) after each epoch; True means: stop, this trial falls behind.
Report = Callable[[float], bool]
# score(number, values, report): train with these values; return whether it came to its end.
Score = Callable[[int, Mapping[str, Any], Report], bool]


@dataclass(frozen=True)
class Study:
    """What is searched, and where its trials are kept.

    ``own`` are the values one came with, a value per name of ``space`` (it may lie outside).
    ``identity`` is whatever makes trials comparable: a folder whose study has another one is
    refused.
    """

    folder: Path
    identity: str
    space: Space
    own: Mapping[str, Any]
    maximise: bool = True
    seed: int = 0

    def join(self) -> None:
        """Make the study, or raise :class:`InputError` where the folder has one of another kind."""
        self._open()

    def run(self, score: Score, trials: int, timeout: float | None = None) -> tuple[Trial, ...]:
        """Work on the study until ``trials`` have ended, here or in other processes.

        After ``timeout`` seconds no trial is begun here. Returns every trial of the study by
        number. An :class:`EdgekdError` of a score fails its trial, and trial 0 with it the study:
        what one came with must work.
        """
        study = self._open()
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        with alive(self.folder) as process:
            while True:
                claimed = self._claim(study, process, trials, time.monotonic() < until)
                if claimed is not None:
                    self._work(study, claimed, score)
                elif any(t.state == "running" for t in self.trials(study)):
                    time.sleep(WAIT_SECONDS)
                else:
                    return self.trials(study)

    def trials(self, study: optuna.Study | None = None) -> tuple[Trial, ...]:
        """Every trial that counts, by number; empty where nothing was tried yet."""
        if study is None:
            if not (self.folder / JOURNAL).is_file():
                return ()
            study = self._open()
        rows = [self._row(t) for t in study.get_trials(deepcopy=False) if _counts(t)]
        return tuple(sorted(rows, key=lambda trial: trial.number))

    def choose(self, trials: Sequence[Trial]) -> Trial:
        """The best complete trial; of equals the first, so that nothing is changed for nothing."""
        complete = [t for t in trials if t.state == "complete" and t.score is not None]
        if not complete:
            raise InputError(f"no trial in {self.folder} was completed; allow more time or trials")
        sign = -1 if self.maximise else 1
        return min(complete, key=lambda t: (sign * (t.score or 0.0), t.number))

    def importance(self) -> dict[str, float]:
        """Share of each value in what sets good trials apart (PED-ANOVA, Watanabe et al., 2023).

        Empty where too few trials are complete to say.
        """
        import warnings

        from optuna.importance import get_param_importances

        done = [t for t in self.trials() if t.state == "complete"]
        if len(done) < FEW or len({t.score for t in done}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an own value that lies outside the space
            shares = get_param_importances(self._open())
        return {name: float(value) for name, value in shares.items()}

    def _open(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / CLAIM):
            study = optuna.create_study(
                storage=open_journal(self.folder / JOURNAL),
                pruner=optuna.pruners.MedianPruner(UNPRUNED, n_warmup_steps=WARMUP),
                study_name=NAME,
                direction="maximize" if self.maximise else "minimize",
                load_if_exists=True,
            )
            found = study.user_attrs.get("identity")
            if found is None:
                study.set_user_attr("identity", self.identity)
            elif found != self.identity:
                raise InputError(
                    f"the study in {self.folder} is of another recipe, data or version; give another"
                    " --out, or remove that folder to search anew"
                )
        return study

    def _claim(
        self, study: optuna.Study, process: str, total: int, in_time: bool
    ) -> optuna.Trial | None:
        """Begin the next trial, or None where none is to be begun here.

        The recipe's own setting is tried whatever the clock says: without it there is no choice.
        """
        import optuna

        with locked(self.folder / CLAIM):
            self._give_back(study)
            taken = {t.user_attrs["number"] for t in study.get_trials(deepcopy=False) if _counts(t)}
            number = next(n for n in range(len(taken) + 1) if n not in taken)
            if number >= total or not (in_time or number == 0):
                return None
            if number == 0:
                study.enqueue_trial(self._inside())
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, seed=_seed(self.seed, number)
            )
            trial = study.ask()
            trial.set_user_attr("process", process)
            trial.set_user_attr("number", number)
            for name, values in self.space.items():
                if number or name in self._inside():
                    _suggest(trial, name, values)
            return trial

    def _inside(self) -> dict[str, Any]:
        """The own values that the space contains, as Optuna keeps them.

        One outside is tried all the same, but says nothing about the space.
        """
        found = {}
        for name, values in self.space.items():
            own = self.own[name]
            if isinstance(values, Choices):
                if own in values.values:
                    found[name] = _text(own)
            elif own is not None and values.low <= own <= values.high:
                found[name] = own
        return found

    def _values(self, number: int, drawn: Mapping[str, Any]) -> dict[str, Any]:
        if number == 0:
            return dict(self.own)
        return {
            name: json.loads(drawn[name]) if isinstance(values, Choices) else drawn[name]
            for name, values in self.space.items()
            if name in drawn
        }

    def _work(self, study: optuna.Study, trial: optuna.Trial, score: Score) -> None:
        from optuna.trial import TrialState

        number = trial.user_attrs["number"]
        reported: list[float] = []

        def report(value: float) -> bool:
            reported.append(value)
            trial.report(value, len(reported))
            # What one came with is the measure of the others: it runs to its end.
            return number > 0 and trial.should_prune()

        try:
            finished = score(number, self._values(number, trial.params), report)
        except BaseException as error:
            mine = isinstance(error, EdgekdError) and number > 0
            if mine:
                trial.set_user_attr("failure", str(error))
            study.tell(trial, state=TrialState.FAIL)
            if not mine:
                raise
        else:
            if finished:
                study.tell(trial, reported[-1])
            else:
                study.tell(trial, state=TrialState.PRUNED)

    def _give_back(self, study: optuna.Study) -> None:
        """End the trials of processes that died; call under the claim lock."""
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            process = trial.user_attrs.get("process")
            if process is None or not lives(self.folder, process):
                study.tell(trial.number, state=TrialState.FAIL)

    def _row(self, trial: optuna.trial.FrozenTrial) -> Trial:
        from optuna.trial import TrialState

        names: dict[TrialState, State] = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
        }
        number = trial.user_attrs["number"]
        curve = tuple(value for _, value in sorted(trial.intermediate_values.items()))
        took = trial.duration
        return Trial(
            number,
            self._values(number, trial.params),
            names.get(trial.state, "running"),
            curve[-1] if curve else None,
            curve,
            round(took.total_seconds(), 2) if took else None,
            trial.user_attrs.get("failure"),
        )


def _suggest(trial: optuna.Trial, name: str, values: Range | Choices) -> None:
    if isinstance(values, Choices):
        trial.suggest_categorical(name, [_text(value) for value in values.values])
    elif values.whole:
        trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
    else:
        trial.suggest_float(name, values.low, values.high, log=values.log)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _seed(seed: int, number: int) -> int:
    """A seed of its own for each trial, so that who draws it does not matter."""
    import numpy as np

    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Not a trial whose process died: that one failed for no reason of its own."""
    from optuna.trial import TrialState

    known = "number" in trial.user_attrs
    return known and (trial.state != TrialState.FAIL or "failure" in trial.user_attrs)
