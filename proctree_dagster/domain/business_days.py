"""Rules that go by business days, or between two dates: another rule, with dates left out. Pure.

A due time on a day that is none is left out, or moved to the same time of the next business day, or
of the previous one; due times that coincide are one. ``first`` and ``last`` keep the due times of a
month's first and last business day.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from ..exceptions import ScheduleError
from .schedule_rules import DAY, CronRule, IntervalRule, Minutes

BusinessDays = Literal["", "skip", "next", "previous", "first", "last"]
"""What becomes of a due time on a day that is no business day; blank: nothing."""

CHOICES: tuple[str, ...] = get_args(BusinessDays)
MOVES = ("next", "previous")

MOST_DAYS = 366
"""How many days are searched for the next business day, or the previous one."""

ONE_DAY = dt.timedelta(days=1)

_WORDS = {
    "skip": "on business days",
    "next": "on business days, else on the next one",
    "previous": "on business days, else on the one before",
    "first": "on the first business day of the month",
    "last": "on the last business day of the month",
}


@dataclass(frozen=True)
class BusinessRule:
    """A rule whose due times fall on business days.

    Parameters
    ----------
    base:
        The rule without a calendar.
    days:
        What becomes of its due times (see ``BusinessDays``).
    calendar:
        The calendar's name, for people.
    is_business_day:
        Returns whether a date is one.
    start_date:
        The first date of all; ``None``: any.
    end_date:
        The last date of all; ``None``: any.

    Raises
    ------
    ScheduleError
        Due times that count elapsed time can't be moved: they have no time of day.
    """

    base: IntervalRule | CronRule
    days: BusinessDays
    calendar: str
    is_business_day: Callable[[dt.date], bool] = field(compare=False)
    start_date: dt.date | None = None
    end_date: dt.date | None = None

    def __post_init__(self) -> None:
        if self.days not in CHOICES:
            choices = ", ".join(repr(each) for each in CHOICES if each)
            raise ScheduleError(f"business_days must be one of {choices}, not {self.days!r}.")
        if self.is_elapsed and self.days in MOVES:
            raise ScheduleError(
                f"{self.base}: that counts elapsed time, so no due time of it can be moved to "
                "another day. Give a cron, or an interval that divides a day or is several days."
            )

    def __str__(self) -> str:
        return f"{self.base}{self._restrictions}"

    @property
    def in_words(self) -> str:
        """The rule for a reader: "at 09:00 every day in UTC, on business days (holidays:ZA)"."""
        return f"{self.base.in_words}{self._restrictions}"

    @property
    def _restrictions(self) -> str:
        business = f", {_WORDS[self.days]} ({self.calendar})" if self.days else ""
        start = f", from {self.start_date}" if self.start_date else ""
        return f"{business}{start}{f', until {self.end_date}' if self.end_date else ''}"

    @property
    def timezone(self) -> str:
        """Key of the zone of ``base``."""
        return self.base.timezone

    @property
    def zone(self) -> ZoneInfo:
        """The zone of ``base``."""
        return self.base.zone

    @property
    def minutes(self) -> Minutes:
        """The due times of a day, as minutes from midnight on the wall clock."""
        return self.base.minutes

    @property
    def twice(self) -> bool:
        """Whether an hour that comes twice is due twice."""
        return self.base.twice

    @property
    def is_elapsed(self) -> bool:
        """Whether due times count elapsed time, not wall-clock time."""
        return isinstance(self.base, IntervalRule) and self.base.is_elapsed

    @property
    def begins_at_anchor(self) -> bool:
        """Whether nothing is due before the anchor: of intervals of several days, dates say so."""
        return isinstance(self.base, IntervalRule) and (
            self.is_elapsed or self.base.interval_minutes < DAY
        )

    def on(self, date: dt.date, anchor: dt.datetime) -> bool:
        """Return whether a date has due times, counted from the anchor (aware)."""
        if self.days not in MOVES:  # the base rule is asked first: a calendar may be slow
            return self.base.on(date, anchor) and self.allows(date)
        if not self.allows(date):
            return False
        step = -ONE_DAY if self.days == "next" else ONE_DAY
        return self._is_due(date, anchor) or self._is_moved_here(date, anchor, step)

    def allows(self, date: dt.date) -> bool:
        """Return whether a date may have due times, whatever the base rule says."""
        if not self._is_in_time(date):
            return False
        if not self.days:
            return True
        if not self.is_business_day(date):
            return False
        if self.days == "first":
            return not any(map(self.is_business_day, _before(date)))
        return self.days != "last" or not any(map(self.is_business_day, _after(date)))

    def is_over(self, date: dt.date) -> bool:
        """Return whether nothing is due on a date, nor later."""
        return self.end_date is not None and date > self.end_date

    def next_date(self, date: dt.date, anchor: dt.datetime) -> dt.date:
        """Return ``date`` or a later one: those in between have no due times."""
        start = date if self.start_date is None else max(date, self.start_date)
        return start if self.days in MOVES else self.base.next_date(start, anchor)

    def _is_due(self, date: dt.date, anchor: dt.datetime) -> bool:
        return self._is_in_time(date) and self.base.on(date, anchor)

    def _is_in_time(self, date: dt.date) -> bool:
        is_early = self.start_date is not None and date < self.start_date
        return not (is_early or self.is_over(date))

    def _is_moved_here(self, date: dt.date, anchor: dt.datetime, step: dt.timedelta) -> bool:
        """Return whether a due time of the days without business beside a date is moved to it."""
        for _ in range(MOST_DAYS):
            date += step
            if self.is_business_day(date):
                return False
            if self._is_due(date, anchor):
                return True
        return False


def _before(date: dt.date) -> list[dt.date]:
    """Return the dates of a month before a date."""
    return [date.replace(day=day) for day in range(1, date.day)]


def _after(date: dt.date) -> list[dt.date]:
    """Return the dates of a month after a date."""
    found = (date + ONE_DAY * number for number in range(1, 31))
    return [each for each in found if each.month == date.month and each > date]
