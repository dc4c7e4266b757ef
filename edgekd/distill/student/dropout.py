"""How much of a student is dropped at random while it learns.

A student is smaller than what its teacher's dropout was chosen for. One that underfits its rows
learns more of them, and a quarter faster on a processor, with none.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of ``model`` to ``rate``, and its config's, which later stages read."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        _set_floats(module, rate)  # attention keeps its own as a number
    _set_floats(model.config, rate)


def _set_floats(owner: Any, rate: float) -> None:
    for name, value in list(vars(owner).items()):
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(owner, name, rate)
