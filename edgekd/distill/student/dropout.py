"""How much of a student is dropped at random while it learns.

A student is smaller than what its teacher's dropout was chosen for. One that underfits its rows
learns more of them, and a quarter faster on a processor, with none.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_VALUES = ("dropout", "pdrop")  # as families name theirs: hidden_dropout_prob, attn_pdrop
_LAYERS = ("drop_path", "drop_prob", "drop_rate", "drop_connect", "layerdrop")


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of ``model`` to ``rate``, and its config's, which later stages read.

    A rate of 0 also ends the dropping of whole layers (stochastic depth); another leaves that.
    """
    names = _VALUES if rate else _VALUES + _LAYERS
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        _set_floats(module, names, rate)  # attention keeps its own as a number
    _set_floats(model.config, names, rate)


def _set_floats(owner: Any, names: tuple[str, ...], rate: float) -> None:
    for name, value in list(vars(owner).items()):
        if not any(part in name for part in names):
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            setattr(owner, name, rate)
        elif isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
            setattr(owner, name, [rate] * len(value))  # one for each stage of the network
