"""Short work says nothing, long work says how far it is, and stdout stays free."""

from __future__ import annotations

import sys

import pytest

from edgekd import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_log_is_quiet_at_first_and_then_says_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.track("label", 100) as advance:
        advance(10)
        assert capsys.readouterr().err == ""
        clock.now += 2.5
        advance(40)
        assert capsys.readouterr().err == "  label: 50 of 100 rows, 2 s left\n"
        clock.now += 10  # not again before fifteen seconds have passed
        advance(10)
        assert capsys.readouterr().err == ""
        clock.now += 10
        advance(15)
        assert "75 of 100" in capsys.readouterr().err
        clock.now += 100
        advance(25)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_terminal_gets_a_bar_only_when_it_takes_long(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress.track("short", 3) as advance:
        advance(3)
    assert "short" not in capsys.readouterr().err
    with progress.track("long", 3) as advance:
        clock.now += 5
        advance(2)
    said = capsys.readouterr()
    assert "long" in said.err and said.out == ""


def test_an_error_inside_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), progress.track("x", 1):
        raise ZeroDivisionError
