"""Timeouts: what is given up, what is tried again, and when."""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance

from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import ProcessTimeout, StillWorking
from proctree_dagster.orchestration.execution import remote_steps
from proctree_dagster.process import timeouts
from proctree_dagster.process.calling import run_to_end
from proctree_dagster.process.run import Process, run_process
from proctree_dagster.tree_builder import ProcessTreeInstance

SECONDS = 60.0


class Busy:
    """A function that outlives its timeout, and counts how many of it run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.calls = 0
        self.seconds = SECONDS
        self.end = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.running += 1
            self.calls += 1
            self.most = max(self.most, self.running)
        self.end.wait(self.seconds)
        with self._lock:
            self.running -= 1
        return "late"


@pytest.fixture
def busy() -> Iterator[Busy]:
    function = Busy()
    yield function
    function.end.set()


def call(func: Any, seconds: float, run_id: str = "run") -> Any:
    return timeouts.call(func, seconds, "p", run_id)


def test_a_try_waits_for_the_one_before_and_is_not_made_if_that_works_on(busy: Busy) -> None:
    with pytest.raises(ProcessTimeout, match="was abandoned; what it is doing can't be stopped"):
        call(busy, 0.1)
    assert timeouts.still_working("run") == ["p"]
    with pytest.raises(StillWorking, match="was not tried again: the try before"):
        call(busy, 0.1)
    assert (busy.calls, busy.most) == (1, 1)


class Interrupted(queue.SimpleQueue[Any]):
    """What a thread waits for when Ctrl-C reaches it."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt


def interrupted_by(monkeypatch: pytest.MonkeyPatch, how: type[Interrupted]) -> None:
    monkeypatch.setattr(timeouts, "queue", SimpleNamespace(SimpleQueue=how, Empty=queue.Empty))


def test_what_works_on_when_its_run_is_interrupted_is_known(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_by(monkeypatch, Interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(busy, SECONDS, "interrupted")
    assert timeouts.still_working("interrupted") == ["p"]


def test_a_coroutine_whose_run_is_interrupted_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, ended = threading.Event(), threading.Event()

    class InterruptedThen(Interrupted):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            begun.wait(SECONDS)
            raise KeyboardInterrupt

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.sleep(SECONDS)
        finally:
            ended.set()

    interrupted_by(monkeypatch, InterruptedThen)
    with pytest.raises(KeyboardInterrupt):
        call(lambda: run_to_end(waits()), SECONDS, "interrupted")
    assert ended.wait(SECONDS)


def test_a_try_is_made_when_the_one_before_has_ended(busy: Busy) -> None:
    with pytest.raises(ProcessTimeout):
        call(busy, 0.1)
    threading.Timer(0.2, busy.end.set).start()
    assert call(busy, SECONDS) == "late"
    assert (busy.calls, busy.most) == (2, 1)
    assert timeouts.still_working("run") == []


def test_the_same_process_of_another_run_does_not_wait(busy: Busy) -> None:
    with pytest.raises(ProcessTimeout):
        call(busy, 0.1)
    assert call(lambda: "at once", SECONDS, "another run") == "at once"


@pytest.mark.django_db
def test_a_coroutine_is_cancelled_and_may_be_tried_again(instance: DagsterInstance) -> None:
    said = []

    async def waits() -> str:
        said.append("begun")
        try:
            await asyncio.sleep(SECONDS if len(said) == 1 else 0)
        finally:
            said.append("ended")
        return "in time"

    tree = ProcessTreeInstance("tree").add_process("p", waits, timeout=1, retries=1)
    results = tree.execute()
    assert results["results"] == {"p": "in time"}
    assert said == ["begun", "ended", "begun", "ended"]
    [retry] = instance.all_logs(results["run_id"], of_type=DagsterEventType.STEP_UP_FOR_RETRY)
    assert retry.dagster_event is not None
    assert "and was cancelled." in str(retry.dagster_event.step_retry_data.error)


@pytest.mark.django_db
def test_a_coroutine_that_does_not_let_itself_be_cancelled_is_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "GRACE_SECONDS", 0.1)
    end = threading.Event()

    async def stubborn() -> None:
        while not end.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                time.sleep(0.01)

    process = Process(ProcessSpec("p", "f", timeout=0.2), stubborn)
    with pytest.raises(ProcessTimeout, match="was abandoned"):
        run_process(process, {}, {}, run_id="stubborn")
    end.set()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("required", [True, False])
def test_of_three_tries_no_two_run_at_once_and_it_is_said_which_was_not_made(
    instance: DagsterInstance, busy: Busy, required: bool
) -> None:
    tree = ProcessTreeInstance("tree")
    tree.add_process("slow", busy, timeout=0.3, retries=2, required=required)
    tree.add_process("beside", lambda: 1)
    results = tree.execute()
    assert results["success"] is not required
    assert results["status"] == {"slow": "failed", "beside": "completed"}
    assert "was not tried again: the try before" in results["errors"]["slow"]
    assert (busy.calls, busy.most) == (1, 1)
    log = "\n".join(each.user_message for each in instance.all_logs(results["run_id"]))
    assert "Process 'slow' was abandoned after its timeout and still works" in log


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("works_on", [True, False])
def test_what_works_on_in_another_process_is_not_tried_again(
    instance: DagsterInstance, busy: Busy, monkeypatch: pytest.MonkeyPatch, works_on: bool
) -> None:
    # As a Celery worker sees it: the next try may be another worker's.
    monkeypatch.setattr(remote_steps, "elsewhere", lambda context: nullcontext())
    monkeypatch.setattr(remote_steps, "is_elsewhere", lambda context: True)

    async def cancelled() -> None:
        busy.calls += 1
        await asyncio.sleep(SECONDS)

    tree = ProcessTreeInstance("tree")
    tree.add_process("slow", busy if works_on else cancelled, timeout=0.3, retries=1)
    results = tree.execute()
    assert results["status"] == {"slow": "failed"}
    assert busy.calls == (1 if works_on else 2)
    assert ("It is not tried again" in results["errors"]["slow"]) is works_on


@pytest.mark.django_db(transaction=True)
def test_a_pools_slot_is_held_while_what_was_abandoned_works(
    instance: DagsterInstance, busy: Busy, settings: Any
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "POOLS": {"narrow": 1}}
    running: list[int] = []
    tree = ProcessTreeInstance("tree")
    tree.add_process("slow", busy, timeout=0.3, pool="narrow", required=False)
    # It waits for the slot: nothing but the pool holds it back.
    tree.add_process(
        "next", lambda **_: running.append(busy.running), ["slow"], pool="narrow", required=False
    )
    busy.seconds = 2
    assert tree.execute()["status"] == {"slow": "failed", "next": "completed"}
    assert running == [0]


@pytest.mark.django_db(transaction=True)
def test_a_pools_slot_is_the_next_trys_once_what_was_abandoned_has_ended(
    instance: DagsterInstance, settings: Any
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "POOLS": {"narrow": 1}}
    lock, running, most, calls = threading.Lock(), [0], [0], [0]

    def works(seconds: list[float]) -> None:
        with lock:
            calls[0] += 1
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(seconds.pop(0))
        with lock:
            running[0] -= 1

    slow, other = [3.0, 1.5], [0.1]  # the second try is made when the first has ended
    tree = ProcessTreeInstance("tree")
    tree.add_process(
        *("first", lambda: works(slow)), timeout=2.0, retries=1, retry_delay=0, pool="narrow"
    )
    tree.add_process("second", lambda: works(other), pool="narrow")  # the steps go by their names
    tree.execute()
    assert calls[0] == 3
    assert most[0] == 1
