"""The daemon's polls of its queue, in a real loop of Dagster's whose polls are counted."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from proctree_dagster.orchestration import queue_polls, queueing
from proctree_dagster.orchestration.dagster_features import QUEUE_POLLS
from proctree_dagster.orchestration.launching import wakeups
from proctree_dagster.orchestration.runs import family_runs
from proctree_dagster.support import isolation
from tests.tools.stack import wait_for

SELDOM = 600


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
    """Let the loop wait to be woken, in this test alone."""
    monkeypatch.setattr(
        QueuedRunCoordinatorDaemon, "core_loop", QueuedRunCoordinatorDaemon.core_loop
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
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", port=1), "trees"), "job"
    )
    run = create_run_for_test(
        instance, status=DagsterRunStatus.NOT_STARTED, remote_job_origin=origin
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
