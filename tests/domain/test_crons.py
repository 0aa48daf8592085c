"""Cron rules: what is accepted, and when they are due."""

import datetime as dt
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from dagster._utils.schedules import schedule_execution_time_iterator
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.due_times import cron_cover, due_after, due_times, first_due
from proctree_dagster.domain.schedule_rules import CronRule
from proctree_dagster.exceptions import ScheduleError
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.schedules import register, utc

DAY = dt.timedelta(days=1)
START = utc("2026-01-01 00:00")


def shown(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Return the first due times after ``after`` (UTC), on the zone's own clock."""
    rule, moment = CronRule(cron, zone), utc(after)
    found = []
    for _ in range(count):
        moment = due_after(rule, moment, moment)
        found.append(f"{moment.astimezone(ZoneInfo(zone)):%a %d %H:%M%z}")
    return found


def test_a_cron_is_due_at_the_wall_clock_times_that_it_names() -> None:
    assert shown("0 9 * * 1-5", "Africa/Johannesburg", "2026-06-12 06:00", 3) == [
        "Fri 12 09:00+0200",
        "Mon 15 09:00+0200",
        "Tue 16 09:00+0200",
    ]
    assert shown("30 8,17 1,15 * *", "UTC", "2026-06-01 09:00", 3) == [
        "Mon 01 17:30+0000",
        "Mon 15 08:30+0000",
        "Mon 15 17:30+0000",
    ]
    assert shown("0 0 L * *", "UTC", "2026-02-01 00:00", 2) == [
        "Sat 28 00:00+0000",
        "Tue 31 00:00+0000",
    ]


def test_a_new_cron_is_due_first_when_it_says() -> None:
    rule = CronRule("*/20 * * * *", "UTC")
    assert first_due(rule, utc("2026-06-12 06:05")) == utc("2026-06-12 06:20")


def test_a_time_in_the_gap_is_due_at_its_end_and_those_that_coincide_are_one() -> None:
    # London's clock goes from 01:00 to 02:00 on 29 March.
    assert shown("15,45 1 * * *", "Europe/London", "2026-03-28 12:00", 3) == [
        "Sun 29 02:00+0100",
        "Mon 30 01:15+0100",
        "Mon 30 01:45+0100",
    ]


def test_an_hour_that_comes_twice_is_due_twice_only_for_a_cron_of_every_hour() -> None:
    # London's clock goes from 02:00 back to 01:00 on 25 October.
    assert shown("30 * * * *", "Europe/London", "2026-10-24 23:45", 3) == [
        "Sun 25 01:30+0100",
        "Sun 25 01:30+0000",
        "Sun 25 02:30+0000",
    ]
    assert shown("30 1 * * *", "Europe/London", "2026-10-24 12:00", 2) == [
        "Sun 25 01:30+0000",
        "Mon 26 01:30+0000",
    ]


def test_a_cron_that_is_due_once_in_years_is_found() -> None:
    rule = CronRule("0 0 29 2 *", "UTC")
    assert due_after(rule, START, START) == utc("2028-02-29 00:00")


@pytest.mark.parametrize(
    ("cron", "because"),
    [
        ("", "has 0"),
        ("0 9 * *", "has 4"),
        ("0 0 9 * * 1", "has 6"),
        ("@daily", "has 1"),
        ("61 * * * *", "Bad minute"),
        ("* * * * fri-mon", "Bad day-of-week"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 31 4,6 *", "Bad day-of-month"),
    ],
)
def test_a_cron_that_makes_no_sense_is_refused_with_the_reason(cron: str, because: str) -> None:
    with pytest.raises(ScheduleError, match=because):
        CronRule(cron, "UTC")


FIELDS = [
    st.sampled_from(["*", "0", "*/7", "5,35", "10-20", "59"]),
    st.sampled_from(["*", "0", "*/5", "9-17", "1,2,3", "23"]),
    st.sampled_from(["*", "1", "*/9", "L", "LW", "28-31", "1,15", "1-31"]),
    st.sampled_from(["*", "*", "2", "*/4", "jan,oct"]),
    st.sampled_from(["*", "*", "0", "7", "1-5", "MON#2", "5L", "sat,sun", "0-6", "1-7"]),
]
CRONS = st.tuples(*FIELDS).map(" ".join)


@given(cron=CRONS, days=st.integers(0, 700))
@settings(deadline=None, max_examples=150)
def test_where_no_clock_changes_due_times_are_those_of_the_library(cron: str, days: int) -> None:
    start = START + days * DAY
    rule = CronRule(cron, "UTC")
    first = due_after(rule, start, start)
    last = first + 40 * DAY
    expected = islice(CronSim(cron, start), 400)
    found = islice(due_times(rule, start, first, last), 400)
    assert list(found) == [due for due in expected if due <= last]


@given(cron=CRONS, days=st.integers(0, 700), zone=st.sampled_from(["UTC", "Asia/Kathmandu"]))
@settings(deadline=None, max_examples=150)
def test_dagsters_ticks_hold_every_due_time(cron: str, days: int, zone: str) -> None:
    start = START + days * DAY
    rule = CronRule(cron, zone)
    crons, timezone = cron_cover(rule, start)
    due = due_after(rule, start, start)
    for _ in range(5):
        ticks = schedule_execution_time_iterator(due.timestamp(), crons, timezone, True)
        assert next(ticks) == due, (crons, due)
        due = due_after(rule, start, due)


@pytest.mark.parametrize("cron", ["0 0 1-31 * 1", "0 0 5 * 0-7", "0 0 5 * 1-7"])
def test_where_either_day_may_match_and_one_always_does_every_day_is_due(cron: str) -> None:
    rule = CronRule(cron, "UTC")
    assert due_after(rule, START, START) - START <= DAY
    assert cron_cover(rule, START) == (["0 0 * * *"], "UTC")
    assert rule.in_words == "at 00:00 every day in UTC"


def test_the_cover_is_the_cron_itself_where_every_dialect_agrees() -> None:
    assert cron_cover(CronRule("0 9 * * 1-5", "UTC"), START) == (["0 9 * * 1-5"], "UTC")
    assert cron_cover(CronRule("0 9 1 */6 *", "UTC"), START) == (["0 9 1 1,7 *"], "UTC")
    assert cron_cover(CronRule("*/30 * * * *", "UTC"), START) == (["*/30 * * * *"], "UTC")
    # Both days, or a last one: Dagster ticks on every day, and most ticks are not due.
    assert cron_cover(CronRule("0 9 13 * 5", "UTC"), START) == (["0 9 * * *"], "UTC")
    assert cron_cover(CronRule("0 9 L 2 *", "UTC"), START) == (["0 9 * 2 *"], "UTC")


@pytest.mark.django_db
class TestRegistering:
    def tree(self) -> ProcessTreeInstance:
        tree = ProcessTreeInstance("close", overwrite=True).add_process("one", func=processes.one)
        tree.save()
        return tree

    def test_a_cron_instead_of_an_interval(self) -> None:
        schedule = self.tree().register_schedule(
            cron="0  9 * * 1-5", timezone="Africa/Johannesburg"
        )
        schedule.refresh_from_db()
        assert (schedule.cron, schedule.interval_minutes) == ("0 9 * * 1-5", None)
        assert schedule.rule == CronRule("0 9 * * 1-5", "Africa/Johannesburg")
        assert str(schedule) == "close: at 09:00 on Monday through Friday in Africa/Johannesburg"
        assert schedule.next_run is not None
        assert schedule.next_run.hour == 7

    def test_from_an_interval_to_a_cron_and_back(self) -> None:
        tree = self.tree()
        tree.register_schedule(interval_minutes=30)
        assert tree.register_schedule(cron="* * * * *").interval_minutes is None
        again = tree.register_schedule(interval_minutes=60, start_time=dt.time(9, 0))
        assert (again.interval_minutes, again.cron) == (60, "")

    def test_registering_again_with_the_same_cron_moves_nothing(self) -> None:
        first = self.tree().register_schedule(cron="*/5 * * * *")
        ProcessTreeSchedule.objects.update(next_run=utc("2026-01-01 00:00"))
        again = self.tree().register_schedule(cron="*/5 * * * *")
        assert again.pk == first.pk
        assert again.next_run == utc("2026-01-01 00:00")

    def test_both_are_refused(self) -> None:
        for both in ({"interval_minutes": 5}, {"start_time": dt.time(9, 0)}):
            with pytest.raises(ScheduleError, match="or cron"):
                self.tree().register_schedule(cron="* * * * *", **both)
        assert not ProcessTreeSchedule.objects.exists()

    def test_what_is_no_cron_is_refused(self) -> None:
        with pytest.raises(ScheduleError, match=r"close.*cron: The cron 'x \* \* \* \*' can't be"):
            self.tree().register_schedule(cron="x * * * *")
        with pytest.raises(ScheduleError, match="must be a string"):
            self.tree().register_schedule(cron=5)  # type: ignore[arg-type]
        assert not ProcessTreeSchedule.objects.exists()

    def test_the_database_refuses_both_and_neither(self) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            register(cron="* * * * *")  # and 60 minutes
        tree = ProcessTree(name="neither", processes=[])
        with pytest.raises(ValidationError, match="Give an interval"):
            ProcessTreeSchedule(process_tree=tree, interval_minutes=None).validate_constraints()
