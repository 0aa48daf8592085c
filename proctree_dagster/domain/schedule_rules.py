"""What a schedule's rule says: an interval with a start time, or a cron; each in a zone. Pure.

``intervals`` says which due times follow.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from ..exceptions import ScheduleError

HOUR = 60
DAY = 24 * HOUR
MAX_INTERVAL = 365 * DAY
"""The longest interval, in minutes: a year."""

Minutes = range | tuple[int, ...]
"""Times of a day, as minutes from midnight, in order."""


@dataclass(frozen=True)
class IntervalRule:
    """Due every so many minutes, counted from a start time or from midnight.

    Parameters
    ----------
    interval_minutes:
        Minutes between two due times, from 1 to ``MAX_INTERVAL``.
    start_time:
        Wall-clock time of a due time, and of the first one; its seconds are dropped, schedules go
        by the minute. ``None``: midnight, and the first due time is the next one that there is.
    timezone:
        Key of the IANA zone in which ``start_time`` is meant.

    Raises
    ------
    ScheduleError
        The interval is out of range; or, where the zone is needed, it is unknown.
    """

    interval_minutes: int
    start_time: dt.time | None
    timezone: str

    def __post_init__(self) -> None:
        if not 1 <= self.interval_minutes <= MAX_INTERVAL:
            raise ScheduleError(
                f"The interval must be from 1 to {MAX_INTERVAL} minutes (a year), not "
                f"{self.interval_minutes!r}."
            )
        if self.start_time is not None:
            start = self.start_time.replace(second=0, microsecond=0, tzinfo=None)
            object.__setattr__(self, "start_time", start)

    def __str__(self) -> str:
        start = "" if self.start_time is None else f" from {self.start_time:%H:%M}"
        return f"every {self.interval_minutes} min{start} in {self.timezone}"

    @property
    def in_words(self) -> str:
        """The rule for a reader: "every 2 hours from 09:00 in Europe/London"."""
        start = "" if self.start_time is None else f" from {self.start_time:%H:%M}"
        if self.interval_minutes % DAY == 0:
            every = _every(self.interval_minutes // DAY, "day")
            start = f" at {self.start_minute // HOUR:02}:{self.start_minute % HOUR:02}"
        elif self.interval_minutes % HOUR == 0:
            every = _every(self.interval_minutes // HOUR, "hour")
        else:
            every = _every(self.interval_minutes, "minute")
        return f"{every}{start} in {self.timezone}"

    @property
    def zone(self) -> ZoneInfo:
        """The zone of ``start_time``."""
        return zone_of(self.timezone)

    @property
    def is_elapsed(self) -> bool:
        """Whether due times count elapsed time, not wall-clock time."""
        return DAY % self.interval_minutes != 0 and self.interval_minutes % DAY != 0

    @property
    def start_minute(self) -> int:
        """``start_time`` as minutes from midnight."""
        start = self.start_time or dt.time(0)
        return start.hour * HOUR + start.minute

    @property
    def minutes(self) -> Minutes:
        """The due times of a day, as minutes from midnight on the wall clock."""
        if self.interval_minutes >= DAY:
            return (self.start_minute,)
        return range(self.start_minute % self.interval_minutes, DAY, self.interval_minutes)

    @property
    def twice(self) -> bool:
        """Whether an hour that comes twice is due twice."""
        return HOUR % self.interval_minutes == 0

    def on(self, date: dt.date, anchor: dt.datetime) -> bool:
        """Return whether a date has due times, counted from the anchor (aware)."""
        if self.interval_minutes < DAY:
            return True
        days = (date - self.first_date(anchor)).days
        return days >= 0 and days % (self.interval_minutes // DAY) == 0

    def next_date(self, date: dt.date, anchor: dt.datetime) -> dt.date:
        """Return ``date`` or a later one: those in between have no due times."""
        if self.interval_minutes < DAY:
            return date
        days, step = (date - self.first_date(anchor)).days, self.interval_minutes // DAY
        return date + dt.timedelta(days=-days % step if days > 0 else -days)

    def first_date(self, anchor: dt.datetime) -> dt.date:
        """Return the date whose ``start_time`` the anchor (aware) is.

        Where a gap in the clock covers the start time and midnight, the anchor is on the next date.
        """
        local = anchor.astimezone(self.zone)
        return local.date() - dt.timedelta(days=int(local.time() < (self.start_time or dt.time(0))))


@dataclass(frozen=True)
class CronRule:
    """Due at the times that a cron expression names.

    Parameters
    ----------
    cron:
        Five fields: minute, hour, day of the month, month, day of the week. Of the two days, both
        must match if one begins with ``*``, else either (as in Debian's cron).
    timezone:
        Key of the IANA zone in which it is meant.

    Raises
    ------
    ScheduleError
        The expression can't be read, or is never due; or, where the zone is needed, it is unknown.
    """

    cron: str
    timezone: str

    def __post_init__(self) -> None:
        if len(self.cron.split()) != 5:
            raise ScheduleError(
                f"A cron has five fields (minute, hour, day, month, weekday), such as "
                f"'0 9 * * 1-5'; {self.cron!r} has {len(self.cron.split())}."
            )
        try:
            next(CronSim(self.cron, dt.datetime(2000, 1, 1)))  # on any wall clock
        except CronSimError as error:
            raise ScheduleError(f"The cron {self.cron!r} can't be read: {error}.") from error
        except StopIteration as error:
            raise ScheduleError(f"The cron {self.cron!r} is never due.") from error

    def __str__(self) -> str:
        return f"at {self.cron} in {self.timezone}"

    @property
    def in_words(self) -> str:
        """The rule for a reader: "at 09:00 on Monday through Friday in Europe/London"."""
        fields = _fields(self.cron)
        plain = self.cron.split()
        if not fields.day_and and (_has_every_day(fields) or _has_every_weekday(fields)):
            plain[2] = plain[4] = "*"  # one of the two matches each date, and either may
        explained = CronSim(" ".join(plain), dt.datetime(2000, 1, 1)).explain()
        return f"{explained[0].lower()}{explained[1:]} in {self.timezone}"

    @property
    def zone(self) -> ZoneInfo:
        """The zone of the expression."""
        return zone_of(self.timezone)

    @property
    def minutes(self) -> Minutes:
        """The due times of a day, as minutes from midnight on the wall clock."""
        return _minutes(self.cron)

    @property
    def twice(self) -> bool:
        """Whether an hour that comes twice is due twice: if every hour is."""
        return len(_fields(self.cron).hours) == 24

    def on(self, date: dt.date, anchor: dt.datetime) -> bool:
        """Return whether a date has due times; an anchor is not needed."""
        fields = _fields(self.cron)
        return date.month in fields.months and fields.match_day(date)

    def next_date(self, date: dt.date, anchor: dt.datetime) -> dt.date:
        """Return ``date`` or a later one: those in between have no due times."""
        if date.month in _fields(self.cron).months:
            return date
        return (date.replace(day=1) + dt.timedelta(days=32)).replace(day=1)

    @property
    def cover(self) -> str:
        """Days, months and weekdays that include every date of this rule, as plain cron fields.

        Dialects of cron differ in how days and weekdays combine, and in ``L`` and ``#``.
        """
        fields = _fields(self.cron)
        months = field(sorted(fields.months), 12)
        if not fields.day_and:  # either may match
            return f"* {months} *"
        every_day, every_weekday = _has_every_day(fields), _has_every_weekday(fields)
        plain_days = all(isinstance(day, int) and day > 0 for day in fields.days)
        weekdays = {day % 7 for day in fields.weekdays if isinstance(day, int)}
        if every_day and not every_weekday and len(weekdays) == len(fields.weekdays - {7}):
            return f"* {months} {field(sorted(weekdays), 7)}"
        if every_weekday and plain_days:
            return f"{field(sorted(fields.days), 31)} {months} *"
        return f"* {months} *"


Rule = IntervalRule | CronRule
"""When a schedule asks for runs, without a calendar."""


def field(values: Sequence[int], count: int) -> str:
    """Write a field of a cron, as a person would.

    ``*`` if it holds every value, ``*/15`` if every 15th (of minutes and hours: a day that begins
    with ``*`` means something else), ``1-5`` if they follow each other.
    """
    if len(values) == count:
        return "*"
    step = values[1] - values[0] if len(values) > 1 else 0
    if step > 1 and count in (HOUR, 24) and list(values) == list(range(0, count, step)):
        return f"*/{step}"
    if step == 1 and len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]}-{values[-1]}"
    return ",".join(map(str, values))


def _every(number: int, unit: str) -> str:
    return f"every {unit}" if number == 1 else f"every {number} {unit}s"


@lru_cache(maxsize=1024)
def _fields(cron: str) -> CronSim:
    return CronSim(cron, dt.datetime(2000, 1, 1))  # only its fields are used


def _has_every_day(fields: CronSim) -> bool:
    return len(fields.days) == 31


def _has_every_weekday(fields: CronSim) -> bool:
    return len({day % 7 for day in fields.weekdays if isinstance(day, int)}) == 7


@lru_cache(maxsize=1024)
def _minutes(cron: str) -> tuple[int, ...]:
    fields = _fields(cron)
    return tuple(sorted(hour * HOUR + at for hour in fields.hours for at in fields.minutes))


def zone_of(timezone: str) -> ZoneInfo:
    """Return the zone that a key names.

    Raises
    ------
    ScheduleError
        There is none.
    """
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(
            f"{timezone!r} is not an IANA time zone, such as 'Africa/Johannesburg'."
        ) from error
