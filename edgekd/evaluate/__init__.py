"""What a bundle keeps of its teacher, with intervals. Imports neither torch nor transformers."""

from edgekd.evaluate.bootstrap import Estimate, difference, estimate, mcnemar, retained
from edgekd.evaluate.classes import ClassErrors, blind_spots
from edgekd.evaluate.run import Evaluation, evaluate, predict

__all__ = [
    "ClassErrors",
    "Estimate",
    "Evaluation",
    "blind_spots",
    "difference",
    "estimate",
    "evaluate",
    "mcnemar",
    "predict",
    "retained",
]
