"""How far a requested run is, and waiting for its results."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterInstance
from django.db import connections, transaction

from proctree_dagster import runs
from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import HistoryUnavailable, RunError, RunNotFinished, RunNotFound
from proctree_dagster.models import OutboxRun, OutboxState
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import repeating
from proctree_dagster.running import dagster_loading, results, run_history, tree_runs, waiting
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes, waited
from tests.running.delivered import run_now
from tests.tools.noted_connections import noted_in

pytestmark = pytest.mark.django_db
THREADS = pytest.mark.django_db(transaction=True)  # other threads see what is saved


@pytest.fixture(autouse=True)
def loaded() -> None:
    assert dagster_loading.wait(60)


@pytest.fixture
def close(instance: DagsterInstance) -> None:
    """A tree that succeeds: its last process depends on the others."""
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.add_process("two", func=processes.two)
    tree.add_process("sum", func=processes.add, dependencies=["one", "two"]).save()


@pytest.fixture
def worker(instance: DagsterInstance) -> Iterator[Any]:
    """Return a function that executes a queued run in another thread, as a worker would."""
    threads: list[threading.Thread] = []

    def start(run_id: str) -> threading.Thread:
        def execute() -> None:
            run_now(instance, run_id)
            connections.close_all()

        threads.append(threading.Thread(target=execute))
        threads[-1].start()
        return threads[-1]

    yield start
    waited.looked.set()
    for thread in threads:
        thread.join()
    waited.looked.clear()


# --- Waiting --------------------------------------------------------------------------------------


@THREADS
def test_what_is_waited_for_is_what_execute_returns(close: None, worker: Any) -> None:
    run = ProcessTreeManager.submit_tree("close")
    worker(run.run_id)
    waited = run.wait(60)
    executed = ProcessTreeManager.execute_tree("close")
    for key in ("success", "results", "status", "errors", "reasons", "cached"):
        assert waited[key] == executed[key], key
    assert waited["results"] == {"one": 1, "two": 2, "sum": 3}
    assert waited["execution_times"].keys() == {"one", "two", "sum"}
    assert waited["run_id"] == run.run_id


@THREADS
def test_a_run_that_failed_says_why_as_execute_does(worker: Any) -> None:
    tree = ProcessTreeInstance("fails").add_process("one", func=processes.one)
    tree.add_process("sum up", func=processes.fail, dependencies=["one"])
    sums = {"total": {"type": "int", "default": 7}}
    tree.add_process("after", processes.add, ["sum up"], response_vars=sums).save()
    run = ProcessTreeManager.submit_tree("fails")
    worker(run.run_id)
    waited, executed = run.wait(60), tree.execute()
    for key in ("success", "results", "status", "errors", "reasons", "response_variables"):
        assert waited[key] == executed[key], key
    assert waited["response_variables"] == {"after": {"total": 7}}


@THREADS
def test_the_event_loop_is_not_blocked(close: None, worker: Any) -> None:
    run = ProcessTreeManager.submit_tree("close")

    async def ask() -> tuple[Any, int]:
        waiting = asyncio.ensure_future(run.await_result(60))
        turns = 0
        while not waiting.done():
            turns += 1
            if turns == 5:
                worker(run.run_id)
            await asyncio.sleep(0.01)
        return waiting.result(), turns

    results, turns = asyncio.run(ask())
    assert results["results"]["sum"] == 3
    assert turns >= 5


@THREADS
def test_what_takes_too_long_is_a_timeout_and_goes_on(close: None, worker: Any) -> None:
    run = ProcessTreeManager.submit_tree("close")
    for timeout in (0, 0.2):
        with pytest.raises(
            RunNotFinished, match=r"has not ended within .* seconds; it was not canceled"
        ):
            run.wait(timeout)
    with pytest.raises(TimeoutError):
        asyncio.run(run.await_result(0))
    worker(run.run_id)
    assert run.wait(60)["success"]


@THREADS
def test_a_result_that_is_not_there_says_so(worker: Any, instance: DagsterInstance) -> None:
    tree = ProcessTreeInstance("t").add_process("local", func=waited.local)
    tree.add_process("one", func=processes.one).save()
    run = ProcessTreeManager.submit_tree("t")
    worker(run.run_id)
    stored = run.wait(60)
    assert stored["results"] == {"one": 1}
    assert stored["reasons"]["local"].startswith("Its result was not stored: ")
    for file in run_files(instance, run.run_id):
        file.unlink()
    gone = run.wait(0)
    assert gone["success"]
    assert gone["status"] == stored["status"]
    assert set(gone["reasons"].values()) == {
        "Its result is not stored where this process can read it."
    }


def run_files(instance: DagsterInstance, run_id: str) -> Any:
    from upath import UPath

    found = list((UPath(instance.storage_directory()) / run_id).glob("*/result"))
    assert found
    return found


def test_a_retry_by_dagster_is_waited_for(close: None, instance: DagsterInstance) -> None:
    run = ProcessTreeManager.submit_tree("close")
    first = instance.get_run_by_id(run.run_id)
    assert first is not None
    instance.report_run_failed(first, "The machine is gone.")
    instance.add_run_tags(run.run_id, {run_tags.WILL_RETRY: "true"})
    assert run.state().status == "retrying"
    with pytest.raises(RunNotFinished):
        run.wait(0)
    row = tree_runs.get_row("close")
    from proctree_dagster.orchestration.runs import create

    job = translator().job(tree_records.from_row(row))
    tags = {run_tags.PARENT_RUN: run.run_id, run_tags.ROOT_RUN: run.run_id}
    second = create.create_run(instance, job, {}, tags)
    instance.add_run_tags(second.run_id, tags)
    run_now(instance, second.run_id)
    waited = run.wait(0)
    assert waited["run_id"] == second.run_id
    assert waited["results"]["sum"] == 3
    assert run.state().attempt == second.run_id


@THREADS
def test_what_a_full_repetition_skips_has_no_result_of_the_try_before(
    instance: DagsterInstance,
) -> None:
    processes.calls.clear()
    tree = ProcessTreeInstance("t").add_process("a", func=processes.flaky_after_success)
    tree.add_process("b", processes.two, ["a"])
    tree.add_process("c", processes.fail, ["b"]).save()
    run = ProcessTreeManager.submit_tree("t")
    run_now(instance, run.run_id)
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None
    second = repeating.again(instance, failed, everything=True)
    run_now(instance, second.run_id)
    waited = runs.wait(second.run_id, 0)
    assert waited["status"] == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert waited["results"] == {}
    assert waited["errors"]["b"] == "Dependency failed: a"


@THREADS
def test_a_run_that_could_not_start_is_waited_for_until_another_takes_its_place(
    close: None, instance: DagsterInstance
) -> None:
    run = ProcessTreeManager.submit_tree("close")
    for _ in range(2):
        first = instance.get_run_by_id(str(OutboxRun.objects.get().run_id))
        assert first is not None
        instance.report_run_failed(first, "It could not be launched.")
        with pytest.raises(RunNotFinished):
            run.wait(0)
        tree_runs.deliver()
        tree_runs.deliver()
    again = str(OutboxRun.objects.get().run_id)
    assert again != run.run_id
    run_now(instance, again)
    assert run.wait(0)["run_id"] == again
    assert run.state().attempt == again


def test_a_dropped_run_has_ended(close: None, instance: DagsterInstance) -> None:
    run = ProcessTreeManager.submit_tree("close")
    OutboxRun.objects.update(state=OutboxState.DROPPED, reason="Withdrawn by ann.")
    assert run.wait(0)["errors"] == {"close": "Withdrawn by ann."}
    found = run.state()
    assert (found.status, found.has_ended, found.reason) == ("dropped", True, "Withdrawn by ann.")


@THREADS
def test_in_its_own_transaction_nobody_can_wait_for_it(close: None) -> None:
    with transaction.atomic():
        run = ProcessTreeManager.submit_tree("close")
        assert run.state().status == "requested"
        with pytest.raises(RunError, match="delivered once its transaction is committed"):
            run.wait()


@THREADS
def test_what_was_skipped_has_no_run_to_wait_for(close: None) -> None:
    first = ProcessTreeManager.submit_tree("close", key="a")
    second = ProcessTreeManager.submit_tree("close", key="a", on_conflict="skip")
    for ask in (second.wait, second.state, lambda: asyncio.run(second.await_result())):
        with pytest.raises(RunNotFound, match=f"run {first.run_id} with the same key"):
            ask()


@pytest.mark.parametrize("run_id", [str(uuid.UUID(int=9)), "no id", ""])
def test_a_run_that_is_not_there_is_said(run_id: str, instance: DagsterInstance) -> None:
    for ask in (runs.state, runs.wait, lambda each: asyncio.run(runs.await_result(each))):
        with pytest.raises(RunNotFound, match="Dagster has no run"):
            ask(run_id)


@THREADS
def test_dagster_may_be_away_for_a_while(close: None, worker: Any, monkeypatch: Any) -> None:
    run = ProcessTreeManager.submit_tree("close")
    worker(run.run_id).join()
    answers = iter([HistoryUnavailable("away"), HistoryUnavailable("away")])
    ask = run_history.History.last_attempt

    def sometimes(history: run_history.History, run_id: str) -> Any:
        for error in answers:
            raise error
        return ask(history, run_id)

    monkeypatch.setattr(run_history.History, "last_attempt", sometimes)
    assert run.wait(60)["success"]
    monkeypatch.setattr("proctree_dagster.running.waiting.AWAY_SECONDS", -1)

    def away(*args: Any) -> Any:
        raise HistoryUnavailable("away")

    monkeypatch.setattr(run_history.History, "last_attempt", away)
    with pytest.raises(HistoryUnavailable, match="away"):
        run.wait(60)


# --- States ---------------------------------------------------------------------------------------


@THREADS
def test_a_state_says_how_far_each_process_is(worker: Any, instance: DagsterInstance) -> None:
    tree = ProcessTreeInstance("counts").add_process("counts", func=waited.counts)
    tree.add_process("after", func=processes.add, dependencies=["counts"]).save()
    run = ProcessTreeManager.submit_tree("counts")
    assert run.state().status == "queued"
    thread = worker(run.run_id)
    deadline = time.monotonic() + 60
    while not any(each.progress for each in run.state().processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = run.state()
    assert (found.status, found.has_ended, found.tree) == ("started", False, "counts")
    first, second = found.processes
    assert (first.status, first.progress) == ("running", "3 of 10 invoices (30 %)")
    assert (first.done, first.total, second.status) == (3, 10, "pending")
    assert found.as_json()["processes"][0]["total"] == 10
    waited.looked.set()
    thread.join()
    assert [each.progress for each in run.state().processes] == ["", ""]
    assert run.state().succeeded


@THREADS
def test_changes_are_told_once_each_until_the_end(close: None, instance: DagsterInstance) -> None:
    run = ProcessTreeManager.submit_tree("close")

    async def collect() -> list[str]:
        found = []
        async for state in runs.changes(run.run_id, every=0.01):
            found.append(state.status)
            if len(found) == 1:
                await asyncio.sleep(0.05)
                await asyncio.to_thread(run_now, instance, run.run_id)
        return found

    found = asyncio.run(collect())
    assert found == ["queued", "success"]


@THREADS
def test_changes_keep_no_connection_between_two_looks(
    close: None, instance: DagsterInstance
) -> None:
    run = ProcessTreeManager.submit_tree("close")
    asked: list[str] = []

    async def look() -> None:
        async for _ in runs.changes(run.run_id):
            break

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(waiting, "fresh_connections", noted_in(asked))
        asyncio.run(look())
    assert asked == ["begins", "ends"]


def test_a_run_that_waits_in_the_outbox_is_told_of_without_dagster(
    close: None, monkeypatch: Any
) -> None:
    run = ProcessTreeManager.submit_tree("close")
    OutboxRun.objects.update(state=OutboxState.WAITING, reason="Dagster is away.")
    monkeypatch.setattr(run_history, "opened", lambda **options: 1 / 0)
    found = run.state()
    assert (found.status, found.reason) == ("requested", "Dagster is away.")


def test_a_run_of_a_test_is_recorded_and_never_ends() -> None:
    ProcessTreeInstance("t").add_process("one", func=processes.one).save()
    run = ProcessTreeManager.submit_tree("t")
    with pytest.raises(RunError, match="requested in a test"):
        run.wait()


def test_the_old_name_of_a_submitted_run_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="is called proctree_dagster.runs.SubmittedRun now"):
        assert results.SubmittedRun is runs.SubmittedRun
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        results.Nothing  # noqa: B018
