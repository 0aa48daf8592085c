"""Pauses, and due times that are too late: what is held, what is dropped, and that it is said."""

import datetime as dt
import json
from typing import Any

import pytest
from dagster import DagsterInstance, build_schedule_context
from django.core.management import CommandError, call_command
from pytest_django import Settings

from proctree_dagster.exceptions import ScheduleError
from proctree_dagster.models import Pause, ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.services import due_time_claims, pauses
from proctree_dagster.services.due_time_claims import Due, Skip
from tests.tools.schedules import HOUR, MINUTE, Clock, register, row, update, utc

pytestmark = pytest.mark.django_db(transaction=True)

SEVEN = utc("2026-06-10 07:00")


class NoRuns:
    """Dagster has no run of a claim."""

    def of_claim(self, due: dt.datetime) -> Any:
        return "none"

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        return RunStatus.SUCCESS


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("proctree_dagster.models.schedules.timezone.now", clock)
    return clock


@pytest.fixture
def schedule() -> ProcessTreeSchedule:
    """One that is due at each full hour, the next time at 07:00 UTC."""
    return register()


def tick(schedule: ProcessTreeSchedule, clock: Clock, at: str) -> Due | Skip:
    clock.now = utc(f"2026-06-10 {at}")
    return due_time_claims.request(schedule.pk, clock.now, NoRuns())


def said(decision: Due | Skip) -> str:
    assert isinstance(decision, Skip)
    return decision.reason


# --- What a pause holds ---------------------------------------------------------------------------


def test_a_pause_keeps_due_times_and_one_run_catches_up(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(None, reason="migrating", until=utc("2026-06-10 10:00"))
    text = said(tick(schedule, clock, "07:00"))
    assert "Paused until 2026-06-10 10:00 UTC (migrating)." in text
    assert "The due time 2026-06-10 07:00 UTC is kept; one run catches up." in text
    assert "is kept" in said(tick(schedule, clock, "09:59"))
    found = tick(schedule, clock, "10:00")
    assert isinstance(found, Due)
    assert found.due == SEVEN
    taken = due_time_claims.take(schedule.process_tree.job_name, SEVEN, "run")
    assert "4 due times" in str(taken)


def test_before_its_due_time_a_paused_schedule_says_so_too(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(schedule, reason="migrating")
    text = said(tick(schedule, clock, "06:30"))
    assert "Paused until it is resumed (migrating). Not due until" in text


def test_a_pause_that_drops_drops_what_falls_into_it_and_no_more(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(schedule, reason="off", since=SEVEN, until=SEVEN + 2 * HOUR, drop=True)
    assert "The due time 2026-06-10 07:00 UTC was dropped: paused" in said(
        tick(schedule, clock, "07:00")
    )
    assert row(schedule).next_run == SEVEN + HOUR
    tick(schedule, clock, "08:00")
    assert row(schedule).dropped_due == SEVEN + HOUR
    found = tick(schedule, clock, "09:00")  # the very moment at which it ends
    assert isinstance(found, Due)
    assert found.due == SEVEN + 2 * HOUR


def test_what_fell_into_it_is_dropped_also_where_nobody_looked(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(schedule, reason="off", since=SEVEN, until=SEVEN + 2 * HOUR, drop=True)
    found = tick(schedule, clock, "09:30")
    assert isinstance(found, Due)
    assert found.due == SEVEN + 2 * HOUR
    stored = row(schedule)
    assert stored.dropped_due == SEVEN
    assert stored.dropped_why.startswith("2 due times from 2026-06-10 07:00 UTC on were dropped")
    assert isinstance(tick(register(), clock, "09:31"), Skip)


def test_what_was_due_before_a_pause_that_drops_is_held_not_dropped(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(schedule, reason="off", since=SEVEN + MINUTE, until=SEVEN + HOUR / 2, drop=True)
    assert "is kept" in said(tick(schedule, clock, "07:02"))
    assert isinstance(tick(schedule, clock, "07:30"), Due)


def test_two_pauses_that_overlap_hold_until_both_have_ended(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    tree = schedule.process_tree
    pauses.begin(tree, reason="first", since=SEVEN, until=SEVEN + HOUR, drop=True)
    pauses.begin(None, reason="second", since=SEVEN + HOUR / 2, until=SEVEN + 2 * HOUR)
    assert "was dropped" in said(tick(schedule, clock, "07:40"))
    text = said(tick(schedule, clock, "08:00"))
    assert "second" in text
    assert "first" not in text
    assert "08:00 UTC is kept" in text
    assert isinstance(tick(schedule, clock, "09:00"), Due)


def test_what_is_held_is_run_when_the_pause_is_deleted_or_ended(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    made = pauses.begin(schedule, reason="off")
    tick(schedule, clock, "07:00")
    made.delete()
    assert isinstance(tick(schedule, clock, "07:01"), Due)
    other = register()
    update(other, next_run=SEVEN)
    pauses.begin(other, reason="off")
    tick(other, clock, "07:02")
    assert pauses.end(pauses.exactly_of(other)) == 1
    assert isinstance(tick(other, clock, "07:02"), Due)


def test_a_pause_that_has_not_begun_is_deleted_when_it_is_ended(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    pauses.begin(schedule, reason="later", since=SEVEN)
    assert isinstance(tick(schedule, clock, "06:30"), Skip)
    assert pauses.end(pauses.exactly_of(schedule)) == 1
    assert not Pause.objects.exists()


def test_a_pause_holds_no_other_tree_and_no_other_schedule(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    other = register()
    night = ProcessTreeSchedule.objects.create(process_tree=schedule.process_tree, name="night")
    ProcessTreeSchedule.objects.update(next_run=SEVEN)
    pauses.begin(night, reason="off")
    pauses.begin(other.process_tree, reason="off")
    assert isinstance(tick(schedule, clock, "07:00"), Due)
    assert isinstance(tick(night, clock, "07:00"), Skip)
    assert isinstance(tick(other, clock, "07:00"), Skip)


def test_an_open_claim_is_not_requested_again_in_a_pause(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    assert isinstance(tick(schedule, clock, "07:00"), Due)
    made = pauses.begin(None, reason="off")
    assert "is not requested again before it ends" in said(tick(schedule, clock, "07:05"))
    made.delete()
    found = tick(schedule, clock, "07:06")
    assert isinstance(found, Due)
    assert found.due == SEVEN


def test_a_paused_schedule_is_not_overdue(schedule: ProcessTreeSchedule, clock: Clock) -> None:
    clock.now = utc("2026-06-10 08:30")
    assert row(schedule).is_overdue(clock.now)
    pauses.begin(schedule.process_tree, reason="off")
    assert not row(schedule).is_overdue(clock.now)
    assert not ProcessTreeSchedule.objects.overdue(clock.now).exists()
    assert row(schedule).held_back_by == "a pause"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"reason": " "}, "needs a reason"),
        ({"reason": "x", "until": utc("2026-06-10 06:20")}, "not after"),
        ({"reason": "x", "since": SEVEN, "until": SEVEN}, "not after"),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ScheduleError, match=match):
        pauses.begin(None, **values)


# --- What is too late -----------------------------------------------------------------------------


def test_a_due_time_that_is_too_late_is_dropped_and_the_next_one_is_waited_for(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    update(schedule, not_after_minutes=30)
    text = said(tick(schedule, clock, "07:31"))
    assert "The due time 2026-06-10 07:00 UTC was dropped: it is more than 30 minutes late." in text
    assert "Not due until 2026-06-10 08:00 UTC." in text
    assert row(schedule).dropped_why in text
    update(schedule, next_run=SEVEN + HOUR)
    assert isinstance(tick(schedule, clock, "08:30"), Due)


def test_of_several_missed_ones_those_in_time_are_run(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    update(schedule, not_after_minutes=30)
    found = tick(schedule, clock, "12:10")
    assert isinstance(found, Due)
    assert found.due == utc("2026-06-10 12:00")
    assert row(schedule).dropped_why.startswith("5 due times from")


def test_what_a_pause_has_held_may_be_too_late_when_it_ends(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    update(schedule, not_after_minutes=30)
    pauses.begin(schedule, reason="off", until=SEVEN + HOUR - MINUTE)
    assert "is kept" in said(tick(schedule, clock, "07:58"))
    assert "was dropped: it is more than 30 minutes late" in said(tick(schedule, clock, "07:59"))


def test_a_claim_whose_run_never_came_is_dropped_when_it_is_too_late(
    schedule: ProcessTreeSchedule, clock: Clock
) -> None:
    update(schedule, not_after_minutes=30)
    assert isinstance(tick(schedule, clock, "07:00"), Due)
    assert isinstance(tick(schedule, clock, "07:31"), Skip)
    stored = row(schedule)
    assert stored.claim is None
    assert stored.dropped_due == SEVEN


# --- Where it is said -----------------------------------------------------------------------------


def test_dagsters_list_of_ticks_says_it(instance: DagsterInstance, clock: Clock) -> None:
    schedule = register()
    pauses.begin(None, reason="migrating")
    clock.now = SEVEN
    context = build_schedule_context(instance=instance, scheduled_execution_time=SEVEN)
    found = build_repository().get_schedule_def(f"{schedule.process_tree.job_name}_schedule")
    assert "Paused until it is resumed (migrating)." in str(
        found.evaluate_tick(context).skip_message
    )


def test_the_commands_pause_list_and_resume(
    schedule: ProcessTreeSchedule, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = schedule.process_tree.name
    call_command("proctree", "pause", "--all", "--reason", "migrating", "--until", "18:00")
    call_command("proctree", "pause", tree, "--schedule", "default", "--reason", "x", "--drop")
    everything, one = Pause.objects.order_by("pk")
    assert everything.until == utc("2026-06-10 16:00"), "in Django's zone"
    assert (one.schedule, one.process_tree, one.drop) == (schedule, schedule.process_tree, True)
    capsys.readouterr()
    call_command("proctree", "pauses", "--json")
    assert [each["reason"] for each in json.loads(capsys.readouterr().out)] == ["migrating", "x"]
    call_command("proctree", "list")
    listed, warned = capsys.readouterr()
    assert "a pause" in listed
    assert "(migrating)" in warned
    call_command("proctree", "show", tree)
    assert "paused until" in capsys.readouterr().out
    call_command("proctree", "resume", "--all")
    assert "is still paused" in capsys.readouterr().err
    call_command("proctree", "resume", tree, "--schedule", "default")
    assert not Pause.objects.active(clock.now).exists()
    call_command("proctree", "resume", tree)
    assert "no such pause" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["--reason", "x"],
        ["--all", "t", "--reason", "x"],
        ["--all", "--schedule", "s", "--reason", "x"],
        ["--all", "--reason", "x", "--until", "soon"],
        ["--all", "--reason", "x", "--until", "25:00"],
        ["--all", "--reason", "x", "--until", "999999d", "--from", "2026-13-01T00:00"],
        ["--all", "--reason", "x", "--until", "2026-06-10T06:00"],
        ["nobody", "--reason", "x"],
    ],
)
def test_what_the_command_does_not_understand_pauses_nothing(args: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("proctree", "pause", *args)
    assert not Pause.objects.exists()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-06-10 16:00"),
        ("8:00", "2026-06-11 06:00"),
        ("30m", "2026-06-10 06:50"),
        ("12h", "2026-06-10 18:20"),
        ("2026-07-01T09:00", "2026-07-01 07:00"),
        ("2026-07-01T09:00+00:00", "2026-07-01 09:00"),
    ],
)
def test_until_when_may_be_said_in_several_ways(text: str, moment: str) -> None:
    call_command("proctree", "pause", "--all", "--reason", "x", "--until", text)
    assert Pause.objects.get().until == utc(moment)


@pytest.mark.parametrize(
    ("now", "text", "until"),
    [
        ("2026-10-25 00:45", "30m", "2026-10-25 01:15"),  # 02:45, the first time
        ("2026-10-25 01:15", "30m", "2026-10-25 01:45"),  # 02:15, the second time
        ("2026-03-28 19:00", "12h", "2026-03-29 07:00"),  # 20:00
        ("2026-03-28 19:00", "1d", "2026-03-29 18:00"),  # 20:00 again
    ],
)
def test_a_while_is_as_long_where_the_clock_is_changed(
    now: str, text: str, until: str, clock: Clock, settings: Settings
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    clock.now = utc(now)
    call_command("proctree", "pause", "--all", "--reason", "x", "--until", text)
    assert Pause.objects.get().until == utc(until)


def test_registering_takes_the_minutes_and_zero_takes_them_away() -> None:
    from proctree_dagster.tree_builder import ProcessTreeInstance
    from tests.app import processes

    tree = ProcessTreeInstance("late").add_process("one", func=processes.one)
    tree.save()
    schedule = tree.register_schedule(not_after_minutes=15)
    assert schedule.not_after_minutes == 15
    assert tree.register_schedule().not_after_minutes == 15
    assert tree.register_schedule(not_after_minutes=0).not_after_minutes is None
    assert ProcessTree.objects.get(name="late").edited == []
    for wrong in (-1, 525_601):
        with pytest.raises(ScheduleError):
            tree.register_schedule(not_after_minutes=wrong)
