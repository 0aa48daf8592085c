"""What pauses do to due times. Pure."""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MOMENT = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Span:
    """When a pause holds scheduled runs: from ``since`` on, until just before ``until``."""

    since: dt.datetime
    until: dt.datetime | None
    """``None``: until it is ended."""

    drops: bool
    """Whether the due times in it are dropped; otherwise they are kept, and become one run."""

    def covers(self, moment: dt.datetime) -> bool:
        """Return whether it holds runs at a moment (aware)."""
        return self.since <= moment and (self.until is None or moment < self.until)


def first_not_dropped(
    due: dt.datetime,
    spans: Iterable[Span],
    now: dt.datetime,
    due_after: Callable[[dt.datetime], dt.datetime],
) -> dt.datetime:
    """Return the first due time from ``due`` on that is not dropped, or that is still to come.

    A due time after ``now`` is never dropped, as the pause that covers it may end early.

    Parameters
    ----------
    due:
        A due time.
    spans:
        The pauses.
    now:
        Aware.
    due_after:
        Returns the first due time after a moment.
    """
    dropping = [each for each in spans if each.drops]
    while due <= now:
        span = next((each for each in dropping if each.covers(due)), None)
        if span is None:
            return due
        end = now if span.until is None else min(span.until - MOMENT, now)
        due = due_after(max(end, due))
    return due
