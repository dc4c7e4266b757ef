"""edgekd: from a teacher that is too big to a student that ships, with the proof beside it."""

__version__ = "0.1.0"
