"""The daemon's polls of its queue, in a real loop of Dagster's whose polls are counted."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
)
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from proctree_dagster.orchestration import queue_polls, queueing
from proctree_dagster.orchestration.dagster_features import QUEUE_POLLS
from proctree_dagster.orchestration.launching import wakeups
from proctree_dagster.orchestration.runs import family_runs
from proctree_dagster.support import isolation
from tests.tools.stack import wait_for

SELDOM = 600

ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", port=1), "trees"), "job"
)


class Polls:
    """A loop of the daemon in a thread, which notes when it polls."""

    def __init__(self, instance: DagsterInstance, seconds: float, lasts: float) -> None:
        self.at: list[float] = []
        self.end = threading.Event()
        self.daemon = QueuedRunCoordinatorDaemon(seconds)
        self.lasts = lasts
        self.daemon.run_iteration = self.poll  # type: ignore[method-assign,assignment]
        context: Any = SimpleNamespace(instance=instance)
        self.loop = self.daemon.core_loop(context, self.end)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def poll(self, *_: object) -> Iterator[None]:
        self.at.append(time.monotonic())
        time.sleep(self.lasts)
        yield None

    def run(self) -> None:
        for _ in self.loop:
            if self.end.is_set():
                break
        self.loop.close()

    def stop(self) -> None:
        self.end.set()
        self.thread.join(30)

    def count(self, number: int) -> None:
        wait_for(f"poll {number}", lambda: len(self.at) >= number)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop wait to be woken, and ask little, in this test alone."""
    for name in ("core_loop", "_get_runs_to_dequeue"):
        monkeypatch.setattr(
            QueuedRunCoordinatorDaemon, name, getattr(QueuedRunCoordinatorDaemon, name)
        )
    queue_polls.install()


@pytest.fixture
def polls(
    installed: None, instance: DagsterInstance, request: pytest.FixtureRequest
) -> Iterator[Polls]:
    seconds, lasts = getattr(request, "param", (SELDOM, 0.0))
    found = Polls(instance, seconds, lasts)
    try:
        found.count(1)
        yield found
    finally:
        found.stop()
    assert found.daemon.interval_seconds == seconds


def test_a_run_that_is_queued_is_polled_for_at_once(
    polls: Polls, instance: DagsterInstance
) -> None:
    run = create_run_for_test(
        instance, status=DagsterRunStatus.NOT_STARTED, remote_job_origin=ORIGIN
    )
    queueing.queue(instance, [run])
    polls.count(2)


def test_when_a_run_has_ended_the_queue_is_polled_for_at_once(
    polls: Polls, instance: DagsterInstance
) -> None:
    family_runs.end(instance, create_run_for_test(instance).run_id)
    polls.count(2)


def test_an_end_in_a_test_of_a_project_calls_no_daemon(
    polls: Polls, instance: DagsterInstance
) -> None:
    with isolation.forced():
        family_runs.end(instance, create_run_for_test(instance).run_id)
    time.sleep(1)
    assert len(polls.at) == 1


def test_without_a_call_the_daemon_polls_no_more_than_is_configured(polls: Polls) -> None:
    time.sleep(1.5)
    assert len(polls.at) == 1


@pytest.mark.parametrize("polls", [(0.2, 0.0)], indirect=True)
def test_without_a_call_the_daemon_polls_as_often_as_is_configured(polls: Polls) -> None:
    polls.count(3)


@pytest.mark.parametrize("polls", [(SELDOM, 0.3)], indirect=True)
def test_a_daemon_that_is_called_all_the_time_polls_for_a_sixth_of_it(
    polls: Polls, instance: DagsterInstance
) -> None:
    def called() -> bool:
        wakeups.wake(instance.root_directory)
        return len(polls.at) >= 3

    wait_for("two more polls", called)
    first, second, third = polls.at[:3]
    least = (1 + queue_polls.SHARE) * polls.lasts
    assert min(second - first, third - second) >= least


def test_once_the_daemon_can_be_woken_nothing_is_said_to_be_missing(polls: Polls) -> None:
    assert QUEUE_POLLS.problems() == []


def test_where_there_can_be_no_socket_the_daemon_polls_all_the_same(
    installed: None,
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(home: str) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(queue_polls, "Wakeups", refuse)
    polls = Polls(instance, 0.2, 0.0)
    try:
        polls.count(3)
    finally:
        polls.stop()
    assert "can't be woken" in caplog.text
    assert "not here" in caplog.text


# What a poll asks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[DagsterRunStatus]]:
    """Return of which statuses runs are read."""
    found: list[list[DagsterRunStatus]] = []

    def noting(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_noted(storage: object, filters: RunsFilter, *args: Any, **options: Any) -> Any:
            found.append(list(filters.statuses))
            return read(storage, filters, *args, **options)

        return read_noted

    for name in ("get_runs", "get_run_records"):
        monkeypatch.setattr(SqlRunStorage, name, noting(getattr(SqlRunStorage, name)))
    return found


def queued(instance: DagsterInstance) -> str:
    """Record a run that is queued, and return its id."""
    status = DagsterRunStatus.QUEUED
    run = create_run_for_test(instance, status=status, remote_job_origin=ORIGIN)
    return str(run.run_id)


def to_launch(instance: DagsterInstance) -> list[str]:
    """Return the ids of the runs that a poll launches."""
    found = QueuedRunCoordinatorDaemon(SELDOM)._get_runs_to_dequeue(
        instance, instance.get_concurrency_config(), fixed_iteration_time=None
    )
    return [run.run_id for run in found]


def test_a_poll_that_finds_nothing_queued_reads_no_run(
    installed: None, instance: DagsterInstance, asked: list[list[DagsterRunStatus]]
) -> None:
    for status in DagsterRunStatus:
        if status is not DagsterRunStatus.QUEUED:
            create_run_for_test(instance, status=status, remote_job_origin=ORIGIN)
    assert to_launch(instance) == []
    assert asked == []


def test_a_poll_that_finds_a_run_queued_asks_as_dagster_does(
    installed: None, instance: DagsterInstance, asked: list[list[DagsterRunStatus]]
) -> None:
    run_id = queued(instance)
    assert to_launch(instance) == [run_id]
    assert len(asked) == 2


def test_a_queued_run_waits_for_the_limit_as_before(
    installed: None, instance: DagsterInstance
) -> None:
    config = instance.get_concurrency_config().run_queue_config
    assert config is not None
    run_ids = [queued(instance) for _ in range(config.max_concurrent_runs + 1)]
    assert to_launch(instance) == run_ids[:-1]
    starting = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, "job")
    instance.run_storage.handle_run_event(run_ids[0], starting)
    assert to_launch(instance) == run_ids[1:-1]


def test_of_a_projects_own_storage_all_is_asked_as_dagster_does(
    installed: None, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queued(instance)

    class Other:
        """A storage that is none of Dagster's."""

        def __init__(self, real: object) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(instance, "_run_storage", Other(instance.run_storage))
    assert to_launch(instance) == [run_id]
