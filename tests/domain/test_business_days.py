"""Business days, against an oracle that walks day by day and minute by minute of each day."""

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.business_days import BusinessRule
from proctree_dagster.domain.due_times import (
    NEVER,
    _occurrences,
    cron_cover,
    due_after,
    due_times,
    first_due,
)
from proctree_dagster.domain.schedule_rules import DAY, HOUR, CronRule, IntervalRule
from proctree_dagster.exceptions import ScheduleError

IsBusinessDay = Callable[[dt.date], bool]
ONE_DAY = dt.timedelta(days=1)
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)

OFF = {
    "weekdays": lambda date: date.weekday() < 5,
    "a month off": lambda date: date.weekday() < 5 and date.month != 4,
    "leap days off": lambda date: (date.month, date.day) != (2, 29),
    "thursdays": lambda date: date.weekday() == 3,
    "every day": lambda date: True,
}

BASES = (
    *(CronRule(cron, "Europe/London") for cron in ("0 9 * * *", "30 1 * * 0", "15,45 2 31 * *")),
    CronRule("0 6 29 2 *", "Africa/Johannesburg"),
    CronRule("30 2 * * 6,0", "America/New_York"),  # in the gap, and in the hour that comes twice
    IntervalRule(6 * HOUR, dt.time(1, 30), "Europe/London"),
    IntervalRule(DAY, dt.time(9), "Africa/Johannesburg"),
    IntervalRule(10 * DAY, dt.time(23, 30), "Australia/Lord_Howe"),
)


def moved(date: dt.date, step: int, is_business_day: IsBusinessDay) -> dt.date | None:
    """Return the first business day from a date on, forwards or backwards."""
    for _ in range(366):
        if is_business_day(date):
            return date
        date += ONE_DAY * step
    return None


def target(date: dt.date, days: str, is_business_day: IsBusinessDay) -> dt.date | None:
    """Return the date on which what is due on a date is run; ``None``: it is not."""
    if days in ("next", "previous"):
        return moved(date, 1 if days == "next" else -1, is_business_day)
    if days == "":
        return date
    if not is_business_day(date):
        return None
    same_month = (date + ONE_DAY * step for step in range(-31, 32))
    found = [
        each
        for each in same_month
        if (each.year, each.month) == (date.year, date.month) and is_business_day(each)
    ]
    if days == "skip":
        return date
    return date if date == (found[0] if days == "first" else found[-1]) else None


def oracle(
    rule: BusinessRule, anchor: dt.datetime, after: dt.datetime, days: int
) -> list[dt.datetime]:
    """Return all due times after a moment in so many days, from each date of the base rule."""
    base, start, last = rule.base, rule.start_date, rule.end_date
    first = after.astimezone(rule.zone).date() - 40 * ONE_DAY
    found = set()
    for number in range(days + 80):
        date = first + ONE_DAY * number
        if (start is not None and date < start) or not base.on(date, anchor):
            continue
        goal = target(date, rule.days, rule.is_business_day)
        if goal is None or (start is not None and goal < start):
            continue
        if last is not None and max(date, goal) > last:
            continue
        for minute in base.minutes:
            found |= set(_occurrences(goal, minute, rule.zone, both=base.twice))
    earliest = anchor if rule.begins_at_anchor else after
    end = after + ONE_DAY * days
    return sorted(each for each in found if after < each <= end and each >= earliest)


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from(BASES),
    days=st.sampled_from(["", "skip", "next", "previous", "first", "last"]),
    calendar=st.sampled_from(sorted(OFF)),
    offset=st.integers(0, 700),
    start=st.none() | st.integers(-10, 60),
    end=st.none() | st.integers(-10, 60),
)
def test_the_due_times_are_those_of_a_walk_day_by_day(
    base: CronRule | IntervalRule,
    days: str,
    calendar: str,
    offset: int,
    start: int | None,
    end: int | None,
) -> None:
    after = NOW + ONE_DAY * offset
    start_date, end_date = (
        None if number is None else after.date() + ONE_DAY * number for number in (start, end)
    )
    dates = (start_date, end_date)
    rule = BusinessRule(base, days, calendar, OFF[calendar], *dates)  # type: ignore[arg-type]
    anchor = first_due(base, after)
    expected = oracle(rule, anchor, after, 75)
    found, moment = [], after
    for _ in expected[:12]:
        moment = due_after(rule, anchor, moment)
        found.append(moment)
    assert found == expected[:12]
    if end is not None and len(expected) <= 12:
        assert due_after(rule, anchor, moment) == NEVER
        assert due_after(rule, anchor, NEVER) == NEVER
        return
    if not expected:
        with suppress(ScheduleError):  # or never
            assert due_after(rule, anchor, after) > after + ONE_DAY * 75


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from(BASES),
    days=st.sampled_from(["skip", "next", "previous", "first", "last"]),
    offset=st.integers(0, 700),
)
def test_dagsters_crons_tick_at_every_due_time_that_no_clock_change_moves(
    base: CronRule | IntervalRule, days: str, offset: int
) -> None:
    rule = BusinessRule(base, days, "weekdays", OFF["weekdays"])  # type: ignore[arg-type]
    after = NOW + ONE_DAY * offset
    anchor = first_due(base, after)
    try:
        due = due_after(rule, anchor, after)
    except ScheduleError:  # Sundays on weekdays, say
        return
    crons, zone = cron_cover(rule, anchor)
    local = due.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if local.hour * HOUR + local.minute not in rule.minutes:
        return  # at the end of a gap: the schedule ticks every minute on that day
    before = local - dt.timedelta(minutes=1)
    assert any(next(CronSim(cron, before)) == local for cron in crons)


def test_a_rule_that_skips_has_the_crons_of_its_base() -> None:
    base = CronRule("0 9 * * 1", "UTC")
    skips = BusinessRule(base, "skip", "weekdays", OFF["weekdays"])
    moves = BusinessRule(base, "next", "weekdays", OFF["weekdays"])
    assert cron_cover(skips, NOW) == (["0 9 * * 1"], "UTC")
    assert cron_cover(moves, NOW) == (["0 9 * * *"], "UTC")


@pytest.mark.parametrize("days", ["skip", "first", "last"])
def test_elapsed_time_leaves_days_out_and_keeps_its_rhythm(days: str) -> None:
    base = IntervalRule(50, dt.time(), "Africa/Johannesburg")
    rule = BusinessRule(base, days, "weekdays", OFF["weekdays"])  # type: ignore[arg-type]
    anchor = first_due(base, NOW)
    moment = NOW
    for _ in range(100):
        moment = due_after(rule, anchor, moment)
        assert (moment - anchor) % dt.timedelta(minutes=50) == dt.timedelta(0)
        assert rule.allows(moment.astimezone(rule.zone).date())


@pytest.mark.parametrize("days", ["", "skip"])
def test_elapsed_time_ends_with_the_last_date(days: str) -> None:
    base = IntervalRule(50, dt.time(), "Africa/Johannesburg")
    end = dt.date(2026, 3, 3)
    rule = BusinessRule(base, days, "weekdays", OFF["weekdays"], None, end)  # type: ignore[arg-type]
    anchor = first_due(base, NOW)
    found = list(due_times(rule, anchor, due_after(rule, anchor, NOW), NEVER))
    dates = {due.astimezone(rule.zone).date() for due in found}
    assert max(dates) == end
    assert due_after(rule, anchor, found[-1]) == NEVER


def test_elapsed_time_can_not_be_moved() -> None:
    with pytest.raises(ScheduleError, match="counts elapsed time"):
        BusinessRule(IntervalRule(50, None, "UTC"), "next", "weekdays", OFF["weekdays"])


@pytest.mark.parametrize("base", [CronRule("0 9 * * *", "UTC"), IntervalRule(7, None, "UTC")])
def test_a_calendar_without_business_days_is_an_error_not_an_endless_search(
    base: CronRule | IntervalRule,
) -> None:
    rule = BusinessRule(base, "skip", "never", lambda date: False)
    with pytest.raises(ScheduleError, match="No due time was found in 30 years"):
        due_after(rule, NOW, NOW)
