"""Sensors that rest: Dagster's own loop over sensors, and a real code server, started once."""

import datetime as dt
import json
import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, SensorEvaluationContext
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon import daemon  # noqa: F401  # the sensors' module can't be imported before it
from dagster._daemon import sensor as dagsters
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain import run_tags
from proctree_dagster.models import Alert, Event, OutboxRun, ProcessTree, RunWorker
from proctree_dagster.orchestration import idle_sensors
from proctree_dagster.orchestration.automation.alerts_sensor import alerts_sensor
from proctree_dagster.orchestration.automation.outbox_sensor import outbox_sensor
from proctree_dagster.orchestration.automation.retention_sensor import Cursor
from proctree_dagster.orchestration.idle_sensors import SENSORS, Rest, newest_event
from tests.tools.stack import Stack

# --- The daemon -----------------------------------------------------------------------------------


class Daemon:
    """A code server of the example, and the loop of the daemon over its sensors."""

    def __init__(self, folder: Path) -> None:
        self._stack = Stack(folder)
        self._stack.migrate()
        origin = self._stack.serve_code()
        self.instance = DagsterInstance.from_config(str(self._stack.home))
        target = GrpcServerTarget(
            host="127.0.0.1", port=origin.port, socket=None, location_name=run_tags.LOCATION
        )
        self._workspace = WorkspaceProcessContext(self.instance, target)
        self.look()  # it records each sensor, and calls it

    def look(self) -> set[str]:
        """Let the loop look at each sensor once, as if its interval was over; return the called."""
        for state in self.instance.all_instigator_state():
            data: Any = state.instigator_data
            past = data._replace(last_tick_timestamp=1.0, last_tick_start_timestamp=1.0)
            self.instance.update_instigator_state(state.with_data(past))
        before = {name: len(ticks) for name, ticks in self.ticks().items()}
        logger = logging.getLogger("sensors")
        passed = dagsters.execute_sensor_iteration(self._workspace, logger, None, None)
        assert not any(list(passed)), "it yields errors"
        after = self.ticks()
        assert all(ticks[0].status.value == "SKIPPED" for ticks in after.values())
        return {name for name, ticks in after.items() if len(ticks) > before.get(name, 0)}

    def ticks(self) -> dict[str, list[InstigatorTick]]:
        return {
            state.instigator_name: list(
                self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
            )
            for state in self.instance.all_instigator_state()
        }

    def stop(self) -> None:
        self._workspace.__exit__(None, None, None)
        self.instance.dispose()
        self._stack.stop()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("daemon"))
    yield found
    found.stop()


@pytest.fixture
def resting(stock: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The daemon, with sensors that rest."""
    monkeypatch.setattr(dagsters, "is_under_min_interval", dagsters.is_under_min_interval)
    idle_sensors.install(stock.instance)
    stock.look()
    stock.look()  # two passes without an event
    return stock


def test_a_sensor_that_has_found_nothing_is_not_called_for_a_while(resting: Daemon) -> None:
    assert resting.look() == set()


def test_without_it_each_sensor_is_called_at_its_interval(stock: Daemon) -> None:
    assert stock.look() == stock.look() == SENSORS


def test_an_event_of_a_run_ends_the_rest(resting: Daemon) -> None:
    run = create_run_for_test(resting.instance)
    resting.instance.report_run_canceled(run)
    called = {run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR}
    assert resting.look() == called, "retention waits for no event"
    assert resting.look() == called, "it rests after two passes without an event"
    assert resting.look() == set()


def test_a_rest_ends_by_itself(resting: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    later = SimpleNamespace(time=lambda: time.time() + 31)
    monkeypatch.setattr(idle_sensors, "time", later)
    assert resting.look() == {run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR}
    monkeypatch.setattr(idle_sensors, "time", SimpleNamespace(time=lambda: time.time() + 301))
    assert resting.look() == SENSORS


def test_a_cursor_that_was_reset_in_dagsters_ui_ends_the_rest(resting: Daemon) -> None:
    for state in resting.instance.all_instigator_state():
        data: Any = state.instigator_data
        reset = state.with_data(data._replace(cursor=None))
        resting.instance.update_instigator_state(reset)
    assert resting.look() == SENSORS


def test_a_sensor_of_the_projects_own_is_called_whatever_its_cursor_says(resting: Daemon) -> None:
    for state in resting.instance.all_instigator_state():
        ours: Any = SimpleNamespace(name=state.instigator_name, min_interval_seconds=1)
        theirs: Any = SimpleNamespace(name="theirs", min_interval_seconds=1)
        data: Any = state.instigator_data
        past = data._replace(last_tick_timestamp=1.0, last_tick_start_timestamp=1.0)
        assert dagsters.is_under_min_interval(state.with_data(past), ours)
        assert not dagsters.is_under_min_interval(state.with_data(past), theirs)


# --- What is said ---------------------------------------------------------------------------------


@given(
    st.one_of(st.none(), st.text(), st.floats().map(str), st.lists(st.integers()).map(json.dumps))
)
def test_a_cursor_that_says_something_else_is_no_rest(text: str | None) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert not Rest.read(text).lasts(instance)


@given(st.floats(allow_nan=False, allow_infinity=False), st.one_of(st.none(), st.integers()))
def test_a_rest_is_read_as_it_was_written(until: float, event: int | None) -> None:
    assert Rest.read(Rest(until, event).write()) == Rest(until, event)


def test_a_rest_that_another_clock_has_made_too_long_is_none() -> None:
    with DagsterInstance.ephemeral() as instance:
        assert Rest(time.time() + 500).lasts(instance)
        assert not Rest(time.time() + 700).lasts(instance)
        assert not Rest(time.time() - 1).lasts(instance)


def test_retention_keeps_where_it_was_while_it_rests() -> None:
    cursor = Cursor(job="close", rests_until=5.0, swept_at=7.0, idle_until=9.0)
    assert Cursor.read(cursor.write()) == cursor
    assert Rest.read(cursor.write()) == Rest(9.0, None)


# --- What keeps a sensor awake --------------------------------------------------------------------


class Sensor:
    """The ticks of a sensor, one after the other, as a code server makes them."""

    def __init__(self, definition: Any, instance: DagsterInstance) -> None:
        self.definition, self.instance, self.cursor = definition, instance, ""

    def rests(self) -> bool:
        """Return whether it rests after another tick."""
        with SensorEvaluationContext(
            instance_ref=self.instance.get_ref(),
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self.cursor,
            repository_name=None,
            sensor_name=self.definition.name,
        ) as context:
            self.definition.evaluate_tick(context)
            self.cursor = context.cursor or ""
        return Rest.read(self.cursor).lasts(self.instance)


@pytest.fixture
def outbox(instance: DagsterInstance, migrated_cursor: None) -> Sensor:
    sensor = Sensor(outbox_sensor(), instance)
    assert not sensor.rests()
    assert sensor.rests()
    return sensor


@pytest.fixture
def alerts(instance: DagsterInstance, migrated_cursor: None) -> Sensor:
    sensor = Sensor(alerts_sensor(), instance)
    assert not sensor.rests()
    assert sensor.rests()
    return sensor


@pytest.fixture
def tree() -> ProcessTree:
    return ProcessTree.objects.create(name="close")


@pytest.mark.django_db
def test_a_request_that_waits_keeps_the_outbox_awake(outbox: Sensor, tree: ProcessTree) -> None:
    unknown = str(uuid.uuid4())
    row = OutboxRun.objects.create(run_id=uuid.uuid4(), process_tree=tree, after=[unknown])
    row.run_after = timezone.now() + dt.timedelta(seconds=15)
    row.save()
    assert not outbox.rests(), "its time comes before the rest would end"
    row.run_after = timezone.now() + dt.timedelta(hours=1)
    row.save()
    assert outbox.rests(), "its time comes later"


@pytest.mark.django_db
def test_a_run_under_way_keeps_the_outbox_awake(outbox: Sensor) -> None:
    run = create_run_for_test(outbox.instance, status=DagsterRunStatus.STARTED)
    assert not outbox.rests()
    assert not outbox.rests(), "its worker may be lost"
    outbox.instance.report_run_canceled(run)
    assert not outbox.rests()
    assert outbox.rests()


@pytest.mark.django_db
def test_a_worker_that_is_not_known_to_have_ended_keeps_the_outbox_awake(outbox: Sensor) -> None:
    now = timezone.now()
    RunWorker.objects.create(run_id=str(uuid.uuid4()), host="elsewhere", taken_at=now, beat_at=now)
    assert not outbox.rests()


@pytest.mark.django_db
def test_an_alert_that_is_to_be_delivered_keeps_the_alerts_awake(
    alerts: Sensor, tree: ProcessTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    alert = Alert.objects.create(
        kind="late",
        tree="close",
        recipient="a@b.example",
        first_at=now,
        last_at=now,
        planned_at=now,
        not_before=now + dt.timedelta(seconds=20),
    )
    assert not alerts.rests(), "its time comes before the rest would end"
    Alert.objects.filter(pk=alert.pk).update(not_before=now + dt.timedelta(hours=1))
    assert alerts.rests()


@pytest.mark.django_db
def test_an_event_that_is_not_sent_keeps_the_alerts_awake(alerts: Sensor) -> None:
    later = timezone.now() + dt.timedelta(minutes=5)
    Event.objects.create(kind="run_failed", subject="x", tree="close", at=later, leased_until=later)
    assert not alerts.rests()


@pytest.mark.django_db
def test_a_storage_that_numbers_no_events_lets_no_sensor_rest(
    outbox: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = outbox.instance.event_log_storage
    monkeypatch.setattr(
        type(storage), "get_maximum_record_id", EventLogStorage.get_maximum_record_id
    )
    assert newest_event(outbox.instance) is None
    assert not outbox.rests()
