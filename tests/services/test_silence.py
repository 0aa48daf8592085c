"""No daemon makes its passes: who notices it, and what probes are answered."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain.run_events import Mark
from proctree_dagster.models import (
    Alert,
    AlertDelivery,
    EventCursor,
    OutboxRun,
    OutboxState,
    ProcessTreeSchedule,
)
from proctree_dagster.services import alert_delivery, events, health, silence
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.receivers import web_server
from tests.tree_builder.code_of_trees import said

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("migrated_cursor")]


@pytest.fixture
def looked(settings: Settings) -> Callable[[float], dt.datetime]:
    """Let a daemon have made its last pass so many minutes ago."""
    settings.PROCTREE = {**settings.PROCTREE, "ALERTS": {"to": ["ada@example.com"]}}

    def at(minutes: float) -> dt.datetime:
        moment = timezone.now() - dt.timedelta(minutes=minutes)
        EventCursor.objects.update(looked_at=moment)
        return moment

    return at


def found(name: str) -> health.Check:
    return next(each for each in health.examine(timezone.now()) if each.name == name)


def test_a_silence_has_one_alert_whoever_notices_it(
    looked: Callable[[float], dt.datetime],
) -> None:
    looked(4)
    assert not silence.note(timezone.now())
    looked(6)
    assert [silence.note(timezone.now()) for _ in range(3)] == [True, False, False]
    said_of_it = alert_delivery.message_of(Alert.objects.get())
    assert said_of_it.subject == "No daemon looks"
    assert "nothing that is due runs" in said_of_it.text


def test_that_a_daemon_is_there_again_is_an_alert_too(
    looked: Callable[[float], dt.datetime],
) -> None:
    looked(6)
    silence.note(timezone.now())
    for _ in range(2):
        events.record([], Mark(timezone.now(), {}), "s")
    over = Alert.objects.order_by("pk").last()
    assert Alert.objects.count() == 2
    assert over is not None
    assert alert_delivery.message_of(over).subject == "Dagster's daemon works again"


def test_where_no_daemon_was_ever_started_there_is_no_alert(
    looked: Callable[[float], dt.datetime],
) -> None:
    EventCursor.objects.update(since=timezone.now() - dt.timedelta(days=1))
    assert not silence.note(timezone.now())
    assert not found("daemon").ok


@pytest.mark.usefixtures("real_dagster")
def test_the_probe_delivers_what_the_daemon_would(
    looked: Callable[[float], dt.datetime], settings: Settings
) -> None:
    looked(6)
    with web_server() as posts:
        hook = {"to": ["ops"], "webhooks": {"ops": f"http://127.0.0.1:{posts.port}/"}}
        settings.PROCTREE = {**settings.PROCTREE, "ALERTS": hook}
        for _ in range(2):
            status, text = said("health")
            assert status == 1
            assert "WRONG  daemon: The last pass of a daemon was 36" in text
    [(_path, _headers, body)] = posts.items
    assert body["kind"] == "silence"
    assert Alert.objects.get().state == AlertDelivery.DELIVERED


def test_the_overview_says_it_and_writes_nothing_itself(
    looked: Callable[[float], dt.datetime], admin_client: Client
) -> None:
    page = "/admin/proctree_dagster/overview/"
    looked(1)
    assert "They have not run yet." not in admin_client.get(page).content.decode()
    looked(6)
    assert "the sensor “proctree_alerts” on?" in admin_client.get(page).content.decode()
    EventCursor.objects.all().delete()
    assert "They have not run yet." in admin_client.get(page).content.decode()
    assert not EventCursor.objects.exists()


def test_all_is_well(looked: Callable[[float], dt.datetime]) -> None:
    looked(0)
    status, text = said("health", "--json")
    answer = json.loads(text)
    assert (status, answer["ok"]) == (0, True)
    names = [each["name"] for each in answer["checks"]]
    assert names == ["database", "daemon", "schedules", "outbox", "alerts", "disk"]


def test_each_check_finds_its_trouble(
    looked: Callable[[float], dt.datetime], settings: Settings, tmp_path: Path
) -> None:
    now = looked(0)
    tree = ProcessTreeInstance("books").add_process("one", func=processes.one).save()
    ProcessTreeInstance("books", tree_instance=tree).register_schedule()
    ProcessTreeSchedule.objects.update(next_run=now - dt.timedelta(minutes=30))
    late = found("schedules")
    assert (late.ok, round(late.value or 0)) == (False, 1800)
    assert "'books'" in late.message

    old = now - dt.timedelta(minutes=20)
    for kept in ({"after": ["x"]}, {"key": "k"}, {"run_after": now + dt.timedelta(hours=1)}):
        OutboxRun.objects.create(process_tree=tree, **kept)
    OutboxRun.objects.update(created_at=old, state=OutboxState.WAITING)
    assert found("outbox").ok
    OutboxRun.objects.create(process_tree=tree)
    assert found("outbox").ok
    OutboxRun.objects.update(created_at=old)
    assert (found("outbox").ok, round(found("outbox").value or 0)) == (False, 1200)

    moments = dict.fromkeys(("first_at", "last_at", "planned_at", "not_before"), now)
    Alert.objects.create(kind="late", recipient="x", state=AlertDelivery.GIVEN_UP, **moments)
    assert (found("alerts").ok, found("alerts").value) == (False, 1)

    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    assert (found("disk").value or 0) > 0


def test_a_check_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(now: dt.datetime) -> health.Check:
        raise OperationalError("the server is away")

    monkeypatch.setitem(health.CHECKS, "database", away)
    status, text = said("health")
    assert status == 1
    assert "WRONG  database: OperationalError: the server is away" in text
    assert "OK  outbox" in text
