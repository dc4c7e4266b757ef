"""Distillation losses, one normalisation for all of them (``reduction.py``).

``python -m edgekd.distill.losses`` prints which law each of them keeps.
"""

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.hidden import layer_map
from edgekd.distill.losses.objective import Objective, check_weights
from edgekd.distill.losses.registry import LOSSES, table

__all__ = ["LOSSES", "Law", "Loss", "Objective", "check_weights", "layer_map", "table"]
