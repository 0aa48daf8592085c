"""A strip of the last hours: which column the mark of each run is in, and how high it is. Pure."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

HOURS = 24
COLUMN = dt.timedelta(minutes=15)
COLUMNS = HOURS * 4

HIGHEST = 12
"""How many marks stand on each other in a column; there is a number in place of the others."""


@dataclass(frozen=True)
class Mark:
    """A run on the strip."""

    index: int
    """Its index in what was given."""

    column: int
    """From the oldest, 0, to the newest."""

    level: int
    """From the lowest, 0."""


@dataclass(frozen=True)
class More:
    """Runs of a column that have no mark of their own."""

    count: int
    column: int
    level: int


def arrange(
    moments: Sequence[dt.datetime], urgent: Sequence[bool], now: dt.datetime
) -> tuple[list[Mark], list[More]]:
    """Return the marks of runs, and the numbers of those that don't fit.

    Parameters
    ----------
    moments:
        When each run was made; aware. Those outside of the strip have no mark.
    urgent:
        Whether each has its mark first, at the bottom.
    now:
        The right end of the strip; aware.
    """
    columns: dict[int, list[int]] = {}
    for index in sorted(range(len(moments)), key=lambda each: (not urgent[each], moments[each])):
        ago = now - moments[index]
        column = COLUMNS - 1 - ago // COLUMN
        if 0 <= column < COLUMNS:
            columns.setdefault(column, []).append(index)
    marks, others = [], []
    for column, found in sorted(columns.items()):
        shown = found if len(found) <= HIGHEST else found[: HIGHEST - 1]
        marks += [Mark(index, column, level) for level, index in enumerate(shown)]
        if len(shown) < len(found):
            others.append(More(len(found) - len(shown), column, len(shown)))
    return marks, others
