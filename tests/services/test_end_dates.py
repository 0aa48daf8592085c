"""The end date of schedules: what is due before it, and that nothing is after it."""

import datetime as dt
import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from proctree_dagster.domain.due_times import NEVER
from proctree_dagster.exceptions import ScheduleError
from proctree_dagster.models import Backfill, Pause, ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.services import due_time_claims
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.services.test_pauses import NoRuns
from tests.tools.schedules import HOUR, Clock, row, update, utc

pytestmark = pytest.mark.django_db

TODAY = dt.date(2026, 6, 10)
DAILY: dict[str, Any] = {"cron": "0 9 * * *", "timezone": "UTC"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()  # Wednesday, 2026-06-10 06:20
    monkeypatch.setattr("proctree_dagster.models.schedules.timezone.now", clock)
    return clock


@pytest.fixture
def tree() -> ProcessTreeInstance:
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.save()
    return tree


def ended(tree: ProcessTreeInstance, **options: Any) -> ProcessTreeSchedule:
    """Return a schedule that ended yesterday."""
    return tree.register_schedule(**DAILY, end_date=TODAY - dt.timedelta(days=1), **options)


def command(*arguments: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    call_command("proctree", *arguments, stdout=out, stderr=err)
    return out.getvalue() if "--json" in arguments else f"{out.getvalue()}{err.getvalue()}"


def test_the_last_due_time_is_on_the_end_date(tree: ProcessTreeInstance, clock: Clock) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=dt.date(2026, 6, 11))
    assert schedule.rule_in_words.endswith(", until 2026-06-11")
    assert schedule.next_due_times(5, clock.now) == [
        utc("2026-06-10 09:00"),
        utc("2026-06-11 09:00"),
    ]
    for day in (10, 11):
        clock.now = utc(f"2026-06-{day} 09:00")
        found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
        assert isinstance(found, due_time_claims.Due)
        taken = due_time_claims.take("close", found.due, f"run {day}")
        assert isinstance(taken, due_time_claims.Taken)
        due_time_claims.end(f"run {day}", RunStatus.SUCCESS)
    clock.now = utc("2026-06-12 09:00")
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert found == due_time_claims.Skip("Not due any more: its end date is 2026-06-11.")
    assert row(schedule).next_run == NEVER
    assert row(schedule).has_ended
    assert row(schedule).next_due_times(5, clock.now) == []
    assert not row(schedule).is_overdue(clock.now)
    assert not row(schedule).needs_check(clock.now)


def test_the_end_date_is_one_of_the_schedules_zone(tree: ProcessTreeInstance, clock: Clock) -> None:
    options: dict[str, Any] = {"cron": "0 23 * * *", "end_date": TODAY}
    schedule = tree.register_schedule(timezone="America/New_York", **options)
    assert schedule.next_due_times(3, clock.now) == [utc("2026-06-11 03:00")]


def test_what_was_claimed_before_the_end_is_run_after_it(
    tree: ProcessTreeInstance, clock: Clock
) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=TODAY)
    clock.now = utc("2026-06-10 09:00")
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert isinstance(found, due_time_claims.Due)
    clock.now = utc("2026-06-12 12:00")
    tree.register_schedule(end_date=dt.date(2026, 6, 9))
    assert row(schedule).cover(clock.now) == (["* * * * *"], "UTC")
    assert due_time_claims.request(schedule.pk, clock.now, NoRuns()) == found
    taken = due_time_claims.take("close", found.due, "run")
    assert taken == due_time_claims.Taken(found.due, 1)


def test_what_was_due_before_the_end_is_caught_up_with_after_it(
    tree: ProcessTreeInstance, clock: Clock
) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=TODAY)
    clock.now = utc("2026-06-20 12:00")
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert isinstance(found, due_time_claims.Due)
    assert found.due == utc("2026-06-10 09:00")


@pytest.mark.parametrize("end_date", [dt.date(2026, 12, 31), ""])
def test_a_later_end_or_none_counts_from_now_on(
    tree: ProcessTreeInstance, end_date: Any, clock: Clock
) -> None:
    schedule = ended(tree)
    assert schedule.next_run == NEVER
    clock.now = utc("2026-06-20 12:00")
    assert tree.register_schedule(end_date=end_date).next_run == utc("2026-06-21 09:00")
    update(schedule, end_date=TODAY)  # by SQL
    assert row(schedule).needs_check(clock.now)
    due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert row(schedule).next_run == NEVER


def test_another_end_keeps_the_rhythm(tree: ProcessTreeInstance, clock: Clock) -> None:
    rule: dict[str, Any] = {"interval_minutes": 10 * 24 * 60, "start_time": dt.time(9)}
    schedule = tree.register_schedule(timezone="UTC", **rule, end_date=dt.date(2026, 6, 25))
    assert schedule.next_run == utc("2026-06-10 09:00")
    clock.now = utc("2026-06-13 12:00")
    assert tree.register_schedule(end_date="").next_run == utc("2026-06-20 09:00")


def test_a_schedule_that_is_switched_on_after_its_end_runs_nothing(
    tree: ProcessTreeInstance, clock: Clock
) -> None:
    schedule = ended(tree, enabled=False)
    schedule.enabled = True
    schedule.save()
    assert schedule.next_run == NEVER


def test_dagster_ticks_once_a_year_after_the_end(tree: ProcessTreeInstance, clock: Clock) -> None:
    schedule = ended(tree, allow_overlap=True)
    assert schedule.cover(clock.now) == (["0 0 1 1 *"], "UTC")
    update(schedule, timezone="Europe/London")
    clock.now = utc("2026-10-25 00:30")  # the clock changes
    due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert row(schedule).cover(clock.now) == (["0 0 1 1 *"], "UTC")


@pytest.mark.parametrize("drop", [True, False])
def test_a_pause_over_the_end_keeps_or_drops_what_was_due(
    tree: ProcessTreeInstance, clock: Clock, drop: bool
) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=TODAY)
    until = utc("2026-06-12 12:00")
    Pause.objects.create(since=clock.now, until=until, drop=drop, reason="moving")
    clock.now = until + HOUR
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert isinstance(found, due_time_claims.Skip if drop else due_time_claims.Due)
    assert row(schedule).has_ended
    if drop:
        assert "Not due any more: its end date is 2026-06-10." in str(found)


def test_a_backfill_of_what_has_ended_ends_with_it(tree: ProcessTreeInstance, clock: Clock) -> None:
    schedule = ended(tree)
    backfill = Backfill(schedule=schedule, first=utc("2026-06-07 12:00"), last=clock.now)
    days = [due.day for due in backfill.due_times_left(clock.now)]
    assert days == [8, 9]
    backfill.first = utc("2026-06-09 12:00")
    assert "Nothing was due" in backfill.problem(clock.now)


def test_what_is_too_late_at_the_end_is_dropped(tree: ProcessTreeInstance, clock: Clock) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=TODAY, not_after_minutes=30)
    clock.now = utc("2026-06-20 12:00")
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert "dropped" in str(found)
    assert row(schedule).has_ended


def test_an_end_date_that_has_passed_is_logged_once(
    tree: ProcessTreeInstance, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        ended(tree)
    said = [each.getMessage() for each in caplog.records if "end date" in each.getMessage()]
    assert len(said) == 1
    assert "runs nothing: nothing is due from now" in said[0]
    assert "2026-06-09" in said[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"start_date": TODAY, "end_date": dt.date(2026, 6, 9)}, "end_date: It is before"),
        ({"end_date": "soon"}, "end_date must be a datetime.date"),
    ],
)
def test_an_end_that_makes_no_sense_is_refused(
    tree: ProcessTreeInstance, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ScheduleError, match=match):
        tree.register_schedule(**DAILY, **options)


def test_an_end_before_the_start_that_sql_wrote_is_never_due(
    tree: ProcessTreeInstance, clock: Clock
) -> None:
    schedule = tree.register_schedule(**DAILY, start_date=TODAY)
    update(schedule, end_date=dt.date(2026, 1, 1))
    found = due_time_claims.request(schedule.pk, clock.now, NoRuns())
    assert found == due_time_claims.Skip("Not due any more: its end date is 2026-01-01.")


def test_an_end_date_is_part_of_what_code_says(tree: ProcessTreeInstance) -> None:
    schedule = tree.register_schedule(**DAILY, end_date=dt.date(2026, 12, 31))
    assert ProcessTree.objects.get().edited == []
    schedule.end_date = "2026-11-30"  # Django takes strings, too
    schedule.save()
    assert ProcessTree.objects.get().edited == ["schedule"]
    assert "until 2026-11-30" in schedule.rule_in_words


def test_the_commands_take_it_and_say_that_it_has_ended(tree: ProcessTreeInstance) -> None:
    out = command(
        *("schedule", "close", "--cron", "0 9 * * *"),
        *("--from", "2026-05-01", "--until", "2026-06-09"),
    )
    assert "until 2026-06-09" in out
    assert "Nothing is due until its end date, 2026-06-09." in out
    assert "ended (end date 2026-06-09)" in command("list")
    assert "ended (end date 2026-06-09)" in command("show", "close")
    found = json.loads(command("list", "--json"))["trees"][0]
    assert (found["next_run"], found["ended"]) == (None, True)
    assert found["end_date"] == "2026-06-09"
    assert json.loads(command("show", "close", "--json"))["due_times"] == []
    assert "Next due time: 2026-06-10" in command("schedule", "close", "--until", "")
    with pytest.raises(CommandError, match="--until takes a date"):
        command("schedule", "close", "--until", "soon")


def test_the_command_removes_a_schedule(tree: ProcessTreeInstance) -> None:
    for name in ("default", "night"):
        tree.register_schedule(**DAILY, name=name)
    with pytest.raises(CommandError, match="takes nothing but --name"):
        command("schedule", "close", "--remove", "--every", "5")
    assert "'close (night)' is removed" in command(
        *("schedule", "close", "--name", "night", "--remove")
    )
    with pytest.raises(CommandError, match="no schedule called 'night'"):
        command("schedule", "close", "--name", "night", "--remove")
    assert ProcessTreeSchedule.objects.get().name == "default"


def test_the_pages_of_the_admin_say_that_it_has_ended(
    tree: ProcessTreeInstance, admin_client: Client
) -> None:
    schedule = ended(tree)
    pages = {
        f"processtreeschedule/{schedule.pk}/change/": "ended (end date 2026-06-09)",
        "processtreeschedule/": "ended (end date 2026-06-09)",
        "processtree/": "ended (end date 2026-06-09)",
        f"processtree/{schedule.process_tree_id}/change/": "ended (end date 2026-06-09)",
        f"processtree/{schedule.process_tree_id}/change/?part=tree": "ended (end date 2026-06-09)",
        "overview/": "Overview",
    }
    for page, text in pages.items():
        found = admin_client.get(f"/admin/proctree_dagster/{page}")
        assert text in found.content.decode(), page
        assert "9999" not in found.content.decode(), page
