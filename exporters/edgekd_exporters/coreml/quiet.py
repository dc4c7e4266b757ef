"""coremltools without the remarks that its user cannot act on."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' version remarks, progress bars and Python warnings.

    Errors pass: they are exceptions. What matters among the warnings (a weight that was skipped)
    is read off the result instead, where it cannot be missed.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def coremltools() -> Any:
    """Import coremltools without its eight lines on what this machine lacks."""
    with quiet():
        import coremltools

        return coremltools
