"""Distillation losses, one normalisation for all of them (see ``reduction.py``)."""
