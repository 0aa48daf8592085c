"""Rule -> due times, and the cron that covers them. Pure.

Daylight saving (docs/schedules.md): an interval that divides a day is due at the
same wall-clock times every day; a multiple of a day is due at ``start_time`` every n-th day from
the anchor; any other is elapsed time from the anchor. A cron is wall-clock time, too. A wall-clock
time in a gap is due at the gap's end, and those that coincide are one. When an hour comes twice, an
interval that divides an hour and a cron of every hour are due in both, any other once, in the
second.
"""

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, takewhile
from math import gcd
from zoneinfo import ZoneInfo

from ..exceptions import ScheduleError
from .business_days import MOVES, BusinessRule
from .schedule_rules import (
    DAY,
    HOUR,
    CronRule,
    IntervalRule,
    Minutes,
    Rule,
    field,
    zone_of,
)

AnyRule = Rule | BusinessRule
"""When a schedule asks for runs."""

MOST_YEARS = 30
"""How far ahead a due time is searched: a leap day may be no business day several times."""

NEVER = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
"""The due time of a rule that has ended: later than any other."""

MOMENT = dt.timedelta(microseconds=1)
YEARLY = "0 0 1 1 *"
EVERY_MINUTE = "* * * * *"
UTC = dt.UTC
ONE_DAY = dt.timedelta(days=1)


def first_due(rule: Rule, now: dt.datetime) -> dt.datetime:
    """Return the first due time of a new schedule.

    Of an interval with a ``start_time`` that is its next occurrence; without one, the next due time
    that there is, counted from midnight: an hourly schedule begins with the next hour.
    """
    if isinstance(rule, CronRule):
        return due_after(rule, now, now)
    return restarted_due(rule, now) if rule.start_time is None else _next_start(rule, now)


def restarted_due(rule: Rule, now: dt.datetime) -> dt.datetime:
    """Return the first due time after ``now`` of a rule that has just been changed.

    A short interval counts from the latest occurrence of ``start_time``, so that it does not
    pause until the next one; a long interval begins with the next one.
    """
    if isinstance(rule, CronRule):
        return due_after(rule, now, now)
    upcoming = _next_start(rule, now)
    if rule.interval_minutes >= DAY:
        return upcoming
    latest = _next_start(rule, now - 3 * ONE_DAY)
    while (later := _next_start(rule, latest)) <= now:
        latest = later
    return min(upcoming, due_after(rule, latest, now))


def _next_start(rule: IntervalRule, after: dt.datetime) -> dt.datetime:
    """Return the next occurrence of the start time, whatever the interval."""
    start = (rule.start_minute,)
    days = (after.astimezone(UTC).date() + ONE_DAY * number for number in count())
    return next(
        due
        for day in days
        for due in _wall_clock(_around(day), day, start, rule.timezone, rule.twice)
        if due > after
    )


def due_after(rule: AnyRule, anchor: dt.datetime, after: dt.datetime) -> dt.datetime:
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
        In UTC; ``NEVER`` if the rule ends before there is one.

    Raises
    ------
    ScheduleError
        There is none in ``MOST_YEARS``, or the rule's calendar can't say.
    """
    if after >= NEVER:
        return NEVER
    anchor, after = anchor.astimezone(UTC).replace(second=0, microsecond=0), after.astimezone(UTC)
    if after < anchor and isinstance(rule, IntervalRule):
        return anchor
    if isinstance(rule, IntervalRule) and rule.is_elapsed:
        interval = dt.timedelta(minutes=rule.interval_minutes)
        return anchor + interval * ((after - anchor) // interval + 1)
    if isinstance(rule, BusinessRule):
        if rule.begins_at_anchor:
            after = max(after, anchor - MOMENT)
        if rule.is_elapsed:
            return _elapsed_due_after(rule, anchor, after)
    day = after.date()
    while day.year <= after.year + MOST_YEARS:
        due = _due_on(rule, anchor, day)
        later = bisect_right(due, after)
        if later < len(due):
            return due[later]
        if isinstance(rule, BusinessRule) and rule.is_over(day - ONE_DAY):
            return NEVER
        # What is due on a date of the zone may lie on the UTC day before it, or after it.
        day = max(day + ONE_DAY, rule.next_date(day, anchor) - ONE_DAY)
    raise _never(rule)


def _elapsed_due_after(rule: BusinessRule, anchor: dt.datetime, after: dt.datetime) -> dt.datetime:
    """Return the first due time of elapsed time that is on a day that the rule allows."""
    last = after.year + MOST_YEARS
    while (due := due_after(rule.base, anchor, after)).year <= last:
        date = due.astimezone(rule.zone).date()
        if rule.allows(date):
            return due
        if rule.is_over(date):
            return NEVER
        midnight = dt.datetime.combine(date + ONE_DAY, dt.time(), rule.zone)
        after = max(due, midnight.astimezone(UTC) - MOMENT)
    raise _never(rule)


def _never(rule: AnyRule) -> ScheduleError:
    return ScheduleError(f"No due time was found in {MOST_YEARS} years: {rule}.")


def earlier_anchor(rule: Rule, anchor: dt.datetime, first: dt.datetime) -> dt.datetime:
    """Return an anchor that is not after ``first``, from which the same due times are counted.

    Parameters
    ----------
    rule, anchor:
        As in ``due_after``.
    first:
        Aware.
    """
    if not isinstance(rule, IntervalRule) or first >= anchor:
        return min(anchor, first)
    step = dt.timedelta(minutes=max(rule.interval_minutes, DAY if not rule.is_elapsed else 0))
    periods = (anchor - first) // step + 2  # a day may have 25 hours
    if rule.is_elapsed:
        return anchor - periods * step
    local = anchor.astimezone(rule.zone).replace(tzinfo=None) - periods * step
    return local.replace(tzinfo=rule.zone).astimezone(UTC)


def due_times(
    rule: AnyRule, anchor: dt.datetime, first: dt.datetime, last: dt.datetime
) -> Iterator[dt.datetime]:
    """Return the due time ``first`` and those after it, up to ``last``; all aware."""

    def walk() -> Iterator[dt.datetime]:
        due = first
        while due < NEVER:
            yield due
            due = due_after(rule, anchor, due)

    return takewhile(lambda due: due <= last, walk())


def _around(day: dt.date) -> tuple[dt.date, ...]:
    """Return the local dates that overlap a UTC day."""
    return (day - ONE_DAY, day, day + ONE_DAY)


def _due_on(rule: AnyRule, anchor: dt.datetime, day: dt.date) -> Sequence[dt.datetime]:
    """Return the due times of one UTC day, in order."""
    dates = tuple(date for date in _around(day) if rule.on(date, anchor))
    return _wall_clock(dates, day, rule.minutes, rule.timezone, rule.twice) if dates else ()


@lru_cache(maxsize=256)
def _wall_clock(
    dates: tuple[dt.date, ...], day: dt.date, minutes: Minutes, timezone: str, twice: bool
) -> tuple[dt.datetime, ...]:
    """Return the instants of one UTC day with these local dates and minutes, in order.

    A clock set back over midnight can put a date's first minutes before the last ones of the date
    before; so they are sorted. Cached, and shared by all schedules of the same times: a minutely
    one has 1,440 of them, and asks every minute.
    """
    zone = zone_of(timezone)
    found = {
        due
        for date in dates
        for minute in minutes
        for due in _occurrences(date, minute, zone, both=twice)
    }
    return tuple(sorted(due for due in found if due.date() == day))


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


def cron_cover(rule: AnyRule, anchor: dt.datetime) -> tuple[list[str], str]:
    """Return the coarsest crons that tick at every due time, and their time zone.

    The due times of an interval lie on a grid whose step is the greatest common divisor of the
    interval and a day: exact for an interval that divides a day, or a week.

    Parameters
    ----------
    rule, anchor:
        As in ``due_after``.
    """
    if isinstance(rule, BusinessRule) and rule.days not in MOVES:
        return cron_cover(rule.base, anchor)
    minutes, days, timezone = rule.minutes, "* * *", rule.timezone
    if isinstance(rule, BusinessRule):
        pass  # a due time may be moved to any day
    elif isinstance(rule, CronRule):
        days = rule.cover
    elif rule.is_elapsed:
        start, timezone = anchor.astimezone(UTC), "UTC"
        step = gcd(rule.interval_minutes, DAY)
        minutes = range((start.hour * HOUR + start.minute) % step, DAY, step)
    elif rule.interval_minutes % (7 * DAY) == 0:
        # cron counts Sunday as 0, Python as 6.
        days = f"* * {(rule.first_date(anchor).weekday() + 1) % 7}"
    hours_of: dict[int, list[int]] = {}
    for moment in minutes:
        hours_of.setdefault(moment % HOUR, []).append(moment // HOUR)
    minutes_at: dict[tuple[int, ...], list[int]] = {}
    for minute, hours in hours_of.items():
        minutes_at.setdefault(tuple(hours), []).append(minute)
    crons = [
        f"{field(sorted(minutes), HOUR)} {field(hours, 24)} {days}"
        for hours, minutes in sorted(minutes_at.items())
    ]
    return crons, timezone


def clock_changes(rule: AnyRule, now: dt.datetime) -> bool:
    """Return whether a rule's UTC offset changes within a day of now (aware), before or after.

    Around such a change a cron misses due times, such as one at the end of a gap.
    """
    if not isinstance(rule, CronRule) and rule.is_elapsed:
        return False  # elapsed time has no clock
    moments = (now - dt.timedelta(hours=1), now + dt.timedelta(hours=25))
    return len({moment.astimezone(rule.zone).utcoffset() for moment in moments}) > 1
