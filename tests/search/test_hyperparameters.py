"""A study on a function whose best setting is known: what is drawn, counted, resumed, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import InputError
from edgekd.search.hyperparameters import Report, Study, Trial
from edgekd.search.journal import alive, lives, locked
from edgekd.space import Choices, Range

SPACE = {
    "temperature": Range(0.5, 8, log=True),
    "method": Choices(("kl", "mse")),
    "layers": Range(1, 6, whole=True),
}
OWN = {"temperature": 7.5, "method": "mse", "layers": 1}
EPOCHS = 4


def study(folder: Path, **values: Any) -> Study:
    return Study(folder, **{"identity": "one", "space": SPACE, "own": OWN, **values})


def quality(values: Mapping[str, Any]) -> float:
    """Best at temperature 2, method kl and 6 layers, where it is 6."""
    return values["layers"] - abs(values["temperature"] - 2) - (values["method"] == "mse")


def train(number: int, values: Mapping[str, Any], report: Report) -> bool:
    for epoch in range(1, EPOCHS + 1):
        if report(quality(values) - (EPOCHS - epoch)) and epoch < EPOCHS:
            return False
    return True


# One process of a study: announces every trial, and may sleep inside one.
WORKER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_hyperparameters import EPOCHS, quality, study
sleep, stuck, total = float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
def train(number, values, report):
    print(json.dumps(number), flush=True)
    time.sleep(600 if number == stuck else sleep)
    for epoch in range(EPOCHS):
        report(quality(values))
    return True
study(Path(sys.argv[2])).run(train, total)
"""


def worker(folder: Path, *, sleep: float = 0.0, stuck: int = -1, total: int = 6) -> Any:
    here = str(Path(__file__).parent)
    arguments = [here, str(folder), str(sleep), str(stuck), str(total)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True
    )


def drawn(trials: tuple[Trial, ...]) -> list[dict[str, Any]]:
    return [dict(trial.values) for trial in trials]


def test_the_first_trial_is_what_one_came_with_and_the_choice_is_no_worse(tmp_path: Path) -> None:
    searched = study(tmp_path)
    trials = searched.run(train, 20)
    assert [t.number for t in trials] == list(range(20))
    assert dict(trials[0].values) == OWN
    assert trials[0].state == "complete" and trials[0].score == quality(OWN)
    chosen = searched.choose(trials)
    assert chosen.score == max(t.score or 0.0 for t in trials if t.state == "complete")
    assert chosen.number > 0 and (chosen.score or 0.0) > quality(OWN)
    assert {t.state for t in trials} == {"complete", "pruned"}
    for trial in trials[1:]:
        assert 0.5 <= trial.values["temperature"] <= 8
        assert trial.values["method"] in ("kl", "mse")
        assert trial.values["layers"] in range(1, 7)
    shares = searched.importance()
    assert set(shares) == set(SPACE) and sum(shares.values()) == pytest.approx(1)


def test_an_own_value_outside_the_space_is_tried_as_it_is(tmp_path: Path) -> None:
    own = {"temperature": 100.0, "method": "mse", "layers": 2}
    trials = study(tmp_path, own=own).run(train, 8)
    assert dict(trials[0].values) == own and trials[0].score == quality(own)
    assert all(t.values["temperature"] <= 8 for t in trials[1:])


def test_of_equals_the_first_is_chosen_and_smaller_may_be_better(tmp_path: Path) -> None:
    searched = study(tmp_path / "even")

    def even(number: int, values: Mapping[str, Any], report: Report) -> bool:
        report(1.0)
        return True

    assert searched.choose(searched.run(even, 5)).number == 0
    least = study(tmp_path / "least", maximise=False)

    def loss(number: int, values: Mapping[str, Any], report: Report) -> bool:
        report(float(10 - number))
        return True

    assert least.choose(least.run(loss, 4)).number == 3


def test_a_pruned_trial_keeps_its_curve_and_is_never_chosen(tmp_path: Path) -> None:
    searched = study(tmp_path)
    trials = searched.run(train, 25)
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned and all(2 <= len(t.curve) < EPOCHS for t in pruned)
    assert searched.choose(trials).state == "complete"


def test_a_setting_that_cannot_be_trained_fails_alone(tmp_path: Path) -> None:
    def picky(number: int, values: Mapping[str, Any], report: Report) -> bool:
        if number == 2:
            raise InputError("the loss became nan; lower learning_rate")
        return train(number, values, report)

    trials = study(tmp_path).run(picky, 5)
    assert trials[2].state == "failed"
    assert trials[2].failure == "the loss became nan; lower learning_rate"
    assert [t.number for t in trials] == [0, 1, 2, 3, 4]


def test_what_one_came_with_must_work_and_is_tried_again(tmp_path: Path) -> None:
    def broken(number: int, values: Mapping[str, Any], report: Report) -> bool:
        raise InputError("no such layer")

    with pytest.raises(InputError, match="no such layer"):
        study(tmp_path).run(broken, 3)
    assert study(tmp_path).trials() == ()
    assert [t.number for t in study(tmp_path).run(train, 2)] == [0, 1]


def test_the_clock_stops_trials_but_not_the_first(tmp_path: Path) -> None:
    trials = study(tmp_path).run(train, 50, timeout=0)
    assert [t.number for t in trials] == [0]


def test_a_resumed_study_draws_what_an_undisturbed_one_draws(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole").run(train, 12)
    parts = study(tmp_path / "parts")
    assert len(parts.run(train, 5)) == 5

    def dies(number: int, values: Mapping[str, Any], report: Report) -> bool:
        report(0.0)
        raise KeyboardInterrupt if number == 7 else EOFError

    for _ in range(2):  # a trial that dies with its process leaves no trace
        with pytest.raises((KeyboardInterrupt, EOFError)):
            parts.run(dies, 12)
    assert drawn(parts.run(train, 12)) == drawn(whole)
    assert drawn(study(tmp_path / "other", seed=1).run(train, 3)) != drawn(whole)[:3]


def test_two_processes_share_one_study_and_its_total(tmp_path: Path) -> None:
    pair = [worker(tmp_path, sleep=0.1, total=9) for _ in range(2)]
    said = [
        [json.loads(line) for line in process.communicate(timeout=60)[0].split()]
        for process in pair
    ]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(said[0] + said[1]) == list(range(9))
    assert said[0] and said[1]
    assert [t.state for t in study(tmp_path).trials()] == ["complete"] * 9
    assert not list(tmp_path.glob("process-*"))


def test_a_killed_process_gives_its_trial_back(tmp_path: Path) -> None:
    doomed = worker(tmp_path, stuck=2)
    for line in doomed.stdout:
        if json.loads(line) == 2:
            break
    assert study(tmp_path).trials()[-1].state == "running"
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    (tmp_path / "study.journal").open("ab").write(b'{"op_code":')  # and it tore its last line
    trials = study(tmp_path).run(train, 6)
    assert [t.number for t in trials] == list(range(6))
    assert {t.state for t in trials} <= {"complete", "pruned"}


def test_a_process_that_waits_takes_over_from_one_that_dies(tmp_path: Path) -> None:
    doomed = worker(tmp_path, stuck=1, total=2)
    while (
        sum(t.state == "running" for t in study(tmp_path).trials()) + len(study(tmp_path).trials())
        < 3
    ):
        time.sleep(0.05)
    second = worker(tmp_path, total=2)
    doomed.kill()
    doomed.wait()
    assert second.communicate(timeout=60)[0].split() == ["1"]
    assert [t.state for t in study(tmp_path).trials()] == ["complete", "complete"]


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    study(tmp_path).run(train, 1)
    with pytest.raises(InputError, match="another recipe, data or version"):
        study(tmp_path, identity="two").run(train, 1)


def test_nothing_complete_is_no_choice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trial"):
        study(tmp_path).choose(())
    assert study(tmp_path / "absent").trials() == ()
    assert not (tmp_path / "absent").exists()


def test_a_lock_says_who_lives(tmp_path: Path) -> None:
    with alive(tmp_path) as name:
        assert lives(tmp_path, name)
    assert not lives(tmp_path, name)
    (tmp_path / "left").touch()  # its holder was killed before it could remove it
    assert not lives(tmp_path, "left")
    with locked(tmp_path / "left"):
        assert lives(tmp_path, "left")
