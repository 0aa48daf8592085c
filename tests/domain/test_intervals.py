"""Due times: the rules of docs/schedules.md, and a clock that is walked minute by minute."""

import datetime as dt
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.due_times import (
    EVERY_MINUTE,
    cron_cover,
    due_after,
    first_due,
    restarted_due,
)
from proctree_dagster.domain.schedule_rules import MAX_INTERVAL, CronRule, IntervalRule, Rule

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
NINE = dt.time(9, 0)
MIDNIGHT = dt.time(0, 0)

CHANGES = {
    # Zone -> the UTC minutes at which its clock is changed: once forward, once back.
    "Europe/London": ("2026-03-29 01:00", "2026-10-25 01:00"),
    "America/New_York": ("2026-03-08 07:00", "2026-11-01 06:00"),
    "Australia/Lord_Howe": ("2026-10-03 15:30", "2026-04-04 15:00"),  # by half an hour
    "America/St_Johns": ("2026-03-08 05:30", "2026-11-01 04:30"),  # half an hour off UTC's hours
    # The clock is changed at midnight: forward from it, or back over it.
    "America/Havana": ("2026-03-08 05:00", "2026-11-01 05:00"),
    "Africa/Cairo": ("2026-04-23 22:00", "2026-10-29 21:00"),
    "Asia/Beirut": ("2026-03-28 22:00", "2026-10-24 21:00"),
    "America/Nuuk": ("2026-03-29 01:00", "2026-10-25 01:00"),  # forward to midnight
    # Until 2011 at one minute past midnight, so a date begins, ends and begins again.
    "America/Moncton": ("2006-04-02 04:01", "2006-10-29 03:01"),
    "Pacific/Apia": ("2011-12-30 10:00",),  # 30 December 2011 never was
    # Never changed: any day will do.
    "Africa/Johannesburg": ("2026-03-29 01:00",),
    "Asia/Kathmandu": ("2026-03-29 01:00",),
    "UTC": ("2026-03-29 01:00",),
}
AT_MIDNIGHT = {
    "America/Havana",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Nuuk",
    "America/Moncton",
    "Pacific/Apia",
}


def utc(text: str) -> dt.datetime:
    """Read ``2026-03-29 01:00`` as UTC."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def before(moment: dt.datetime) -> dt.datetime:
    """Return the second before, so that the moment itself may be due."""
    return moment - dt.timedelta(seconds=1)


def on_the_clock(zone: str, moment: dt.datetime) -> str:
    """Say what a clock in ``zone`` shows: date, time and offset."""
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M%z}"


def due_times(rule: IntervalRule, anchor: dt.datetime, after: dt.datetime) -> Iterator[dt.datetime]:
    """Walk from due time to due time, as a schedule does."""
    while True:
        after = due_after(rule, anchor, after)
        yield after


def shown(rule: IntervalRule, after: str, count: int) -> list[str]:
    """Return the first due times of a schedule registered at ``after`` (UTC), on its own clock."""
    start = utc(after)
    anchor = first_due(rule, start)
    return [
        on_the_clock(rule.timezone, due) for due in islice(due_times(rule, anchor, start), count)
    ]


# --- The rules, by example ------------------------------------------------------------------------


def test_the_first_due_time_is_the_next_occurrence_of_the_start_time_in_its_zone() -> None:
    rule = IntervalRule(60, NINE, "Africa/Johannesburg")  # two hours ahead of UTC
    assert first_due(rule, utc("2026-03-10 06:59")) == utc("2026-03-10 07:00")
    assert first_due(rule, utc("2026-03-10 07:00")) == utc("2026-03-11 07:00")


@pytest.mark.parametrize(
    ("interval", "first"),
    [(60, "12:00"), (45, "12:00"), (50, "11:40"), (7, "11:33"), (1440, "00:00"), (2880, "00:00")],
)
def test_without_a_start_time_the_first_due_time_is_the_next_one_counted_from_midnight(
    interval: int, first: str
) -> None:
    for zone in ("Africa/Johannesburg", "Asia/Kathmandu", "UTC"):
        rule = IntervalRule(interval, None, zone)
        now = dt.datetime(2026, 3, 10, 11, 30, tzinfo=ZoneInfo(zone))
        assert on_the_clock(zone, first_due(rule, now))[11:16] == first


@given(
    st.integers(1, 1439),
    st.datetimes(dt.datetime(2026, 1, 1), dt.datetime(2027, 12, 31)),
    st.sampled_from(["UTC", "Africa/Johannesburg", "Asia/Kathmandu"]),  # clocks that never change
)
def test_without_a_start_time_an_interval_is_never_silent_for_longer_than_itself(
    interval: int, moment: dt.datetime, zone: str
) -> None:
    now = moment.replace(tzinfo=ZoneInfo(zone))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    grid = [midnight + dt.timedelta(minutes=interval) * n for n in range(1440 // interval + 2)]
    tomorrow = midnight + dt.timedelta(days=1)  # where the count begins again
    expected = min(due for due in (*grid, tomorrow) if due > now)
    assert first_due(IntervalRule(interval, None, zone), now) == expected


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (IntervalRule(1, None, "UTC"), "every minute in UTC"),
        (IntervalRule(45, NINE, "UTC"), "every 45 minutes from 09:00 in UTC"),
        (IntervalRule(60, None, "Europe/London"), "every hour in Europe/London"),
        (IntervalRule(120, NINE, "UTC"), "every 2 hours from 09:00 in UTC"),
        (IntervalRule(1440, dt.time(7, 30), "UTC"), "every day at 07:30 in UTC"),
        (IntervalRule(10080, None, "UTC"), "every 7 days at 00:00 in UTC"),
        (CronRule("0 9 * * 1-5", "UTC"), "at 09:00 on Monday through Friday in UTC"),
        (CronRule("*/15 * * * *", "UTC"), "every 15th minute of every hour in UTC"),
    ],
)
def test_a_rule_is_said_in_words(rule: Rule, words: str) -> None:
    assert rule.in_words == words


@pytest.mark.parametrize(
    ("interval", "cron"),
    [(2, "*/2 * * * *"), (30, "*/30 * * * *"), (120, "0 */2 * * *"), (360, "0 */6 * * *")],
)
def test_a_cover_is_written_as_a_person_would(interval: int, cron: str) -> None:
    rule = IntervalRule(interval, None, "UTC")
    assert cron_cover(rule, utc("2026-03-10 00:00")) == ([cron], "UTC")


def test_an_interval_that_divides_a_day_is_due_at_the_same_wall_clock_times_every_day() -> None:
    rule = IntervalRule(480, dt.time(9, 30), "America/New_York")
    # The clock goes forward in the night to 8 March.
    assert shown(rule, "2026-03-07 15:00", 5) == [
        "2026-03-08 09:30-0400",
        "2026-03-08 17:30-0400",
        "2026-03-09 01:30-0400",
        "2026-03-09 09:30-0400",
        "2026-03-09 17:30-0400",
    ]
    rule = IntervalRule(480, dt.time(17, 30), "America/New_York")
    assert shown(rule, "2026-03-07 15:00", 3) == [
        "2026-03-07 17:30-0500",
        "2026-03-08 01:30-0500",
        "2026-03-08 09:30-0400",
    ]


def test_a_multiple_of_a_day_is_due_at_the_start_time_every_nth_day_from_the_anchor() -> None:
    rule = IntervalRule(3 * 1440, NINE, "Europe/London")
    assert shown(rule, "2026-03-24 12:00", 4) == [
        "2026-03-25 09:00+0000",
        "2026-03-28 09:00+0000",
        "2026-03-31 09:00+0100",
        "2026-04-03 09:00+0100",
    ]


def test_any_other_interval_is_elapsed_time_from_the_anchor() -> None:
    rule = IntervalRule(50, MIDNIGHT, "Europe/London")
    assert shown(rule, "2026-03-28 12:00", 4) == [
        "2026-03-29 00:00+0000",
        "2026-03-29 00:50+0000",
        "2026-03-29 02:40+0100",
        "2026-03-29 03:30+0100",
    ]
    rule = IntervalRule(36 * 60, NINE, "Europe/London")
    assert shown(rule, "2026-03-27 12:00", 3) == [
        "2026-03-28 09:00+0000",
        "2026-03-29 22:00+0100",
        "2026-03-31 10:00+0100",
    ]


def test_a_wall_clock_time_in_the_gap_is_due_at_the_gaps_end() -> None:
    daily = IntervalRule(1440, dt.time(2, 30), "America/New_York")
    assert shown(daily, "2026-03-07 12:00", 2) == ["2026-03-08 03:00-0400", "2026-03-09 02:30-0400"]
    hourly = IntervalRule(60, dt.time(0, 15), "America/New_York")
    assert shown(hourly, "2026-03-08 05:00", 4) == [
        "2026-03-08 00:15-0500",
        "2026-03-08 01:15-0500",
        "2026-03-08 03:00-0400",
        "2026-03-08 03:15-0400",
    ]


def test_due_times_that_coincide_at_the_gaps_end_are_one() -> None:
    rule = IntervalRule(15, MIDNIGHT, "America/New_York")
    start = utc("2026-03-08 06:30")  # 01:30; the next hour never comes
    anchor = utc("2026-03-07 05:00")
    assert [
        on_the_clock(rule.timezone, due) for due in islice(due_times(rule, anchor, start), 4)
    ] == [
        "2026-03-08 01:45-0500",
        "2026-03-08 03:00-0400",
        "2026-03-08 03:15-0400",
        "2026-03-08 03:30-0400",
    ]


def test_an_interval_that_divides_an_hour_is_due_in_both_hours_when_one_comes_twice() -> None:
    rule = IntervalRule(30, MIDNIGHT, "America/New_York")
    assert shown(rule, "2026-11-01 03:00", 8) == [
        "2026-11-01 00:00-0400",
        "2026-11-01 00:30-0400",
        "2026-11-01 01:00-0400",
        "2026-11-01 01:30-0400",
        "2026-11-01 01:00-0500",
        "2026-11-01 01:30-0500",
        "2026-11-01 02:00-0500",
        "2026-11-01 02:30-0500",
    ]


@pytest.mark.parametrize("interval", [90, 480, 1440, 2880])
def test_any_other_interval_is_due_once_when_an_hour_comes_twice_in_the_second(
    interval: int,
) -> None:
    rule = IntervalRule(interval, dt.time(1, 30), "America/New_York")
    anchor = first_due(rule, utc("2026-10-30 12:00" if interval != 2880 else "2026-10-29 12:00"))
    night = [
        on_the_clock(rule.timezone, due)
        for due in takewhile(
            lambda due: due < utc("2026-11-01 06:45"),
            due_times(rule, anchor, utc("2026-11-01 05:00")),
        )
    ]
    assert night == ["2026-11-01 01:30-0500"]


def test_the_start_time_of_a_new_schedule_that_comes_twice_is_meant_the_second_time() -> None:
    rule = IntervalRule(1440, dt.time(1, 30), "America/New_York")
    between = utc("2026-11-01 05:45")  # 01:45, before the hour comes again
    assert on_the_clock(rule.timezone, first_due(rule, between)) == "2026-11-01 01:30-0500"


def test_a_day_that_never_was_is_due_when_the_next_one_begins() -> None:
    rule = IntervalRule(1440, NINE, "Pacific/Apia")
    assert shown(rule, "2011-12-28 20:00", 4) == [
        "2011-12-29 09:00-1000",
        "2011-12-31 00:00+1400",
        "2011-12-31 09:00+1400",
        "2012-01-01 09:00+1400",
    ]


def test_seconds_of_the_start_time_are_dropped() -> None:
    rule = IntervalRule(60, dt.time(9, 0, 59, 999), "UTC")
    assert rule == IntervalRule(60, NINE, "UTC")
    assert first_due(rule, utc("2026-01-01 00:00")) == utc("2026-01-01 09:00")


def test_no_due_time_comes_before_the_anchor() -> None:
    anchor = utc("2026-06-01 09:00")
    for interval in (1, 7, 60, 1440, 10080):
        rule = IntervalRule(interval, NINE, "UTC")
        assert due_after(rule, anchor, utc("2020-01-01 00:00")) == anchor
        assert due_after(rule, anchor, anchor - dt.timedelta(microseconds=1)) == anchor


@pytest.mark.parametrize("interval", [1, 7, 60, 90, 1440, 4320, 10080, MAX_INTERVAL])
def test_a_due_time_is_found_at_once_after_years_of_downtime(interval: int) -> None:
    rule = IntervalRule(interval, NINE, "Europe/London")
    anchor = first_due(rule, utc("1990-01-01 00:00"))
    late = utc("2026-07-01 12:34")
    found = due_after(rule, anchor, late)
    assert late < found <= late + interval * MINUTE + HOUR


def test_a_changed_rule_goes_on_from_the_latest_start_time() -> None:
    now = utc("2026-06-10 14:20")
    assert restarted_due(IntervalRule(60, NINE, "UTC"), now) == utc("2026-06-10 15:00")
    assert restarted_due(IntervalRule(50, NINE, "UTC"), now) == utc("2026-06-10 14:50")
    assert restarted_due(IntervalRule(60, dt.time(15, 10), "UTC"), now) == utc("2026-06-10 15:10")
    # An interval that does not divide a day is cut short by the start time.
    assert restarted_due(IntervalRule(1000, dt.time(15, 10), "UTC"), now) == utc("2026-06-10 15:10")


@pytest.mark.parametrize("days", [1, 2, 7, 365])
def test_a_changed_rule_of_whole_days_begins_with_the_next_start_time(days: int) -> None:
    now = utc("2026-06-10 14:20")
    assert restarted_due(IntervalRule(days * 1440, NINE, "UTC"), now) == utc("2026-06-11 09:00")


def test_an_nth_day_is_counted_from_the_start_times_own_date() -> None:
    # 23:30 on 28 March 2026 lies in Nuuk's gap: it is due at the gap's end, which is 00:00 on
    # the 29th. Seven days from the 28th is the 4th of April, not 23.5 hours later.
    rule = IntervalRule(7 * 1440, dt.time(23, 30), "America/Nuuk")
    assert shown(rule, "2026-03-28 12:00", 3) == [
        "2026-03-29 00:00-0100",
        "2026-04-04 23:30-0100",
        "2026-04-11 23:30-0100",
    ]


# --- Against a clock that is walked minute by minute ----------------------------------------------


@lru_cache(maxsize=64)
def clock(
    zone: str, first: dt.datetime, last: dt.datetime
) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return every UTC minute of a stretch with what a clock in ``zone`` shows then."""
    place = ZoneInfo(zone)
    minutes = []
    while first <= last:
        minutes.append((first, first.astimezone(place).replace(tzinfo=None)))
        first += MINUTE
    return minutes


def walk(
    zone: str,
    first: dt.datetime,
    last: dt.datetime,
    on_grid: Callable[[dt.datetime], bool],
    *,
    both: bool,
) -> list[dt.datetime]:
    """Return the due times of a stretch by looking at each minute of it.

    A minute is due if the time on the clock is on the grid (if that time comes again, only then,
    unless ``both`` are due), or if the clock has just jumped over a time that is.
    """
    minutes = clock(zone, first - 3 * HOUR, last + 3 * HOUR)
    comes_last = {wall: at for at, wall in minutes}
    due = []
    for (_, before), (at, wall) in pairwise(minutes):
        if not first <= at <= last:
            continue
        shown = on_grid(wall) and (both or comes_last[wall] == at)
        passed, jumped = before + MINUTE, False
        while passed < wall and not jumped:
            jumped = on_grid(passed)
            passed += MINUTE
        if shown or jumped:
            due.append(at)
    return due


def of_day(wall: dt.datetime) -> int:
    return wall.hour * 60 + wall.minute


DIVISORS_OF_A_DAY = [each for each in range(1, 1440) if 1440 % each == 0]
dividing = st.sampled_from(DIVISORS_OF_A_DAY)
whole_days = st.integers(1, 365).map(lambda days: days * 1440) | st.sampled_from(
    [1440, 2880, 10080]
)
odd = st.integers(1, MAX_INTERVAL).filter(lambda each: each % 1440 and 1440 % each)
short_odd = st.integers(7, 1439).filter(lambda each: 1440 % each)
starts = st.builds(dt.time, st.integers(0, 23), st.integers(0, 59)) | st.builds(
    # The hours around the changes of clock.
    dt.time,
    st.sampled_from([0, 1, 2, 3, 23]),
    st.sampled_from([0, 1, 15, 30, 45]),
)
zones = st.sampled_from(sorted(CHANGES))


@st.composite
def stretches(draw: st.DrawFn, interval: int, zone: str) -> tuple[dt.datetime, dt.datetime]:
    """A stretch around a change of clock; shorter for a short interval, which is due often."""
    change = utc(draw(st.sampled_from(CHANGES[zone])))
    reach = 5 * HOUR if interval < 10 else 30 * HOUR
    return change - reach, change + reach


@settings(max_examples=250, deadline=None)
@given(st.data(), zones, dividing, starts)
def test_the_due_times_of_an_interval_that_divides_a_day(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    first, last = data.draw(stretches(interval, zone))
    phase = start.hour * 60 + start.minute
    due = walk(
        zone,
        first,
        last,
        lambda wall: (of_day(wall) - phase) % interval == 0,
        both=60 % interval == 0,
    )
    assume(due)
    begin = data.draw(st.integers(0, min(20, len(due) - 1)))
    rule = IntervalRule(interval, start, zone)
    walked = list(takewhile(lambda each: each <= last, due_times(rule, due[begin], before(first))))
    assert walked == due[begin:]


@settings(max_examples=150, deadline=None)
@given(st.data(), zones, whole_days, starts)
def test_the_due_times_of_an_interval_of_whole_days(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    first, last = data.draw(stretches(interval, zone))
    days = interval // 1440
    # A date from which some n-th day lies in the stretch, and the stretch that holds its due time.
    near = first.date() + dt.timedelta(days=data.draw(st.integers(0, 3)))
    date = near - dt.timedelta(days=days * data.draw(st.integers(0, 1500 // days)))
    noon = dt.datetime.combine(date, dt.time(12), tzinfo=dt.UTC)
    [anchor] = walk(
        zone,
        noon - 2 * DAY,
        noon + 2 * DAY,
        lambda wall: wall == dt.datetime.combine(date, start),
        both=False,
    )
    # The midnight of a day that never was is the next day's: it could be counted from either.
    shown = anchor.astimezone(ZoneInfo(zone))
    assume(shown.date() == date or shown.time() != start)
    due = walk(
        zone,
        first,
        last,
        lambda wall: (
            wall.time() == start and wall.date() >= date and (wall.date() - date).days % days == 0
        ),
        both=False,
    )
    rule = IntervalRule(interval, start, zone)
    walked = list(takewhile(lambda each: each <= last, due_times(rule, anchor, before(first))))
    assert walked == due


@settings(max_examples=150, deadline=None)
@given(st.data(), zones, odd | short_odd, starts)
def test_the_due_times_of_any_other_interval(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    first, last = data.draw(stretches(interval, zone))
    back = data.draw(st.integers(0, 10))
    near = data.draw(st.integers(0, int((last - first) / MINUTE)))
    anchor = first + near * MINUTE - back * interval * MINUTE
    due = [
        at
        for at, _ in clock(zone, first, last)
        if at >= anchor and (at - anchor) % (interval * MINUTE) == dt.timedelta()
    ]
    rule = IntervalRule(interval, start, zone)
    walked = list(takewhile(lambda each: each <= last, due_times(rule, anchor, before(first))))
    assert walked == due


@st.composite
def moments(draw: st.DrawFn, zone: str) -> dt.datetime:
    """A moment near a change of clock, with seconds."""
    change = utc(draw(st.sampled_from(CHANGES[zone])))
    minutes = draw(st.integers(-1500, 1500))
    return change + minutes * MINUTE + dt.timedelta(seconds=draw(st.sampled_from([0, 0, 1, 59])))


@settings(max_examples=150, deadline=None)
@given(st.data(), zones, st.integers(1, MAX_INTERVAL) | dividing, starts)
def test_the_first_due_time_is_the_next_time_that_the_clock_shows_the_start_time(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    now = data.draw(moments(zone))
    rule = IntervalRule(interval, start, zone)
    minute = now.replace(second=0)
    # Stretches begin at a few fixed minutes, so that their clocks are looked at once only.
    begin = minute.replace(hour=0, minute=0)
    both = 60 % interval == 0
    due = walk(zone, begin, begin + 3 * DAY, lambda wall: wall.time() == start, both=both)
    found = first_due(rule, now)
    assert found == next(each for each in due if each > now)
    assert now < found <= now + DAY + HOUR  # a day has 25 hours when the clock goes back


@settings(max_examples=150, deadline=None)
@given(st.data(), zones, dividing, starts)
def test_a_changed_rule_that_divides_a_day_is_due_at_its_next_wall_clock_time(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    now = data.draw(moments(zone))
    begin = now.replace(hour=0, minute=0, second=0)
    phase = start.hour * 60 + start.minute
    due = walk(
        zone,
        begin,
        begin + 3 * DAY,
        lambda wall: (of_day(wall) - phase) % interval == 0,
        both=60 % interval == 0,
    )
    found = restarted_due(IntervalRule(interval, start, zone), now)
    assert found == next(each for each in due if each > now)


@settings(max_examples=150, deadline=None)
@given(st.data(), zones, dividing | whole_days | odd | short_odd, starts)
def test_a_changed_rule_is_due_strictly_after_now_and_is_not_silent_for_longer_than_its_interval(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    now = data.draw(moments(zone))
    rule = IntervalRule(interval, start, zone)
    found = restarted_due(rule, now)
    hour_that_comes_twice = dt.timedelta() if 60 % interval == 0 or rule.is_elapsed else HOUR
    assert now < found <= now + min(interval * MINUTE + hour_that_comes_twice, DAY + HOUR)
    assert found <= first_due(rule, now)
    if interval >= 1440:
        assert found == first_due(rule, now)


@settings(max_examples=100, deadline=None)
@given(st.data(), zones, dividing | whole_days | odd | short_odd, starts)
def test_due_times_are_in_utc_rise_strictly_and_do_not_depend_on_where_the_walk_began(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    now = data.draw(moments(zone))
    rule = IntervalRule(interval, start, zone)
    anchor = first_due(rule, now)
    walked = list(islice(due_times(rule, anchor, now), 5))
    assert all(each.tzinfo is dt.UTC for each in walked)
    assert all(one < other for one, other in pairwise(walked))
    for one, other in pairwise(walked):
        between = one + (other - one) * data.draw(st.sampled_from([0, 0.3, 0.99]))
        assert due_after(rule, anchor, between) == other


# --- The cron that covers them --------------------------------------------------------------------


def ticks(
    rule: IntervalRule, anchor: dt.datetime, first: dt.datetime, last: dt.datetime
) -> list[dt.datetime]:
    """Return when Dagster itself ticks by a rule's cover."""
    crons, zone = cron_cover(rule, anchor)
    found = []
    # Dagster's own generator may step back when a clock is changed at midnight: look a bit further.
    for each in schedule_execution_time_iterator((first - HOUR).timestamp(), crons, zone):
        if each > last + 3 * HOUR:
            break
        found.append(each.astimezone(dt.UTC))
    return sorted({each for each in found if first <= each <= last})


@pytest.mark.parametrize(
    ("interval", "start", "crons"),
    [
        (1, MIDNIGHT, [EVERY_MINUTE]),
        (7, MIDNIGHT, [EVERY_MINUTE]),
        (15, dt.time(9, 5), ["5,20,35,50 * * * *"]),
        (50, MIDNIGHT, ["*/10 * * * *"]),
        (60, dt.time(9, 5), ["5 * * * *"]),
        (480, dt.time(17, 30), ["30 1,9,17 * * *"]),
        (1440, dt.time(17, 30), ["30 17 * * *"]),
        (2880, dt.time(17, 30), ["30 17 * * *"]),
        (7 * 1440, dt.time(17, 30), ["30 17 * * 3"]),  # registered on a Wednesday
        (14 * 1440, dt.time(17, 30), ["30 17 * * 3"]),
        (36 * 60, dt.time(9, 0), ["0 9,21 * * *"]),
    ],
)
def test_the_cover_is_the_coarsest_list_of_crons(
    interval: int, start: dt.time, crons: list[str]
) -> None:
    rule = IntervalRule(interval, start, "UTC")
    anchor = first_due(rule, utc("2026-06-10 00:00") - MINUTE)
    assert cron_cover(rule, anchor) == (crons, "UTC")


def test_the_cover_of_45_minutes_is_exact_and_takes_several_crons() -> None:
    rule = IntervalRule(45, dt.time(0, 30), "Europe/London")
    anchor = first_due(rule, utc("2026-06-09 12:00"))
    crons, zone = cron_cover(rule, anchor)
    assert (len(crons), zone) == (3, "Europe/London")
    first, last = utc("2026-06-10 00:00"), utc("2026-06-12 00:00")
    expected = list(takewhile(lambda due: due <= last, due_times(rule, anchor, before(first))))
    assert ticks(rule, anchor, first, last) == expected
    assert len(expected) == 64


@pytest.mark.parametrize(("interval", "step"), [(50, 10), (7, 1), (1001, 1), (1000, 40)])
def test_the_cover_of_elapsed_time_ticks_at_the_common_divisor_of_the_interval_and_a_day(
    interval: int, step: int
) -> None:
    rule = IntervalRule(interval, dt.time(0, 5), "Asia/Kathmandu")
    anchor = first_due(rule, utc("2026-06-09 12:00"))
    first = utc("2026-06-10 00:00")
    found = ticks(rule, anchor, first, first + DAY)
    assert {other - one for one, other in pairwise(found)} == {step * MINUTE}
    assert cron_cover(rule, anchor)[1] == "UTC"


# Dagster 1.13 asks once, of now and not of the tick, whether a zone is whole hours off UTC
# (``has_nonzero_minute_offset``); where that changes with the season, short crons may be off by
# half an hour all season, depending on when its process was started.
half_hour_shift = "Australia/Lord_Howe"
ordinary_zones = st.sampled_from(sorted(CHANGES.keys() - {"Pacific/Apia", "America/Moncton"}))


@settings(max_examples=120, deadline=None)
@given(
    ordinary_zones,
    dividing | whole_days | odd | short_odd,
    starts,
    st.sampled_from(["2026-01-20", "2026-06-10", "2026-12-08"]),
    st.integers(0, 6 * 1440),
)
def test_the_cover_ticks_at_every_due_time_of_an_ordinary_day(
    zone: str, interval: int, start: dt.time, day: str, later: int
) -> None:
    assume(zone != half_hour_shift or 60 % interval)
    rule = IntervalRule(interval, start, zone)
    first = utc(f"{day} 00:00") + later * MINUTE
    last = first + (5 * HOUR if interval < 10 else 30 * HOUR)
    # Counted from a due time that lies some intervals back, so that another is near.
    anchor = first_due(rule, first - max(1, 3 * DAY // (interval * MINUTE)) * interval * MINUTE)
    due = list(takewhile(lambda each: each <= last, due_times(rule, anchor, first)))
    found = [each for each in ticks(rule, anchor, first, last) if each > first]
    assert set(due) <= set(found)
    if 1440 % interval == 0 or interval == 7 * 1440:
        assert found == [each for each in due if each >= anchor]


@settings(max_examples=120, deadline=None)
@given(
    st.data(),
    st.sampled_from(sorted(CHANGES.keys() - {"Pacific/Apia", "America/Moncton"})),
    dividing | st.sampled_from([1440, 2880, 7 * 1440]) | short_odd,
    starts,
)
def test_the_cover_misses_only_a_gaps_end_and_an_hour_that_comes_twice_around_midnight(
    data: st.DataObject, zone: str, interval: int, start: dt.time
) -> None:
    """What is missed is overdue, so it is ticked at once (see ``ProcessTreeSchedule.cron``)."""
    assume(zone != half_hour_shift or 60 % interval)
    first, last = data.draw(stretches(interval, zone))
    rule = IntervalRule(interval, start, zone)
    anchor = first_due(rule, first - max(DAY, interval * MINUTE))
    due = list(takewhile(lambda each: each <= last, due_times(rule, anchor, first)))
    missed = set(due) - set(ticks(rule, anchor, first, last))
    forward = utc(CHANGES[zone][0])
    repeated = [utc(each) for each in CHANGES[zone][1:] if zone in AT_MIDNIGHT]
    tolerated = {
        each
        for each in missed
        if each == forward or any(back <= each < back + HOUR for back in repeated)
    }
    assert missed == tolerated
    if rule.is_elapsed:
        assert not missed
