"""Run the teacher once and keep what it said, by the content of each example.

    keys.py    what names an example: its content, never its position
    shard.py   one file of signals: written whole or not at all, checked when read
    store.py   many shards and one sorted index: missing, append, get
    label.py   run the teacher over what is missing, in shards planned beforehand
    sampled.py k classes of a distribution that stand for all of it

Nothing here imports torch.
"""

from edgekd.signals.keys import fingerprint, key, keys
from edgekd.signals.label import label, plan
from edgekd.signals.store import Field, Signals, SignalSpec, SignalStore, pad

__all__ = [
    "Field",
    "SignalSpec",
    "SignalStore",
    "Signals",
    "fingerprint",
    "key",
    "keys",
    "label",
    "pad",
    "plan",
]
