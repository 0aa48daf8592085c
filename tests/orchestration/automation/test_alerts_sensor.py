"""Signals and alerts: what a pass of the sensor finds in Dagster's storage, and does once."""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    build_sensor_context,
)
from django.db import connection
from django.dispatch import Signal
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster import signals
from proctree_dagster.domain import run_events, run_tags
from proctree_dagster.domain.alert_rules import Message
from proctree_dagster.domain.alert_settings import FAILURE, RECOVERED, THIRD_FAILURE
from proctree_dagster.functions import process_function
from proctree_dagster.models import Alert, AlertDelivery, Event, EventCursor, ProcessTree
from proctree_dagster.orchestration.automation import alerts_sensor
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.running import tree_runs
from proctree_dagster.services import alert_delivery, events
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.receivers import mail_server, mail_settings, web_server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("migrated_cursor")]

Heard = list[tuple[str, dict[str, Any]]]


@process_function("tests.till")
def till(shop: str = "corner") -> str:
    """Return a shop's takings."""
    if shop == "nowhere":
        raise FileNotFoundError(f"till-{shop}.csv")
    return shop


def save(name: str = "takings", **options: Any) -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name, **options)
    tree.add_process("read the till", func=till)
    tree.save()
    return tree


def run(name: str = "takings", **context: Any) -> str:
    """Run a tree, and return its run's id."""
    row = ProcessTree.objects.get(name=name)
    return str(tree_runs.execute_row(row, context)["run_id"])


def note(
    instance: DagsterInstance, *, fails: bool = True, at: float | None = None, **tags: str
) -> str:
    """Record a run that nothing has executed, and return its id."""
    run_id = str(uuid.uuid4())
    tags = {run_tags.TREE: "takings", **tags}
    instance.add_run(DagsterRun("takings", run_id, status=DagsterRunStatus.STARTED, tags=tags))
    kind = DagsterEventType.PIPELINE_FAILURE if fails else DagsterEventType.PIPELINE_SUCCESS
    event = DagsterEvent(kind.value, "takings", message="till-nowhere.csv" if fails else None)
    instance.report_dagster_event(event, run_id, timestamp=at)
    return run_id


@pytest.fixture
def alerts_to(settings: Settings) -> Callable[..., None]:
    """Let a test say who gets which alerts."""

    def set_to(*to: str, **options: Any) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "ALERTS": {"to": to, **options}}

    return set_to


@contextmanager
def listening(*names: str) -> Iterator[Heard]:
    """Receive signals."""
    heard: Heard = []
    receivers: list[tuple[Signal, Any]] = []
    for name in names:

        def receive(name: str = name, **given: Any) -> None:
            heard.append((name, given))

        signals.SIGNALS[name].connect(receive, weak=False)
        receivers.append((signals.SIGNALS[name], receive))
    try:
        yield heard
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)


def pass_time(**delta: float) -> None:
    """Let time pass for alerts that wait."""
    for alert in Alert.objects.all():
        alert.planned_at -= dt.timedelta(**delta)
        alert.not_before -= dt.timedelta(**delta)
        alert.save()


def test_the_repository_has_the_sensor_which_is_on(instance: DagsterInstance) -> None:
    sensor = LiveRepositoryData(ProcessTreeTranslator()).get_sensor(run_tags.ALERTS_SENSOR)
    data = sensor.evaluate_tick(build_sensor_context(instance=instance, sensor_name=sensor.name))
    assert data.skip_message == "Nothing has happened."


def test_each_event_of_a_run_is_sent_once(instance: DagsterInstance) -> None:
    save()
    with listening("run_started", "run_succeeded", "run_failed", "process_failed") as heard:
        good, bad = run(shop="corner"), run(shop="nowhere")
        for _ in range(3):
            alerts_sensor.look(instance)
    assert [(name, given["run"].run_id) for name, given in heard] == [
        ("run_started", good),
        ("run_succeeded", good),
        ("run_started", bad),
        ("run_failed", bad),
        ("process_failed", bad),
    ]
    failed, process = heard[3][1], heard[4][1]
    assert failed["sender"] is ProcessTree
    assert failed["tree"] == "takings"
    assert failed["will_retry"] is False
    assert "till-nowhere.csv" in failed["run"].failures["read the till"]
    assert process["process"] == "read the till"
    assert "till-nowhere.csv" in process["error"]


def test_a_receiver_that_fails_stops_no_other(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    save()

    def fail(**_: Any) -> None:
        raise RuntimeError("no ticket today")

    signals.run_failed.connect(fail)
    try:
        with listening("run_failed") as heard:
            note(instance)
            alerts_sensor.look(instance)
            alerts_sensor.look(instance)
    finally:
        signals.run_failed.disconnect(fail)
    assert len(heard) == 1
    assert "no ticket today" in caplog.text


def test_a_process_that_may_fail_is_told_though_its_run_succeeds(
    instance: DagsterInstance,
) -> None:
    tree = ProcessTreeInstance("takings")
    tree.add_process("optional", func=processes.fail, required=False)
    tree.save()
    with listening("process_failed", "run_failed", "run_succeeded") as heard:
        run()
        alerts_sensor.look(instance)
    assert [name for name, _ in heard] == ["run_succeeded", "process_failed"]
    assert heard[1][1]["process"] == "optional"


def test_what_nobody_hears_leaves_no_row(instance: DagsterInstance) -> None:
    save()
    note(instance, fails=False)
    alerts_sensor.look(instance)
    assert [each.kind for each in Event.objects.all()] == ["run_succeeded"]


def test_a_run_that_failed_before_the_first_pass_is_told(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    alerts_to("ada@example.com")
    save()
    note(instance)
    assert EventCursor.objects.get().looked_at is None
    alerts_sensor.look(instance)
    assert Alert.objects.get().kind == FAILURE


def test_what_failed_before_there_were_alerts_is_not_told(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    alerts_to("ada@example.com")
    save()
    note(instance)
    EventCursor.objects.update(since=timezone.now())
    alerts_sensor.look(instance)
    assert not Alert.objects.exists()


def test_an_event_that_the_database_commits_after_a_later_one_is_not_missed(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    with listening("run_failed") as heard:
        first = note(instance)
        second = note(instance)
        real = instance.fetch_run_status_changes

        def without_first(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            kept = [each for each in found.records if each.run_id != first]
            return type(found)(kept, found.cursor, found.has_more)

        monkeypatch.setattr(instance, "fetch_run_status_changes", without_first)
        alerts_sensor.look(instance)
        monkeypatch.undo()
        alerts_sensor.look(instance)
    assert [given["run"].run_id for _, given in heard] == [second, first]


def test_more_events_than_are_read_at_once_keep_their_order(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    monkeypatch.setattr("proctree_dagster.orchestration.runs.run_events.MOST", 2)
    shops = ["nowhere", "corner", "corner", "corner", "nowhere"]
    with listening("run_failed", "run_succeeded") as heard:
        made = [note(instance, fails=shop == "nowhere") for shop in shops]
        alerts_sensor.look(instance)
    assert [given["run"].run_id for _, given in heard] == made


@pytest.mark.timeout(60)
def test_a_clock_that_is_set_back_stops_no_reading(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    monkeypatch.setattr("proctree_dagster.orchestration.runs.run_events.MOST", 2)
    monkeypatch.setattr(alerts_sensor, "READING_SECONDS", 5)
    now = timezone.now().timestamp()
    with listening("run_failed", "run_succeeded") as heard:
        for ahead in (3600, 0, 1, 3600, 2):
            note(instance, at=now + ahead)
            note(instance, fails=False, at=now + ahead)
        alerts_sensor.look(instance)
    assert len(heard) == 10


def test_another_storage_is_read_from_the_last_look_on(instance: DagsterInstance) -> None:
    save()
    with listening("run_failed") as heard:
        note(instance)
        a_while_later = timezone.now() + run_events.OVERLAP
        new = note(instance)
        # To an older copy of this storage: its numbers are lower, and its events long known.
        high = [{"at": "2020-01-01T00:00:00+00:00", "positions": {"run_failed": 10**6}}]
        EventCursor.objects.update(storage="another", marks=high, looked_at=a_while_later)
        alerts_sensor.look(instance)
        alerts_sensor.look(instance)
    assert [given["run"].run_id for _, given in heard] == [new]


def test_a_storage_that_was_emptied_is_read_from_its_beginning(instance: DagsterInstance) -> None:
    save()
    with listening("run_failed") as heard:
        note(instance)
        alerts_sensor.look(instance)
        row = EventCursor.objects.get()
        old = (timezone.now() - dt.timedelta(minutes=5)).isoformat()
        row.marks = [{"at": old, "positions": {"run_failed": 10**6}}]
        row.save()
        again = note(instance)
        alerts_sensor.look(instance)
    assert heard[-1][1]["run"].run_id == again
    assert len(heard) == 2


def test_a_run_that_dagster_repeats_raises_no_alert(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    alerts_to("ada@example.com")
    save()
    run_id = note(instance)
    instance.add_run_tags(run_id, {run_tags.WILL_RETRY: "true"})
    with listening("run_failed") as heard:
        alerts_sensor.look(instance)
    assert heard[0][1]["will_retry"] is True
    assert not Alert.objects.exists()


def test_a_run_whose_worker_died_is_told(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    alerts_to("ada@example.com")
    save()
    run_id = note(instance, fails=False)
    # As the daemon ends it: with an event, and nothing from the run's own process.
    died = instance.get_run_by_id(run_id)
    assert died is not None
    instance.report_dagster_event(
        DagsterEvent(
            DagsterEventType.PIPELINE_FAILURE.value, died.job_name, message="Its worker is lost."
        ),
        run_id,
    )
    alerts_sensor.look(instance)
    alert = Alert.objects.get()
    assert alert.facts["failures"] == {"": "Its worker is lost."}


def test_a_mail_says_what_failed_and_a_link_leads_there(
    instance: DagsterInstance, alerts_to: Callable[..., None], settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SITE_URL": "https://books.example.com"}
    with mail_server(failing=2) as mails, web_server(failing=2) as posts:
        for name, value in mail_settings(mails.port).items():
            setattr(settings, name, value)
        hook = f"http://127.0.0.1:{posts.port}/hook?token=secret"
        alerts_to("ada@example.com", "chat", webhooks={"chat": hook})
        save()
        run_id = run(shop="nowhere")
        said = [alerts_sensor.look(instance)]
        assert "could not be delivered" in said[0]
        failed = Alert.objects.filter(state=AlertDelivery.WAITING, attempts=1)
        assert failed.count() == 2
        assert "503" in failed.get(recipient="chat").reason
        assert "secret" not in failed.get(recipient="chat").reason
        assert "451" in failed.get(recipient="ada@example.com").reason
        for _ in range(5):
            pass_time(minutes=5)
            alerts_sensor.look(instance)
    [(to, subject, text)] = mails.items
    assert to == ["ada@example.com"]
    assert subject == "[Django] takings failed"
    assert "Process read the till: FileNotFoundError: till-nowhere.csv" in text
    assert f"https://books.example.com/admin/proctree_dagster/run/{run_id}/" in text
    [(path, _headers, body)] = posts.items
    assert path == "/hook?token=secret"
    assert body["text"].startswith("The process tree 'takings' failed.")
    assert body["run_id"] == run_id
    assert {each.state for each in Alert.objects.all()} == {AlertDelivery.DELIVERED}
    assert [each.attempts for each in Alert.objects.all()] == [3, 3]


def test_a_webhook_gets_the_body_that_the_settings_say(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    with web_server() as posts:
        ntfy = {
            "url": f"http://127.0.0.1:{posts.port}/",
            "headers": {"Authorization": "Bearer tk"},
            "body": {"topic": "{books}", "title": "{subject}", "tags": ["x-{kind}"], "priority": 4},
        }
        alerts_to("ntfy", webhooks={"ntfy": ntfy})
        save()
        note(instance)
        alerts_sensor.look(instance)
    [(_path, headers, body)] = posts.items
    assert headers["Authorization"] == "Bearer tk"
    assert body == {
        "topic": "{books}",
        "title": "takings failed",
        "tags": ["x-failure"],
        "priority": 4,
    }


def test_a_webhook_that_leads_elsewhere_has_not_taken_it(
    alerts_to: Callable[..., None], real_dagster: None
) -> None:
    with web_server() as posts:
        posts.answer = 302
        alerts_to("chat", webhooks={"chat": f"http://127.0.0.1:{posts.port}/"})
        with pytest.raises(HTTPError, match="302"):
            alert_delivery.send("chat", Message("s", "t", {}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own imports
def test_apprise_delivers_too(instance: DagsterInstance, alerts_to: Callable[..., None]) -> None:
    with web_server() as posts:
        alerts_to("phone", apprise={"phone": f"json://127.0.0.1:{posts.port}/"})
        save()
        note(instance)
        alerts_sensor.look(instance)
    [(_path, _headers, body)] = posts.items
    assert (body["title"], body["message"][:16]) == ("takings failed", "The process tree")


def test_a_storm_is_one_message_and_one_with_a_count(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    with web_server() as posts:
        hook = f"http://127.0.0.1:{posts.port}/"
        alerts_to("chat", on=[FAILURE], webhooks={"chat": hook}, every_minutes=15)
        save()
        for _ in range(4):
            note(instance)
            alerts_sensor.look(instance)
        assert len(posts.items) == 1
        pass_time(minutes=16)
        alerts_sensor.look(instance)
        alerts_sensor.look(instance)
    first, second = (body for _, _, body in posts.items)
    assert (first["count"], second["count"]) == (1, 3)
    assert second["subject"] == "takings failed, 3 times"


def test_the_third_failure_in_a_row_and_the_recovery_are_told(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    alerts_to("ada@example.com", on=[THIRD_FAILURE, RECOVERED])
    save()
    for shop in ("nowhere", "nowhere", "corner", *["nowhere"] * 4, "corner", "corner"):
        note(instance, fails=shop == "nowhere")
    alerts_sensor.look(instance)
    told = [(each.kind, each.count) for each in Alert.objects.order_by("pk")]
    assert told == [(RECOVERED, 2), (THIRD_FAILURE, 1)]


def test_events_of_a_row_that_sql_has_broken_are_left_out(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    save()
    with listening("run_failed") as heard:
        note(instance)
        reading_off = alerts_sensor._note(instance)
        assert reading_off == "1 events"
        with connection.cursor() as cursor:
            cursor.execute("UPDATE proctree_dagster_event SET data = '[1]'")
            cursor.execute("UPDATE proctree_dagster_eventcursor SET marks = '{\"a\": 1}'")
        alerts_sensor.look(instance)
        assert heard == []
        note(instance)
        alerts_sensor.look(instance)
    assert len(heard) == 1
    assert "can't be read" in caplog.text


def test_old_events_are_cleared(instance: DagsterInstance) -> None:
    save()
    note(instance)
    alerts_sensor.look(instance)
    Event.objects.update(sent_at=timezone.now() - events.RETENTION - dt.timedelta(minutes=1))
    alerts_sensor.look(instance)
    assert not Event.objects.exists()


def test_without_a_daemon_what_runs_the_schedules_makes_the_pass(
    instance: DagsterInstance, alerts_to: Callable[..., None]
) -> None:
    save()
    note(instance)
    check_and_run_scheduled_tasks()
    assert EventCursor.objects.get().looked_at is None, "nobody would get anything"
    alerts_to("ada@example.com")
    check_and_run_scheduled_tasks()
    assert Alert.objects.count() == 1
    note(instance)
    check_and_run_scheduled_tasks()
    assert Event.objects.count() == 1, "another pass was made within a minute"
