"""Interval + start time + zone -> due times, and the cron that covers them. Pure.

The rules (docs/schedules.md): An interval that divides a day is due at the same wall-clock
times every day; a multiple of a day is due at ``start_time`` every n-th day from the anchor; any
other is elapsed time from the anchor. A wall-clock time in a gap is due at the gap's end, and those
that coincide are one. When an hour comes twice, an interval that divides an hour is due in both,
any other once, in the second.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .exceptions import ScheduleError

HOUR = 60
DAY = 24 * HOUR
MAX_INTERVAL = 365 * DAY
"""The longest interval, in minutes: a year."""

EVERY_MINUTE = "* * * * *"
UTC = dt.UTC


@dataclass(frozen=True)
class Rule:
    """When a schedule asks for runs.

    Parameters
    ----------
    interval_minutes:
        Minutes between two due times, from 1 to ``MAX_INTERVAL``.
    start_time:
        Wall-clock time of a due time; its seconds are dropped, schedules go by the minute.
    timezone:
        Key of the IANA zone in which ``start_time`` is meant.

    Raises
    ------
    ScheduleError
        The interval is out of range; or, where the zone is needed, it is unknown.
    """

    interval_minutes: int
    start_time: dt.time
    timezone: str

    def __post_init__(self) -> None:
        if not 1 <= self.interval_minutes <= MAX_INTERVAL:
            raise ScheduleError(
                f"The interval must be from 1 to {MAX_INTERVAL} minutes (a year), not "
                f"{self.interval_minutes!r}."
            )
        object.__setattr__(
            self, "start_time", self.start_time.replace(second=0, microsecond=0, tzinfo=None)
        )

    def __str__(self) -> str:
        return f"every {self.interval_minutes} min from {self.start_time:%H:%M} in {self.timezone}"

    @property
    def zone(self) -> ZoneInfo:
        """The zone of ``start_time``."""
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ScheduleError(
                f"{self.timezone!r} is not an IANA time zone, such as 'Africa/Johannesburg'."
            ) from error

    @property
    def is_elapsed(self) -> bool:
        """Whether due times count elapsed time, not wall-clock time."""
        return DAY % self.interval_minutes != 0 and self.interval_minutes % DAY != 0

    @property
    def start_minute(self) -> int:
        """``start_time`` as minutes from midnight."""
        return self.start_time.hour * HOUR + self.start_time.minute


def first_due(rule: Rule, now: dt.datetime) -> dt.datetime:
    """Return the next occurrence of ``start_time`` after ``now``: a new schedule begins there."""
    return next(
        due
        for date in _dates(now.astimezone(rule.zone).date() - dt.timedelta(days=1))
        for due in _occurrences(date, rule.start_minute, rule.zone, both=False)
        if due > now
    )


def restarted_due(rule: Rule, now: dt.datetime) -> dt.datetime:
    """Return the first due time after ``now`` of a rule that has just been changed.

    It counts from the latest occurrence of ``start_time``, so a short interval does not fall
    silent until the next one; a long interval begins with the next one.
    """
    upcoming = first_due(rule, now)
    if rule.interval_minutes >= DAY:
        return upcoming
    earlier = now.astimezone(rule.zone).date()
    latest = max(
        due
        for days in range(4)
        for due in _occurrences(
            earlier - dt.timedelta(days=days - 1), rule.start_minute, rule.zone, both=False
        )
        if due <= now
    )
    return min(upcoming, due_after(rule, latest, now))


def due_after(rule: Rule, anchor: dt.datetime, after: dt.datetime) -> dt.datetime:
    """Return the first due time after ``after``.

    Parameters
    ----------
    rule:
        The schedule's rule.
    anchor:
        Aware; the first due time of all. None comes before it.
    after:
        Aware; the result is later than this.

    Returns
    -------
    datetime
        In UTC.
    """
    anchor = anchor.astimezone(UTC).replace(second=0, microsecond=0)
    if after < anchor:
        return anchor
    if rule.is_elapsed:
        interval = dt.timedelta(minutes=rule.interval_minutes)
        return anchor + interval * ((after - anchor) // interval + 1)
    local_date = after.astimezone(rule.zone).date()
    if rule.interval_minutes >= DAY:
        step = rule.interval_minutes // DAY
        first = _first_date(rule, anchor)
        passed = max(0, (local_date - first).days - 1) // step
        return next(
            due
            for date in _dates(first + dt.timedelta(days=passed * step), step)
            for due in _occurrences(date, rule.start_minute, rule.zone, both=False)
            if due > after and due > anchor
        )
    # A clock set back over midnight can put a date's first minutes before the last ones of the
    # date before; so look at the dates around, and take the earliest.
    around = (local_date + dt.timedelta(days=days) for days in (-1, 0, 1, 2))
    phase = rule.start_minute % rule.interval_minutes
    return min(
        due
        for date in around
        for due in _due_times_of(date, rule.interval_minutes, phase, rule.timezone)
        if due > after
    )


def _first_date(rule: Rule, anchor: dt.datetime) -> dt.date:
    """Return the date whose ``start_time`` the anchor is.

    Where a gap holds the start time and midnight, the anchor lies on the date after.
    """
    local = anchor.astimezone(rule.zone)
    return local.date() - dt.timedelta(days=int(local.time() < rule.start_time))


def _dates(first: dt.date, step: int = 1) -> Iterator[dt.date]:
    while True:
        yield first
        first += dt.timedelta(days=step)


@lru_cache(maxsize=256)
def _due_times_of(
    date: dt.date, interval: int, phase: int, timezone: str
) -> tuple[dt.datetime, ...]:
    """Return the due times of one local date for an interval that divides a day.

    Cached: a minutely schedule has 1,440 of them, and asks every minute.
    """
    zone = ZoneInfo(timezone)
    both = HOUR % interval == 0
    return tuple(
        due
        for minute in range(phase, DAY, interval)
        for due in _occurrences(date, minute, zone, both=both)
    )


def _occurrences(date: dt.date, minute: int, zone: ZoneInfo, *, both: bool) -> list[dt.datetime]:
    """Return the instants, in UTC, at which a wall-clock time is due on a date.

    One, or two if an hour comes twice and ``both`` are asked for.
    """
    local = dt.datetime.combine(date, dt.time(minute // HOUR, minute % HOUR))
    early = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    late = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if early == late:
        return [early]
    if early < late:  # the hour comes twice (PEP 495)
        return [early, late] if both else [late]
    return [_gap_end(late, early, zone)]


def _gap_end(before: dt.datetime, after: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """Return the instant between the two at which the zone's offset changes."""
    offset = before.astimezone(zone).utcoffset()
    low, high = 0, round((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + dt.timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return before + dt.timedelta(seconds=high)


def cron_cover(rule: Rule, anchor: dt.datetime) -> tuple[list[str], str]:
    """Return the coarsest crons that tick at every due time, and the zone they are meant in.

    All due times lie on a grid that repeats daily, whose step is the greatest common divisor of
    the interval and a day: exact for an interval that divides a day.

    Parameters
    ----------
    rule, anchor:
        As in ``due_after``.
    """
    step = gcd(rule.interval_minutes, DAY)
    if rule.is_elapsed:
        start, timezone = anchor.astimezone(UTC), "UTC"
        phase = start.hour * HOUR + start.minute
    else:
        phase, timezone = rule.start_minute, rule.timezone
    hours_of: dict[int, list[int]] = {}
    for moment in range(phase % step, DAY, step):
        hours_of.setdefault(moment % HOUR, []).append(moment // HOUR)
    minutes_at: dict[tuple[int, ...], list[int]] = {}
    for minute, hours in hours_of.items():
        minutes_at.setdefault(tuple(hours), []).append(minute)
    weekday = "*"
    if rule.interval_minutes % (7 * DAY) == 0:
        # cron counts Sunday as 0, Python as 6.
        weekday = str((_first_date(rule, anchor).weekday() + 1) % 7)
    crons = [
        f"{_field(sorted(minutes), HOUR)} {_field(list(hours), 24)} * * {weekday}"
        for hours, minutes in sorted(minutes_at.items())
    ]
    return crons, timezone


def _field(values: list[int], count: int) -> str:
    """Write a cron field: ``*`` if it holds every value."""
    return "*" if len(values) == count else ",".join(map(str, values))
