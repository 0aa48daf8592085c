"""Calendars and the start date of schedules: registered, validated, moved and said."""

import datetime as dt
from typing import Any

import pytest
from django.core.management import call_command

from proctree_dagster.exceptions import ScheduleError
from proctree_dagster.models import ProcessTree, calendars
from proctree_dagster.services import due_time_claims
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.services.test_pauses import NoRuns
from tests.tools.schedules import Clock, row, update, utc

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()  # Wednesday, 2026-06-10
    monkeypatch.setattr("proctree_dagster.models.schedules.timezone.now", clock)
    return clock


@pytest.fixture
def tree() -> ProcessTreeInstance:
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.save()
    return tree


def test_a_holiday_of_the_country_is_skipped_or_moved(tree: ProcessTreeInstance) -> None:
    """Youth Day is on Tuesday, 2026-06-16."""
    days = {
        business_days: tree.register_schedule(
            name=business_days or "plain",
            cron="0 9 16 * *",
            timezone="Africa/Johannesburg",
            business_days=business_days,
            calendar="holidays:ZA" if business_days else "",
        ).next_run
        for business_days in ("", "skip", "next", "previous")
    }
    assert days == {
        "": utc("2026-06-16 07:00"),
        "skip": utc("2026-07-16 07:00"),
        "next": utc("2026-06-17 07:00"),
        "previous": utc("2026-06-15 07:00"),
    }


def test_blank_business_days_take_the_calendar_away(tree: ProcessTreeInstance) -> None:
    tree.register_schedule(cron="0 9 * * *", business_days="skip", calendar="weekdays")
    schedule = tree.register_schedule(business_days="")
    assert (schedule.business_days, schedule.calendar) == ("", "")
    schedule = tree.register_schedule(calendar="weekdays")
    assert schedule.business_days == "skip", "a calendar alone is for skipping"


def test_the_first_and_the_last_business_day_of_a_month(tree: ProcessTreeInstance) -> None:
    for business_days, due in (("first", "2026-07-01 07:00"), ("last", "2026-06-30 07:00")):
        schedule = tree.register_schedule(
            name=business_days,
            cron="0 9 * * *",
            timezone="Africa/Johannesburg",
            business_days=business_days,
        )
        assert schedule.next_run == utc(due)


def test_nothing_is_due_before_the_start_date(tree: ProcessTreeInstance) -> None:
    schedule = tree.register_schedule(
        interval_minutes=60, timezone="UTC", start_date=dt.date(2026, 8, 1)
    )
    assert schedule.next_run == utc("2026-08-01 00:00")
    assert "from 2026-08-01" in schedule.rule_in_words


def test_registering_the_same_again_moves_nothing(tree: ProcessTreeInstance, clock: Clock) -> None:
    options: dict[str, Any] = {"cron": "0 9 * * *", "business_days": "next"}
    schedule = tree.register_schedule(**options)
    update(schedule, next_run=utc("2026-06-01 07:00"))
    clock.now = utc("2026-06-10 12:00")
    assert tree.register_schedule(**options).next_run == utc("2026-06-01 07:00")
    assert ProcessTree.objects.get().edited == []
    assert tree.register_schedule(business_days="skip").next_run == utc("2026-06-11 07:00")


def test_a_claim_leads_to_the_next_business_day(tree: ProcessTreeInstance, clock: Clock) -> None:
    schedule = tree.register_schedule(cron="0 9 * * *", timezone="UTC", business_days="skip")
    update(schedule, next_run=utc("2026-06-12 09:00"))
    clock.now = utc("2026-06-12 09:00")
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert isinstance(found, due_time_claims.Due)
    assert row(schedule).next_run == utc("2026-06-15 09:00")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"business_days": "sometimes"}, "business_days"),
        ({"calendar": "holidays:XX"}, "no calendar 'XX'"),
        ({"calendar": "holidays:ZA/Nowhere"}, "no calendar 'ZA/Nowhere'"),
        ({"calendar": "os:getcwd"}, "can't be used"),
        ({"calendar": "tests.app.processes:no_such"}, "can't be used"),
        ({"calendar": "tests.app.processes:raises"}, "The calendar 'tests.app.processes:raises'"),
        ({"interval_minutes": 50, "cron": "", "business_days": "next"}, "elapsed time"),
        ({"cron": "0 9 * * 0", "business_days": "skip"}, "No due time was found"),
        ({"start_date": "soon"}, "start_date"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tree: ProcessTreeInstance, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ScheduleError, match=match):
        tree.register_schedule(**{"cron": "0 9 * * *", **options})
    assert not ProcessTree.objects.filter(schedule__isnull=False).exists()


def test_a_calendar_is_asked_for_dates_and_must_answer_yes_or_no() -> None:
    assert calendars.business_days("weekdays")(dt.date(2026, 6, 12))
    assert not calendars.business_days("")(dt.date(2026, 6, 13))
    assert not calendars.business_days("holidays:DE/BY")(dt.date(2026, 8, 15))
    with pytest.raises(ScheduleError, match="must return True or False for 2026-06-12, not"):
        calendars.business_days("tests.app.processes:noted_date")(dt.date(2026, 6, 12))


def test_a_long_name_of_a_calendar_fits_into_what_is_noted(
    tree: ProcessTreeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendars, "business_days", lambda name: lambda date: True)
    first = tree.register_schedule(cron="0 9 * * *", calendar="a" * 199 + "b")
    second = tree.register_schedule(name="x", cron="0 9 * * *", calendar="a" * 199 + "c")
    assert len(first.next_run_rule) <= 300
    assert first.next_run_rule != second.next_run_rule


def test_the_command_takes_them(tree: ProcessTreeInstance) -> None:
    call_command(
        *("proctree", "schedule", "close", "--cron", "0 9 * * *", "--business-days", "last"),
        *("--calendar", "holidays:ZA", "--start-date", "2026-08-01"),
    )
    schedule = tree.get_schedule()
    assert schedule.start_date == dt.date(2026, 8, 1)
    assert (schedule.business_days, schedule.calendar) == ("last", "holidays:ZA")
