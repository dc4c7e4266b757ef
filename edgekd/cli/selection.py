"""The rows of ``--select``: apart from the test data, and parted into what each is used for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.data import OVERLAP_LIMIT, drop_overlap, group_key
from edgekd.errors import InputError
from edgekd.pipeline.context import spread
from edgekd.progress import say

Rows = list[dict[str, Any]]


def apart(selection: Rows, test: Rows, given: str = "--select", other: str = "--data") -> Rows:
    """``selection``, the rows of the option ``given``, without the few that ``other`` has too.

    Raises :class:`InputError` where they are many: the test data would choose.
    """
    if not selection or not test:
        return selection
    kept, overlap = drop_overlap(selection, test, allow=True)
    if overlap.share > OVERLAP_LIMIT or not kept:
        raise InputError(
            f"{overlap.test_rows} of {len(test)} rows of {other} ({overlap.share:.1%}) also stand in"
            f" {given}, and how good a choice is shows on other rows only; give files that share none"
        )
    if overlap.dropped:
        say(f"  {overlap.dropped} rows of {given} also stand in {other}: left out")
    return kept


def divided(selection: Rows, most: int, group: Sequence[str] = ()) -> tuple[Rows, Rows]:
    """Rows to choose on, and at most ``most`` others that set activation ranges.

    A precision that is scored on its own calibration rows looks better than it is. The others are
    at most a fifth of the rows, or of what they form by the columns ``group``: a query is scored
    with all its candidates or not at all. Raises :class:`InputError` where there are too few.
    """
    groups: dict[bytes, Rows] = {}
    for row in selection:
        groups.setdefault(group_key(row, group), []).append(row)
    needed = max(1, round(most * len(groups) / max(1, len(selection))))
    keys = {
        group_key(row, group)
        for row in spread([rows[0] for rows in groups.values()], min(needed, len(groups) // 5))
    }
    chosen_on = [row for row in selection if group_key(row, group) not in keys]
    ranging = [row for key in keys for row in groups[key]]
    if not ranging or not chosen_on:
        raise InputError(
            f"--select has {len(groups)} {'groups of ' * bool(group)}rows that differ, too few: auto"
            " sets activation ranges by a fifth of them and chooses on the others; give more"
        )
    return chosen_on, [dict(row) for row in spread(ranging, most)]
