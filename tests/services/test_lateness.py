"""What does not happen: late schedules, runs that take too long, successes that lack."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import DataError
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster import signals
from proctree_dagster.domain import run_events
from proctree_dagster.domain.alert_settings import KINDS
from proctree_dagster.domain.run_events import Mark, RunEvent
from proctree_dagster.domain.runs import RunSummary
from proctree_dagster.models import (
    Alert,
    AlertState,
    Event,
    EventCursor,
    Pause,
    ProcessTree,
    ProcessTreeSchedule,
)
from proctree_dagster.models.schedule_queries import RunStatus
from proctree_dagster.services import (
    alert_delivery,
    alerts,
    due_time_claims,
    events,
    lateness,
    pauses,
)
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("migrated_cursor")]

NOW = dt.datetime(2026, 6, 10, 12, 0, tzinfo=dt.UTC)
RUN = RunSummary(
    run_id="1",
    tree="books",
    status="started",
    triggered_by="schedule",
    due=None,
    launched_by="",
    created_at=NOW,
    started_at=NOW,
    ended_at=None,
    parent_run_id=None,
    job_name="books",
)


@pytest.fixture(autouse=True)
def everybody_hears(settings: Settings, migrated_cursor: None) -> None:
    given = {"to": ["ada@example.com"], "on": list(KINDS), "late_minutes": 10}
    settings.PROCTREE = {**settings.PROCTREE, "ALERTS": given}
    EventCursor.objects.update(working_since=NOW - dt.timedelta(days=1))


@pytest.fixture
def heard() -> Iterator[list[tuple[str, Any]]]:
    """Receive the signals of schedules."""
    found: list[tuple[str, Any]] = []

    def late(**given: Any) -> None:
        found.append(("late", given))

    def recovered(**given: Any) -> None:
        found.append(("recovered", given))

    signals.schedule_late.connect(late)
    signals.schedule_recovered.connect(recovered)
    yield found
    signals.schedule_late.disconnect(late)
    signals.schedule_recovered.disconnect(recovered)


def books(**options: Any) -> ProcessTree:
    return ProcessTreeInstance("books", **options).add_process("one", func=processes.one).save()


def scheduled(due: dt.datetime = NOW, **options: Any) -> ProcessTreeSchedule:
    tree = books(**options)
    schedule = ProcessTreeInstance("books", tree_instance=tree).register_schedule()
    ProcessTreeSchedule.objects.update(next_run=due)
    return schedule


def look(minutes: float, *under_way: RunSummary) -> list[str]:
    """Check at so many minutes after noon; return the kinds of all alerts."""
    lateness.note(NOW + dt.timedelta(minutes=minutes), lambda _names: under_way)
    return [each.kind for each in Alert.objects.order_by("pk")]


def test_a_schedule_is_late_after_the_minutes_of_the_settings_and_once() -> None:
    scheduled()
    assert look(9) == []
    assert look(11) == ["late"]
    assert look(12) == ["late"]
    said = alert_delivery.message_of(Alert.objects.get())
    assert said.subject == "books is late"
    assert "was due at 2026-06-10 14:00 SAST" in said.text


def test_a_due_time_that_was_claimed_and_not_started_is_late_too() -> None:
    scheduled()
    ProcessTreeSchedule.objects.update(claim=NOW, claimed_at=NOW)
    assert look(11) == ["late"]


def test_it_has_recovered_when_the_due_time_is_taken_not_when_it_is_claimed(
    heard: list[tuple[str, Any]],
) -> None:
    scheduled()
    look(11)
    later = NOW + dt.timedelta(hours=1)
    at = NOW + dt.timedelta(minutes=12)
    ProcessTreeSchedule.objects.update(claim=NOW, claimed_at=at, next_run=later)
    assert look(12) == ["late"]
    ProcessTreeSchedule.objects.update(claim=None)
    assert look(13) == ["late", "recovered"]
    assert look(14) == ["late", "recovered"]
    events.send(timezone.now())
    assert [kind for kind, _ in heard] == ["late", "recovered"]
    assert {given["due"] for _, given in heard} == {NOW}
    assert {given["schedule"] for _, given in heard} == {"default"}
    assert heard[0][1]["tree"] == "books"


def test_one_that_is_paused_or_off_is_not_late() -> None:
    scheduled()
    pause = Pause.objects.create(reason="holidays", since=NOW)
    assert look(30) == []
    pause.delete()
    ProcessTreeSchedule.objects.update(enabled=False)
    assert look(31) == []
    ProcessTreeSchedule.objects.update(enabled=True)
    assert look(32) == ["late"]


def test_what_a_long_run_or_a_pause_has_held_back_until_now_is_not_late() -> None:
    schedule = scheduled()
    for held in ({"last_run_status": "started"}, {"last_run_status": "success"}):
        ProcessTreeSchedule.objects.update(**held, last_ended=NOW + dt.timedelta(minutes=30))
        assert look(31) == []
        assert not ProcessTreeSchedule.objects.get().is_overdue(NOW + dt.timedelta(minutes=31))
    ProcessTreeSchedule.objects.update(last_ended=None)
    pause = Pause.objects.create(
        reason="holidays", since=NOW, until=NOW + dt.timedelta(minutes=30), schedule=schedule
    )
    for minutes, late in ((29, False), (31, False), (34, True)):
        now = NOW + dt.timedelta(minutes=minutes)
        row = ProcessTreeSchedule.objects.get()
        assert row.is_overdue(now) is late
        pauses.Active(now).note([row])
        assert row.is_overdue(now) is late
        assert ProcessTreeSchedule.objects.overdue(now).exists() is late
    pause.delete()
    assert look(34) == ["late"]


def test_the_end_of_a_run_is_noted_on_its_schedule() -> None:
    scheduled()
    ProcessTreeSchedule.objects.update(last_run_id="1", last_run_status="started")
    due_time_claims.end("1", RunStatus.SUCCESS)
    ended = ProcessTreeSchedule.objects.get().last_ended
    assert ended is not None
    assert timezone.now() - ended < dt.timedelta(minutes=1)


def test_a_daemon_that_has_just_been_started_first_runs_what_was_due() -> None:
    scheduled()
    EventCursor.objects.update(working_since=NOW + dt.timedelta(minutes=59))
    assert look(60) == []
    assert look(63) == ["late"]


def test_a_gap_between_passes_is_when_the_daemon_starts_again() -> None:
    for minutes, since in [(0, 0), (1, 0), (2, 0), (10, 10), (11, 10)]:
        at = timezone.now() + dt.timedelta(minutes=minutes)
        events.record([], Mark(at, {}), "storage")
        if minutes == since:
            started = at
        assert EventCursor.objects.get().working_since == started


def test_a_schedule_that_was_deleted_ends_its_lateness_silently() -> None:
    scheduled()
    look(11)
    ProcessTree.objects.all().delete()
    assert look(12) == ["late"]
    assert not Event.objects.filter(is_open=True).exists()
    assert Alert.objects.get().process_tree is None


def test_what_is_late_is_remembered_for_as_long_as_it_is() -> None:
    scheduled()
    look(11)
    Event.objects.update(sent_at=NOW - dt.timedelta(days=30))
    events.forget(NOW)
    assert look(12) == ["late"]


def test_a_run_that_takes_longer_than_expected_has_one_alert() -> None:
    tree = books(expected_minutes=30)
    run = replace(RUN, job_name=tree.job_name, tags={"organisation": "Acme"})
    other = replace(RUN, run_id="2", job_name=tree.job_name, started_at=None)
    assert look(29, run, other) == []
    assert look(31, run, other) == ["too long"]
    assert look(32, run, other) == ["too long"]
    said = alert_delivery.message_of(Alert.objects.get())
    assert said.subject == "books runs too long (organisation: Acme)"
    assert "longer than 30 minutes" in said.text


def test_a_tree_without_a_success_for_too_long_has_one_alert_until_it_succeeds() -> None:
    tree = books(success_within_minutes=60)
    ProcessTree.objects.update(updated_at=NOW)
    assert look(59) == []
    assert look(61) == ["no success"]
    assert look(120) == ["no success"]
    AlertState.objects.create(process_tree=tree, succeeded_at=NOW + dt.timedelta(minutes=121))
    assert look(180) == ["no success"]
    look(182)
    assert Alert.objects.get().count == 2


def test_what_lasts_for_weeks_has_one_alert_and_is_forgotten_when_it_is_over() -> None:
    tree = books(success_within_minutes=60, expected_minutes=30)
    ProcessTree.objects.update(updated_at=NOW)
    run = replace(RUN, job_name=tree.job_name)
    for week in (1, 2, 3):
        assert sorted(look(week * 7 * 24 * 60, run)) == ["no success", "too long"]
        assert [each.count for each in Alert.objects.all()] == [1, 1]
        Event.objects.update(sent_at=NOW - dt.timedelta(days=30))
        events.forget(NOW)
    AlertState.objects.create(process_tree=tree, succeeded_at=NOW + dt.timedelta(days=30))
    look(30 * 24 * 60)
    events.forget(NOW)
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, {"failure", "recovered", "late"}),
        ({"expected_minutes": 5}, {"failure", "recovered", "late", "too long"}),
        ({"success_within_minutes": 5}, {"failure", "recovered", "late", "no success"}),
        ({"alert_on": "failure"}, {"failure"}),
        ({"alert_on": ["late"], "expected_minutes": 5}, {"late"}),
        ({"alert_on": "nothing"}, set()),
    ],
)
def test_a_tree_says_of_what_there_are_alerts(
    options: dict[str, Any], kinds: set[str], settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "ALERTS": {"to": ["ada@example.com"]}}
    tree = books(**options)
    for kind in KINDS:
        alerts.add(kind, tree, "books", kind, {}, NOW, NOW)
    assert {each.kind for each in Alert.objects.all()} == kinds


def test_a_tree_says_who_gets_them(settings: Settings) -> None:
    tree = books(alert_to=["bob@example.com", "chat"], alert_on="failure")
    alerts.add("failure", tree, "books", "", {}, NOW, NOW)
    assert {each.recipient for each in Alert.objects.all()} == {"bob@example.com", "chat"}
    assert list(tree.problems()) == [
        "The tree's alert_to: 'chat' is neither a mail address nor a name in "
        "PROCTREE['ALERTS']['webhooks'] or ['apprise']."
    ]


def test_a_tree_that_sql_has_broken_leaves_it_to_the_settings() -> None:
    tree = books()
    ProcessTree.objects.update(alert_on=7, alert_to={"a": 1})
    tree.refresh_from_db()
    alerts.add("failure", tree, "books", "", {}, NOW, NOW)
    assert [each.recipient for each in Alert.objects.all()] == ["ada@example.com"]


def test_an_event_that_cannot_be_stored_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree = books()
    real = alerts.note_run

    def note_run(event: RunEvent, now: dt.datetime) -> None:
        if event.run.run_id == "2":
            raise DataError("what the database does not take")
        real(event, now)

    monkeypatch.setattr(alerts, "note_run", note_run)
    runs = [replace(RUN, run_id=each, job_name=tree.job_name) for each in "123"]
    found = [RunEvent(run_events.FAILED, each, NOW, failures={"one": "no till"}) for each in runs]
    assert events.record(found, Mark(NOW, {}), "s") == 2
    stored = Event.objects.filter(kind="run_failed").values_list("subject", flat=True)
    assert set(stored) == {"1", "3"}
    assert Alert.objects.get().count == 2
    assert "what the database does not take" in caplog.text
    monkeypatch.undo()
    assert events.record(found, Mark(NOW, {}), "s") == 1, "it is read again"


@pytest.mark.parametrize("facts", [7, [1], {"failures": 3}, {"customers": 1}, "x"])
def test_an_alert_that_sql_has_broken_still_says_its_tree_and_kind(facts: Any) -> None:
    alerts.add("late", books(), "books", "", {}, NOW, NOW)
    Alert.objects.update(facts=facts)
    assert alert_delivery.message_of(Alert.objects.get()).subject == "books is late"


def test_an_event_that_sql_has_broken_is_closed() -> None:
    scheduled()
    look(11)
    for subject in ("x", "schedule:x:y", "schedule:1"):
        Event.objects.update(subject=subject, is_open=True)
        assert look(12)[0] == "late"
        assert not Event.objects.get(subject=subject).is_open
        Event.objects.exclude(subject=subject).delete()


def test_many_customers_are_one_message_that_names_some() -> None:
    tree = books()
    for number in range(8):
        run = replace(RUN, run_id=str(number), job_name=tree.job_name)
        run = replace(run, tags={"organisation": f"Shop {number}"})
        event = RunEvent(run_events.FAILED, run, NOW, failures={"one": "no till"})
        events.record([event], Mark(NOW, {}), "s")
    alert = Alert.objects.get()
    assert alert.count == 8
    text = alert_delivery.message_of(alert).text
    assert "For: organisation: Shop 0; " in text
    assert "; 3 others" in text
    assert AlertState.objects.count() == 8
