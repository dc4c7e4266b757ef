"""What can go wrong, and the exit code it ends with.

    EdgekdError
    ├── InputError          2   the user's recipe, data, model or arguments are wrong
    ├── MissingDependency   4   the environment lacks something; the message names the command
    ├── VerificationError   1   the answer is no: numbers differ, a budget is missed
    └── InconclusiveError   3   the evidence decides neither way

A message is one line that says what was wrong, where, and how to mend it. The command line
prints that line alone; ``--debug`` shows the traceback.
"""

from __future__ import annotations


class EdgekdError(Exception):
    """Base of every error that is meant for the user's eyes."""

    exit_code = 1


class InputError(EdgekdError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class MissingDependency(EdgekdError):
    """The environment lacks a program or a package."""

    exit_code = 4


class VerificationError(EdgekdError):
    """Something was checked and the answer is no."""

    exit_code = 1


class InconclusiveError(EdgekdError):
    """The evidence gathered supports neither yes nor no."""

    exit_code = 3


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known word, or ``""``."""
    import difflib

    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    # Swapped letters are the commonest slip: 'tset' means 'test' before it means 'text'.
    close.sort(key=lambda candidate: sorted(candidate) != sorted(word))
    return f" (did you mean '{close[0]}'?)" if close else ""
