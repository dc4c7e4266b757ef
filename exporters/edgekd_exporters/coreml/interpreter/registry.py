"""The table of MIL ops: name -> a small pure function on torch tensors.

A kernel's positional parameters are tensors; its keyword-only parameters are attributes and
arrive as plain Python values (int, bool, str, float, list). The names are those of the MIL op
definition, so a kernel reads like its page in the Core ML documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """One op. ``exact`` marks ops that only move or select values, which need no rounding."""

    run: Callable[..., Any]
    attributes: frozenset[str]
    parameters: frozenset[str]
    exact: bool


KERNELS: dict[str, Kernel] = {}


def kernel(*names: str, exact: bool = False) -> Callable[[Callable], Callable]:
    """Register a function under ``names`` (its own name where none is given)."""

    def register(function: Callable) -> Callable:
        parameters = inspect.signature(function).parameters.values()
        entry = Kernel(
            function,
            frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
            frozenset(p.name for p in parameters),
            exact,
        )
        for name in names or (function.__name__.rstrip("_"),):
            KERNELS[name] = entry
        return function

    return register
