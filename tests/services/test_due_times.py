"""Due times against an oracle that knows no formula: it walks minute by minute and reads clocks."""

import datetime as dt
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proctree_dagster.domain import due_times as intervals
from proctree_dagster.domain.due_times import EVERY_MINUTE, cron_cover
from proctree_dagster.domain.schedule_rules import CronRule, IntervalRule, Rule
from proctree_dagster.models import ProcessTreeSchedule, RunStatus
from proctree_dagster.services.due_time_claims import Due, Skip, Taken, request, take
from tests.tools.schedules import MINUTE, Clock, register, row, utc

DAY = 24 * 60
WEEK = 7 * DAY
DAYS = 400

YEARS = {
    "Africa/Johannesburg": 2026,  # the clock never changes
    "Asia/Kathmandu": 2026,  # nor here, but it is 45 minutes off
    "Europe/London": 2026,
    "America/New_York": 2026,
    "Australia/Lord_Howe": 2026,  # half an hour
    "Antarctica/Troll": 2026,  # two hours
    "America/Havana": 2026,  # the gap begins at midnight
    "Africa/Cairo": 2026,
    "Asia/Beirut": 2026,
    "America/Nuuk": 2025,  # the gap ends at midnight
    "America/St_Johns": 2010,  # at 00:01: midnight itself comes twice
    "Pacific/Apia": 2011,  # 30 December was left out
}
"""A year for each zone; the clocks are read until DAYS after its beginning."""


class Clocks:
    """What the clocks of a zone show at each UTC minute of its year. Minutes are numbers here."""

    def __init__(self, zone: str, year: int) -> None:
        self.start = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
        self.wall = [self._read(minute, ZoneInfo(zone)) for minute in range(DAYS * DAY)]
        shown_last = {wall: minute for minute, wall in enumerate(self.wall)}
        self.comes_again = {m for m, wall in enumerate(self.wall) if shown_last[wall] != m}
        self.left_out = {
            minute: range(before + 1, wall)
            for minute, (before, wall) in enumerate(itertools.pairwise(self.wall), start=1)
            if wall > before + 1
        }
        """By the minute at which a gap ends: the wall-clock times in it."""
        self.changes = [
            minute
            for minute, (before, wall) in enumerate(itertools.pairwise(self.wall), start=1)
            if wall != before + 1
        ]
        again = {self.wall[minute] for minute in self.comes_again}
        self.strange = {m for m, wall in enumerate(self.wall) if wall in again} | {*self.left_out}
        """The ends of gaps, and both passes of what comes twice."""

    def _read(self, minute: int, zone: ZoneInfo) -> int:
        wall = dt.datetime.fromtimestamp(self.start.timestamp() + minute * 60, zone)
        return wall.toordinal() * DAY + wall.hour * 60 + wall.minute

    def at(self, minute: int) -> dt.datetime:
        return self.start + minute * MINUTE

    def minute(self, moment: dt.datetime) -> int:
        """The minute that holds the moment."""
        return (moment - self.start) // MINUTE


@lru_cache
def clocks(zone: str) -> Clocks:
    return Clocks(zone, YEARS[zone])


@dataclass(frozen=True)
class Case:
    """A rule, and when it was registered."""

    interval: int
    start: dt.time
    zone: str
    registered: dt.datetime

    @property
    def clocks(self) -> Clocks:
        return clocks(self.zone)

    @property
    def values(self) -> dict[str, object]:
        """The fields of its row."""
        return {
            "interval_minutes": self.interval,
            "start_time": self.start,
            "timezone": self.zone,
        }

    def schedule(self) -> ProcessTreeSchedule:
        """Its row, registered but for the database."""
        schedule = ProcessTreeSchedule(**self.values)
        schedule.align(self.registered)
        return schedule

    def shown(self, minute: int) -> list[int]:
        """The wall-clock times that are to be seen to at this minute.

        That of the clock, and those that the clock has just left out. None of an hour that comes
        again, unless the interval divides an hour.
        """
        if minute in self.clocks.comes_again and 60 % self.interval != 0:
            return []
        return [*self.clocks.left_out.get(minute, ()), self.clocks.wall[minute]]

    def due_times(self, first: int = 0, last: int = DAYS * DAY) -> list[int]:
        """The oracle: every due time from the first minute up to before the last."""
        start = self.start.hour * 60 + self.start.minute
        anchor, anchor_wall = next(
            (minute, wall)
            for minute in range(self.clocks.minute(self.registered) + 1, DAYS * DAY)
            for wall in reversed(self.shown(minute))  # rather what the clock shows
            if wall % DAY == start
        )
        minutes = range(max(anchor, first), last)
        if DAY % self.interval != 0 and self.interval % DAY != 0:
            return [minute for minute in minutes if (minute - anchor) % self.interval == 0]
        walls, left_out, interval = self.clocks.wall, self.clocks.left_out, self.interval
        return [
            minute
            for minute in minutes
            if (walls[minute] - anchor_wall) % interval == 0 or minute in left_out
            if any((wall - anchor_wall) % interval == 0 for wall in self.shown(minute))
        ]

    def windows(self, other: int) -> list[tuple[int, int]]:
        """The whole year; for a short interval the changes of clock, and any other time."""
        if self.interval >= 60:
            return [(0, DAYS * DAY)]
        middles = (self.clocks.minute(self.registered) + DAY, *self.clocks.changes, other)
        half = min(DAY * 3 // 2, 150 * self.interval)
        return [(max(middle - half, 0), min(middle + half, DAYS * DAY)) for middle in middles]


def case(interval: int, start: str, zone: str, registered: str) -> Case:
    return Case(interval, dt.time.fromisoformat(start), zone, utc(registered))


INTERVALS = (
    st.sampled_from([n for n in range(1, DAY + 1) if DAY % n == 0])
    | st.integers(1, 365).map(lambda days: days * DAY)
    | st.integers(1, 8).map(lambda weeks: weeks * WEEK)
    | st.integers(1, 3000)
    | st.integers(1, 365 * DAY)
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case; often one that is registered, and starts, close to a change of the clocks."""
    zone = draw(st.sampled_from(list(YEARS)))
    changes = clocks(zone).changes
    start = draw(st.integers(0, DAY - 1) | st.integers(0, 180))
    seconds = draw(st.integers(0, 364 * DAY * 60))
    near_a_change, start_near = draw(st.booleans()), draw(st.booleans())
    if changes and near_a_change:
        change = draw(st.sampled_from(changes))
        seconds = change * 60 - draw(st.integers(-60 * 60, 2 * DAY * 60) | st.integers(0, 7200))
        if start_near:
            start = clocks(zone).wall[change + draw(st.integers(-130, 130))] % DAY
    return Case(
        draw(INTERVALS),
        dt.time(start // 60, start % 60, draw(st.sampled_from([0, 59]))),
        zone,
        clocks(zone).start + dt.timedelta(seconds=seconds),
    )


def due_times(case: Case, first: int, last: int) -> list[int]:
    """What the schedule says are its due times from the first minute up to before the last."""
    schedule = case.schedule()
    assert schedule.next_run is not None
    due = max(schedule.next_run, schedule.due_after(case.clocks.at(first) - MINUTE / 60))
    found = []
    while due < case.clocks.at(last):
        assert due.second == due.microsecond == 0
        found.append(case.clocks.minute(due))
        due = schedule.due_after(due)
    return found


NEW_YEAR = "2026-01-01 00:00"


@settings(deadline=None, max_examples=25)
@given(cases(), st.integers(0, 364 * DAY))
@example(case(DAY, "01:30", "Europe/London", NEW_YEAR), 0)  # in the gap, and in what comes twice
@example(case(15, "00:00", "Europe/London", NEW_YEAR), 0)
@example(case(15, "00:00", "Australia/Lord_Howe", NEW_YEAR), 0)
@example(case(45, "00:00", "America/St_Johns", "2010-01-01 00:00"), 0)
@example(case(7, "00:00", "America/New_York", NEW_YEAR), 0)
@example(case(720, "23:30", "America/Nuuk", "2025-03-29 12:00"), 0)  # the gap's end is tomorrow
@example(case(2 * DAY, "23:30", "America/Nuuk", "2025-03-29 12:00"), 0)
@example(case(2 * DAY, "12:00", "Pacific/Apia", "2011-12-29 23:00"), 0)  # a day that was left out
@example(case(60, "01:30", "Europe/London", "2026-10-25 00:00"), 0)  # begins in the first pass
def test_due_times_are_what_the_clocks_say(case: Case, other: int) -> None:
    for first, last in case.windows(other):
        assert due_times(case, first, last) == case.due_times(first, last)


@settings(deadline=None, max_examples=15)
@given(cases(), st.integers(1, 50), st.integers(-1, 1))
@example(case(1, "00:00", "Europe/London", NEW_YEAR), 1001, 0)
@example(case(1, "00:00", "Europe/London", NEW_YEAR), 1001, 1)
@example(case(7, "00:00", "America/New_York", NEW_YEAR), 1001, -1)
def test_missed_due_times_are_counted_to_a_bound_and_no_further(
    case: Case, most: int, more: int
) -> None:
    schedule = case.schedule()
    due_times = case.due_times()
    passed = due_times[: most + more]
    if not passed:
        return
    first, last = case.clocks.at(passed[0]), case.clocks.at(passed[-1])
    assert schedule.due_times(first, last, most) == min(len(passed), most)


def test_a_downtime_of_centuries_is_counted_at_once() -> None:
    """By the number of days that are looked at: a clock would depend on the machine."""
    long_ago = dt.datetime(2, 1, 1, tzinfo=dt.UTC)
    yearly = case(365 * DAY, "00:30", "America/New_York", NEW_YEAR).schedule()
    yearly.anchor = long_ago
    minutely = case(1, "00:00", "Europe/London", NEW_YEAR).schedule()
    with mock.patch.object(intervals, "_due_on", wraps=intervals._due_on) as looked_at:
        assert yearly.due_times(long_ago, utc("2026-01-01 00:00"), 1001) == 1001
        assert minutely.due_times(utc("2026-01-01 00:00"), utc("2027-01-01 00:00"), 1001) == 1001
    assert looked_at.call_count < 5000


RULES: list[Rule] = [
    IntervalRule(days * DAY, dt.time(23, 30), "America/Nuuk") for days in (1, 2, 7, 365)
] + [CronRule(cron, "UTC") for cron in ("0 0 29 2 *", "0 0 L 1,12 *", "0 0 * * 1", "5 4 1 * 3")]


@given(st.sampled_from(RULES), st.integers(0, 4000), st.integers(0, 4000))
def test_no_date_with_due_times_is_skipped(rule: Rule, anchored: int, looked_at: int) -> None:
    start = utc("2024-01-01 02:30")
    anchor = start + dt.timedelta(days=anchored)
    date = start.date() + dt.timedelta(days=looked_at)
    later = rule.next_date(date, anchor)
    skipped = (date + dt.timedelta(days=number) for number in range((later - date).days))
    assert later >= date
    assert not any(rule.on(each, anchor) for each in skipped)


# --- Ticks, runs, and a daemon that is down at times ---


@dataclass(frozen=True)
class Tick:
    """A tick of a minute, and the moment at which it is evaluated."""

    at: dt.datetime
    evaluated: dt.datetime


@dataclass(frozen=True)
class Weather:
    """What happens to a schedule; each list is gone through again and again."""

    downtimes: list[tuple[float, float]]
    """Beginning and length, as parts of the time that is looked at."""
    other_ticks: list[float]
    delays: list[int]
    """Seconds from a tick's time to its evaluation."""
    lateness: list[float]
    """Intervals from a tick until its run starts; a moment, besides."""
    lost: list[bool]
    """Whether the run of a claim seems not to exist until it starts."""

    def ticks(self, due_times: list[int], clocks: Clocks) -> list[Tick]:
        """Tick at each due time, at other minutes, as a downtime ends, and some minutes twice."""
        first, length = due_times[0] - 2, due_times[-1] + 4 - due_times[0]
        down = [
            range(begin, begin + math.ceil(part * length))
            for begin, part in ((first + int(b * length), p) for b, p in self.downtimes)
        ]
        minutes = [
            *due_times,
            *(minute + 1 for minute in due_times[::3]),
            *due_times[::4],
            *(first + int(part * length) for part in self.other_ticks),
            *(times.stop for times in down),
        ]
        up = [
            minute
            for minute in minutes
            if minute < len(clocks.wall) and not any(minute in times for times in down)
        ]
        ticks = [
            Tick(clocks.at(minute), clocks.at(minute) + dt.timedelta(seconds=delay))
            for minute, delay in zip(up, itertools.cycle(self.delays), strict=False)
        ]
        return sorted(ticks, key=lambda tick: tick.evaluated)

    def start_delays(self, interval: int) -> Iterator[dt.timedelta]:
        """How long after its tick each run starts."""
        return itertools.cycle(
            int(part * interval) * MINUTE + dt.timedelta(seconds=1.5) for part in self.lateness
        )


PARTS = st.floats(0, 1)
WEATHERS = st.builds(
    Weather,
    downtimes=st.lists(st.tuples(PARTS, st.floats(0, 0.4)), max_size=3),
    other_ticks=st.lists(PARTS, max_size=6),
    delays=st.lists(st.integers(0, 55) | st.integers(0, 200), min_size=1, max_size=4),
    lateness=st.lists(st.just(0.0) | st.floats(0, 3), min_size=1, max_size=4),
    lost=st.lists(st.booleans(), min_size=1, max_size=3),
)


def expected_runs(
    due_times: list[dt.datetime], ticks: list[Tick], start_delays: Iterator[dt.timedelta]
) -> Iterator[tuple[dt.datetime, Tick]]:
    """The oracle: the due time of each run, and the tick that claims it."""
    settled = dt.datetime.min.replace(tzinfo=dt.UTC)
    for tick in ticks:
        missed = [due for due in due_times if settled < due <= tick.at]
        if missed and settled < tick.evaluated:
            yield missed[0], tick
            settled = tick.evaluated + next(start_delays)  # the run stands for all until it starts


class Simulation:
    """Ticks and runs of a schedule in the database."""

    def __init__(self, case: Case, weather: Weather, due_times: list[dt.datetime]) -> None:
        self.due_times = due_times
        self.clock = Clock()
        self.clock.now = case.registered
        with mock.patch("proctree_dagster.services.due_time_claims.timezone.now", self.clock):
            self.schedule = register(**case.values)
        self.start_delays = weather.start_delays(case.interval)
        self.lost = itertools.cycle(weather.lost)
        self.runs: list[tuple[dt.datetime, Tick]] = []
        self.requests: list[Tick] = []
        """The ticks that have asked for a run of the open claim."""
        self.is_lost = False
        self.starts_at = case.registered

    def run(self, ticks: list[Tick]) -> list[tuple[dt.datetime, Tick]]:
        with mock.patch("proctree_dagster.services.due_time_claims.timezone.now", self.clock):
            for tick in ticks:
                if self.requests and self.starts_at <= tick.evaluated:
                    self.start()
                self.clock.now = tick.evaluated
                self.tick(tick)
            if self.requests:
                self.start()
        return self.runs

    def tick(self, tick: Tick) -> None:
        answer = request(self.schedule.pk, tick.at, self)
        if self.requests:
            self.check_repeated(tick, answer)
        elif self.runs and isinstance(answer, Due) and answer.due == self.runs[-1][0]:
            # The tick of a run that has started already: the run is asked for again, in vain.
            assert tick.at == self.runs[-1][1].at
            name = self.schedule.process_tree.job_name
            assert isinstance(take(name, answer.due, "again"), Skip)
            return
        if isinstance(answer, Due):
            if not self.requests:
                self.runs.append((answer.due, tick))
                self.starts_at = tick.evaluated + next(self.start_delays)
                self.is_lost = next(self.lost)
                self.check_claim(row(self.schedule), tick)
            self.requests.append(tick)

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way"]:
        """Dagster: is the run of the open claim there?"""
        return "none" if self.is_lost else "under way"

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        """Dagster: every run has ended when the next one is due."""
        return RunStatus.SUCCESS

    def check_claim(self, claimed: ProcessTreeSchedule, tick: Tick) -> None:
        """The next run is the first due time after the tick; ticks come each minute meanwhile."""
        assert claimed.last_run == tick.at
        assert claimed.claimed_at == tick.evaluated
        next_run = next((due for due in self.due_times if due > tick.at), claimed.next_run)
        assert claimed.next_run == next_run
        assert claimed.cover(tick.evaluated)[0] == [EVERY_MINUTE]

    def check_repeated(self, tick: Tick, answer: Due | Skip) -> None:
        """While a claim is open it is all that is asked for: a minute later, or by its own tick."""
        due, claimed_by = self.runs[-1]
        old = tick.evaluated - self.requests[-1].evaluated >= MINUTE
        if self.is_lost and (old or tick.at == claimed_by.at):
            assert isinstance(answer, Due)
            assert answer.due == due
        else:
            assert isinstance(answer, Skip)

    def start(self) -> None:
        """Start every run that was asked for; the first one takes the claim."""
        self.clock.now = self.starts_at
        due, name = self.runs[-1][0], self.schedule.process_tree.job_name
        ids = [f"{due} {number}" for number in range(len(self.requests))]
        taken, *others = [take(name, due, run_id) for run_id in ids]
        assert isinstance(taken, Taken)
        assert all(isinstance(other, Skip) for other in others)
        if self.starts_at < self.due_times[-1]:
            stands_for = [each for each in self.due_times if due <= each <= self.starts_at]
            assert taken.count == len(stands_for)
        self.requests = []


CALM = Weather(downtimes=[], other_ticks=[], delays=[1], lateness=[0], lost=[False])
DOWN = Weather(downtimes=[(0.3, 0.4)], other_ticks=[0.5], delays=[1], lateness=[0], lost=[False])
LATE = Weather(downtimes=[], other_ticks=[], delays=[1], lateness=[0, 2.5], lost=[True])
LONDON = case(60, "00:30", "Europe/London", "2026-10-24 12:00")


@pytest.mark.django_db
@settings(deadline=None, max_examples=20)
@given(cases(), WEATHERS)
@example(LONDON, CALM)
@example(LONDON, DOWN)
@example(LONDON, LATE)
def test_each_due_time_has_one_run_and_after_a_downtime_one_catches_up(
    case: Case, weather: Weather
) -> None:
    end = case.clocks.minute(case.registered) + 2 * DAY + 40 * case.interval
    due_times = case.due_times(last=min(end, DAYS * DAY))
    moments = [case.clocks.at(minute) for minute in due_times]
    ticks = weather.ticks(due_times[:12], case.clocks)

    runs = Simulation(case, weather, moments).run(ticks)

    assert runs == [*expected_runs(moments, ticks, weather.start_delays(case.interval))]
    if weather == CALM:
        assert [due for due, _ in runs] == moments[:12]


# --- The crons that Dagster ticks by ---


def minutes_of_week(cron: str) -> set[int]:
    """The times at which a cron ticks each week, from Sunday 00:00."""
    minutes, hours, *every, days = cron.split()
    assert every == ["*", "*"]
    return {
        day * DAY + hour * 60 + minute
        for day in field(days, 7)
        for hour in field(hours, 24)
        for minute in field(minutes, 60)
    }


def field(text: str, count: int) -> set[int]:
    """The values of a cron field: ``*``, ``*/5``, ``1-7/2``, ``1,3``."""
    values: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, _, high = (f"0-{count - 1}" if span == "*" else span).partition("-")
        values.update(range(int(low), int(high or low) + 1, int(step or 1)))
    assert values <= set(range(count))
    return values


@settings(deadline=None, max_examples=20)
@given(cases(), st.integers(0, 364 * DAY))
@example(case(45, "00:10", "Europe/London", NEW_YEAR), 0)  # exact
@example(case(50, "00:10", "Europe/London", NEW_YEAR), 0)  # every 10 minutes
@example(case(7, "00:10", "Europe/London", NEW_YEAR), 0)  # every minute
@example(case(100, "00:10", "Australia/Lord_Howe", NEW_YEAR), 0)
@example(case(2 * DAY, "00:10", "Europe/London", NEW_YEAR), 0)  # daily
@example(case(2 * WEEK, "00:10", "Europe/London", NEW_YEAR), 0)  # weekly
@example(case(WEEK, "23:30", "America/Nuuk", "2025-03-29 12:00"), 0)  # first on a Sunday
def test_crons_tick_at_every_due_time_and_as_seldom_as_can_be(case: Case, other: int) -> None:
    schedule = case.schedule()
    assert schedule.anchor is not None
    crons, zone = cron_cover(schedule.rule, schedule.anchor)
    times = [minutes_of_week(cron) for cron in crons]
    ticks = set().union(*times)
    grid = WEEK if case.interval % WEEK == 0 else math.gcd(DAY, case.interval)
    assert sum(len(some) for some in times) == len(ticks) == WEEK / grid

    strange = case.clocks.strange if zone == case.zone else set()
    for first, last in case.windows(other):
        due_times = set(case.due_times(first, last)) - strange
        for due in due_times:
            shown = case.clocks.at(due).astimezone(ZoneInfo(zone))
            assert (shown.isoweekday() % 7 * 24 + shown.hour) * 60 + shown.minute in ticks
        if DAY % case.interval == 0 and due_times:
            assert zone == case.zone
            begun = range(min(due_times), last)
            ticked = {minute for minute in begun if case.clocks.wall[minute] % WEEK in ticks}
            assert ticked - strange == due_times
