"""Sensors that rest: Dagster's own loop over sensors, and a real code server, started once."""

import datetime as dt
import inspect
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
from dagster._core.remote_representation.grpc_server_registry import GrpcServerRegistry
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon import daemon  # noqa: F401  # the sensors' module can't be imported before it
from dagster._daemon import sensor as dagsters
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain import run_tags
from proctree_dagster.models import Alert, Event, OutboxRun, ProcessTree, RunWorker
from proctree_dagster.orchestration import idle_sensors
from proctree_dagster.orchestration.automation import passes
from proctree_dagster.orchestration.automation.alerts_sensor import alerts_sensor
from proctree_dagster.orchestration.automation.outbox_sensor import outbox_sensor
from proctree_dagster.orchestration.automation.retention_sensor import Cursor
from proctree_dagster.orchestration.idle_sensors import SECONDS, Rest, newest_event
from proctree_dagster.services import run_outbox
from tests.tools.stack import Stack

ALL = set(SECONDS)

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

    def look(self, seconds: float | None = None) -> set[str]:
        """Let the loop look at each sensor, some time after its last tick; return the called.

        If left out, it is just after the sensor's interval.
        """
        for state in self.instance.all_instigator_state():
            data: Any = state.instigator_data
            at = time.time() - (data.min_interval + 1 if seconds is None else seconds)
            past = data._replace(last_tick_timestamp=at, last_tick_start_timestamp=at)
            self.instance.update_instigator_state(state.with_data(past))
        before = {name: len(ticks) for name, ticks in self.ticks().items()}
        logger = logging.getLogger("sensors")
        passed = dagsters.execute_sensor_iteration(self._workspace, logger, None, None)
        assert not any(list(passed)), "it yields errors"
        after = self.ticks()
        assert all(ticks[0].status.value == "SKIPPED" for ticks in after.values())
        return {name for name, ticks in after.items() if len(ticks) > before.get(name, 0)}

    def set_cursors(self, text: str | None) -> None:
        """Set each cursor, as Dagster's UI does."""
        for state in self.instance.all_instigator_state():
            data: Any = state.instigator_data
            self.instance.update_instigator_state(state.with_data(data._replace(cursor=text)))

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


@pytest.fixture(autouse=True)
def _as_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as Dagster is, whatever a test before has installed in this process."""
    dagsters_own = inspect.unwrap(dagsters.is_under_min_interval)
    monkeypatch.setattr(dagsters, "is_under_min_interval", dagsters_own)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("daemon"))
    yield found
    found.stop()


@pytest.fixture
def resting(stock: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The daemon, some minutes after its start, with sensors that have found nothing."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() - 600)
    with monkeypatch.context() as patched:
        patched.setattr(idle_sensors, "time", clock)
        idle_sensors.install(stock.instance)
    stock.instance.report_run_canceled(create_run_for_test(stock.instance))
    stock.look()
    stock.look()  # two passes without an event between
    return stock


def test_a_sensor_that_has_found_nothing_is_not_called_for_a_while(resting: Daemon) -> None:
    assert resting.look() == set()


def test_without_it_each_sensor_is_called_at_its_interval(stock: Daemon) -> None:
    assert stock.look() == stock.look() == ALL


def test_the_coordinator_installs_it_in_the_daemon(
    stock: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        (QueuedRunCoordinatorDaemon, "core_loop"),
        (QueuedRunCoordinatorDaemon, "_get_runs_to_dequeue"),
        (GrpcServerRegistry, "clear_all_grpc_endpoints"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    assert not hasattr(dagsters.is_under_min_interval, "__wrapped__")
    coordinator: Any = stock.instance.run_coordinator
    assert coordinator.dequeue_interval_seconds == 1  # which the daemon reads when it starts
    assert hasattr(dagsters.is_under_min_interval, "__wrapped__")


def test_an_event_of_a_run_ends_the_rest(resting: Daemon) -> None:
    resting.instance.report_run_canceled(create_run_for_test(resting.instance))
    called = {run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR}
    assert resting.look() == called, "retention waits for no event"
    assert resting.look() == called, "it rests after two passes without an event"
    assert resting.look() == set()


def test_a_rest_ends_by_itself(resting: Daemon) -> None:
    soon = {run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR}
    assert resting.look(seconds=16) == set()
    assert resting.look(seconds=26) == soon
    assert resting.look(seconds=301) == ALL


def test_what_was_said_before_the_daemon_began_counts_no_longer(resting: Daemon) -> None:
    idle_sensors.install(resting.instance)
    assert resting.look() == ALL


def test_a_cursor_that_was_reset_in_dagsters_ui_ends_the_rest(resting: Daemon) -> None:
    resting.set_cursors(None)
    assert resting.look() == ALL


UNREADABLE = {
    "brackets": "[" * 100_000,
    "infinity": '{"is_idle": true, "last_event": Infinity}',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_a_cursor_that_cant_be_read_keeps_no_sensor_from_being_called(
    resting: Daemon, text: str
) -> None:
    resting.set_cursors(text)
    assert resting.look() == ALL


def test_a_storage_that_cant_be_read_keeps_no_sensor_from_being_called(
    resting: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(instance: DagsterInstance) -> int:
        raise OSError("The disk is away.")

    monkeypatch.setattr(idle_sensors, "newest_event", away)
    assert resting.look() == {run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR}
    assert "proctree_outbox rests can't be found out" in caplog.text
    assert "The disk is away." in caplog.text


def test_a_sensor_of_the_projects_own_is_called_whatever_its_cursor_says(resting: Daemon) -> None:
    for state in resting.instance.all_instigator_state():
        ours: Any = SimpleNamespace(name=state.instigator_name, min_interval_seconds=1)
        theirs: Any = SimpleNamespace(name="theirs", min_interval_seconds=1)
        data: Any = state.instigator_data
        at = time.time() - 5
        past = state.with_data(data._replace(last_tick_timestamp=at, last_tick_start_timestamp=at))
        assert dagsters.is_under_min_interval(past, ours)
        assert not dagsters.is_under_min_interval(past, theirs)


# --- What is said ---------------------------------------------------------------------------------

ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())


@given(
    st.one_of(
        *(st.none(), st.text(), st.lists(st.integers()).map(json.dumps)),
        st.fixed_dictionaries({"is_idle": ANYTHING, "last_event": ANYTHING}).map(json.dumps),
    )
)
def test_any_text_is_read_and_only_what_says_so_is_a_rest(text: str | None) -> None:
    found = Rest.read(text)
    assert not found.is_idle or json.loads(text or "")["is_idle"] is True
    assert found.last_event is None or type(found.last_event) is int


@given(st.booleans(), st.one_of(st.none(), st.integers()))
def test_a_rest_is_read_as_it_was_written(is_idle: bool, event: int | None) -> None:
    assert Rest.read(Rest(is_idle, event).write()) == Rest(is_idle, event)


def test_retention_keeps_where_it_was_while_it_rests() -> None:
    cursor = Cursor(job="close", rests_until=5.0, swept_at=7.0, is_idle=True)
    assert Cursor.read(cursor.write()) == cursor
    assert Rest.read(cursor.write()) == Rest(is_idle=True, last_event=None)


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
        return Rest.read(self.cursor).is_idle


@pytest.fixture
def outbox(instance: DagsterInstance, migrated_cursor: None) -> Sensor:
    instance.report_run_canceled(create_run_for_test(instance))
    sensor = Sensor(outbox_sensor(), instance)
    assert not sensor.rests()
    assert sensor.rests()
    return sensor


@pytest.fixture
def alerts(instance: DagsterInstance, migrated_cursor: None) -> Sensor:
    instance.report_run_canceled(create_run_for_test(instance))
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
    alerts: Sensor, tree: ProcessTree
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
def test_a_storage_that_numbers_no_events_lets_neither_rest(
    outbox: Sensor, alerts: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = EventLogStorage.get_maximum_record_id
    monkeypatch.setattr(type(outbox.instance.event_log_storage), "get_maximum_record_id", ask)
    assert newest_event(outbox.instance) is None
    assert not outbox.rests()
    assert not alerts.rests()


@pytest.mark.django_db
def test_a_pass_is_made_though_the_newest_event_cant_be_read(
    outbox: Sensor,
    alerts: Sensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(instance: DagsterInstance) -> int:
        raise OSError("The disk is away.")

    monkeypatch.setattr(passes, "newest_event", away)
    assert not outbox.rests()
    assert not alerts.rests()
    assert caplog.text.count("The newest event can't be read.") == 2


@pytest.mark.django_db
def test_a_pass_that_is_done_is_no_failure_though_what_is_left_cant_be_found_out(
    outbox: Sensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(until: object = None) -> bool:
        raise OSError("The disk is away.")

    monkeypatch.setattr(run_outbox, "is_open", away)
    assert not outbox.rests()
    assert "Whether anything is left to do can't be found out." in caplog.text
