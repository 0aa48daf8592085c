"""The backend of ``django.tasks``: what is enqueued is a run, and its result can be asked for."""

import asyncio
import datetime as dt
import uuid
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster import apps, django_tasks
from proctree_dagster import context as contexts
from proctree_dagster.django_tasks import FAILED, FUNCTION, READY, RUNNING, SUCCESSFUL
from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import FunctionNotAllowed, FunctionNotFound, ResultNotStored
from proctree_dagster.models import OutboxRun, OutboxState, ProcessTree
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, run_pages
from proctree_dagster.running import dagster_loading
from proctree_dagster.testing import submitted
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes, tasks
from tests.app.tasks import InvalidTask, TaskResultDoesNotExist, signals
from tests.running.delivered import events_of, run_now

pytestmark = pytest.mark.django_db

BACKEND = "proctree_dagster.django_tasks.DagsterBackend"


@pytest.fixture(autouse=True)
def backend(settings: Settings) -> None:
    settings.TASKS = {
        "default": {"BACKEND": BACKEND, "QUEUES": ["default", "slow"]},
        "other": {"BACKEND": BACKEND},
    }
    tasks.calls.clear()


@pytest.fixture
def run(instance: DagsterInstance) -> Any:
    """Return a function that executes an enqueued task, and refreshes its result."""
    assert dagster_loading.wait(60)

    def execute(result: Any) -> Any:
        run_now(instance, result.id)
        result.refresh()
        return result

    return execute


def test_a_task_becomes_a_tree_with_a_run_and_a_result(run: Any) -> None:
    result = tasks.add.enqueue(2, second=3)
    assert (result.status, result.args, result.kwargs) == (READY, [2], {"second": 3})
    assert not result.is_finished
    assert tasks.add.get_result(result.id) == result
    row = ProcessTree.objects.get()
    assert (row.name, row.description) == ("tests.app.tasks.add", "Add two numbers.")
    assert [each["func"] for each in row.processes] == [FUNCTION]
    run(result)
    assert (result.status, result.return_value, result.attempts) == (SUCCESSFUL, 5, 1)
    times: list[Any] = [result.enqueued_at, result.started_at, result.finished_at]
    assert times == sorted(times)
    assert tasks.add.get_result(result.id) == result
    assert tasks.calls == [(2, 3)]
    run(tasks.add.enqueue(1))
    assert ProcessTree.objects.count() == 1


def test_an_error_is_told_with_its_class_and_its_trace(run: Any) -> None:
    result = run(tasks.refuse.enqueue("not today"))
    assert result.status == FAILED
    [error] = result.errors
    assert error.exception_class is tasks.Refused
    assert error.traceback.startswith("Traceback (most recent call last):")
    assert error.traceback.endswith("Refused: not today\n")
    with pytest.raises(ValueError, match="failed"):
        result.return_value  # noqa: B018


def test_a_task_that_another_process_saves_meanwhile_is_enqueued(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = django_tasks._saved

    def saved_by_both(name: str, task: Any) -> Any:
        real(name, task)
        return real(name, task)

    monkeypatch.setattr(django_tasks, "_saved", saved_by_both)
    assert run(tasks.add.enqueue(2, second=3)).return_value == 5


def test_a_task_that_exits_has_failed(run: Any) -> None:
    result = run(tasks.leave.enqueue())
    assert (result.status, result.errors[0].exception_class) == (FAILED, SystemExit)


@pytest.mark.django_db(transaction=True)
def test_async_tasks_and_async_callers_are_served(run: Any) -> None:
    async def enqueue() -> Any:
        return await tasks.later.aenqueue(7)

    result = run(asyncio.run(enqueue()))
    assert result.return_value == 7
    assert asyncio.run(tasks.later.aget_result(result.id)) == result


def test_a_task_that_takes_its_context_knows_its_result(run: Any) -> None:
    result = tasks.tells_id.enqueue("a")
    assert run(result).return_value == [result.id, 1, "a"]


def retried(times: int) -> None:
    """Let the process of the only task be retried."""
    row = ProcessTree.objects.get()
    row.processes = [{**row.processes[0], "retries": times}]
    row.save()


def test_a_retry_of_its_process_is_another_attempt(run: Any) -> None:
    first = run(tasks.refuse.enqueue("once"))
    assert first.attempts == 1
    retried(1)
    assert run(tasks.refuse.enqueue("twice")).attempts == 2


REFUSED = "tests.app.tasks.Refused"


def test_the_errors_of_all_attempts_are_kept_also_if_the_last_one_succeeds(run: Any) -> None:
    run(tasks.succeeds_at.enqueue(1))
    retried(2)
    result = run(tasks.succeeds_at.enqueue(3))
    assert (result.status, result.attempts) == (SUCCESSFUL, 3)
    assert result.return_value == [3, [REFUSED, REFUSED], True]
    assert [each.traceback.splitlines()[-1] for each in result.errors] == [
        f"{REFUSED}: attempt 1",
        f"{REFUSED}: attempt 2",
    ]
    times: list[Any] = [result.started_at, result.last_attempted_at, result.finished_at]
    assert times == sorted(set(times))
    failed = run(tasks.succeeds_at.enqueue(9))
    assert (failed.status, failed.attempts, len(failed.errors)) == (FAILED, 3, 3)


def test_a_task_that_waits_for_its_retry_is_ready(instance: DagsterInstance, run: Any) -> None:
    run(tasks.refuse.enqueue("once"))
    retried(1)
    result = tasks.refuse.enqueue("twice")
    told: list[Any] = []
    for event in events_of(instance, result.id):
        result.refresh()
        told.append((event.event_type, result.status, len(result.errors)))
    assert (DagsterEventType.STEP_UP_FOR_RETRY, READY, 1) in told
    assert told[-1] == (DagsterEventType.RUN_FAILURE, FAILED, 2)


def test_attempts_by_another_run_count_too(instance: DagsterInstance, run: Any) -> None:
    result = run(tasks.succeeds_at.enqueue(2))
    assert (result.status, result.attempts) == (FAILED, 1)
    instance.add_run_tags(result.id, {run_tags.WILL_RETRY: "true"})  # as Dagster does
    result.refresh()
    assert (result.status, result.finished_at, len(result.errors)) == (READY, None, 1)
    first = instance.get_run_by_id(result.id)
    assert first is not None
    job = translator().job(tree_records.from_row(ProcessTree.objects.get()))
    tags = {run_tags.PARENT_RUN: result.id, run_tags.ROOT_RUN: result.id}
    second = create.create_run(instance, job, run_pages.context_of(first), tags)
    instance.add_run_tags(second.run_id, tags)
    run_now(instance, second.run_id)
    result.refresh()
    assert (result.status, result.worker_ids) == (SUCCESSFUL, [result.id, second.run_id])
    assert result.return_value == [2, [REFUSED], True]
    assert [each.exception_class for each in result.errors] == [tasks.Refused]


def test_a_run_that_died_before_its_task_began_is_an_error_and_no_attempt(
    instance: DagsterInstance, run: Any
) -> None:
    result = tasks.add.enqueue(1)
    found = instance.get_run_by_id(result.id)
    assert found is not None
    instance.report_run_failed(found, "The machine is gone.")
    instance.add_run_tags(result.id, {run_tags.WILL_RETRY: "true"})
    result.refresh()
    assert (result.status, result.attempts, result.started_at) == (READY, 0, None)
    assert "The machine is gone." in result.errors[0].traceback


def test_a_result_has_its_arguments_as_the_function_gets_them() -> None:
    result = tasks.echo.enqueue((1, 2), key={1: b"text"})
    assert (result.args, result.kwargs) == ([[1, 2]], {"key": {"1": "text"}})
    assert tasks.echo.get_result(result.id) == result


@pytest.mark.parametrize(
    "value",
    [
        {"$secret": "HOME"},
        {"$model": "app.Organisation", "pk": 1},
        {"$date": "no date"},
        {"__class__": "x"},
        [None, True, 1.5, 2**70, "\x00", "ü", {"a": {"b": []}}],
        {},
    ],
)
def test_arguments_are_plain_json_whatever_they_look_like(value: Any) -> None:
    result = tasks.echo.enqueue(value, key=value)
    assert (result.args, result.kwargs) == ([value], {"key": value})
    found = tasks.echo.get_result(result.id)
    assert (found.args, found.kwargs) == ([value], {"key": value})
    context = contexts.decode(OutboxRun.objects.get().context)
    assert django_tasks.run_task(**context) == {"args": [value], "kwargs": {"key": value}}


def test_arguments_are_passed_on_by_a_run(run: Any) -> None:
    result = run(tasks.echo.enqueue({"$secret": "HOME"}, key=[1]))
    assert result.return_value == {"args": [{"$secret": "HOME"}], "kwargs": {"key": [1]}}


def test_what_is_no_json_is_refused(run: Any) -> None:
    with pytest.raises(TypeError):
        tasks.echo.enqueue({1, 2})
    assert OutboxRun.objects.count() == 0
    result = run(tasks.returns_a_set.enqueue())
    assert (result.status, result.errors[0].exception_class) == (FAILED, TypeError)


def test_priority_queue_and_time_are_those_of_the_run(instance: DagsterInstance, run: Any) -> None:
    task = tasks.add.using(priority=5, queue_name="slow")
    result = task.enqueue(1)
    found = instance.get_run_by_id(result.id)
    assert found is not None
    assert (found.tags["dagster/priority"], found.tags["task_queue"]) == ("5", "slow")
    again = tasks.add.get_result(result.id).task
    assert (again.priority, again.queue_name) == (5, "slow")
    tomorrow = timezone.now() + dt.timedelta(days=1)
    waits = tasks.add.using(run_after=tomorrow).enqueue(1)
    assert instance.get_run_by_id(waits.id) is None
    assert tasks.add.get_result(waits.id).task.run_after == tomorrow
    assert tasks.add.get_result(waits.id).status == READY
    with pytest.raises(InvalidTask, match="nowhere"):
        tasks.add.using(queue_name="nowhere")


@pytest.mark.django_db(transaction=True)
def test_it_is_enqueued_with_its_transaction(instance: DagsterInstance) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        assert tasks.add.get_result(result.id).status == READY
        transaction.set_rollback(True)
    assert instance.get_runs() == []
    assert ProcessTree.objects.count() == 0
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result.id)


def test_signals_are_sent_where_things_happen(run: Any) -> None:
    told: list[Any] = []

    def note(signal: Any, task_result: Any, **kwargs: Any) -> None:
        told.append((signal, task_result.id, task_result.status))

    for each in (signals.task_enqueued, signals.task_started, signals.task_finished):
        each.connect(note)
    try:
        good, bad = run(tasks.add.enqueue(1)), run(tasks.refuse.enqueue("x"))
    finally:
        for each in (signals.task_enqueued, signals.task_started, signals.task_finished):
            each.disconnect(note)
    assert told == [
        (signals.task_enqueued, good.id, READY),
        (signals.task_started, good.id, RUNNING),
        (signals.task_finished, good.id, SUCCESSFUL),
        (signals.task_enqueued, bad.id, READY),
        (signals.task_started, bad.id, RUNNING),
        (signals.task_finished, bad.id, FAILED),
    ]


def test_a_run_that_is_withdrawn_or_canceled_has_failed(
    instance: DagsterInstance, run: Any
) -> None:
    dropped, canceled = tasks.add.enqueue(1), tasks.add.enqueue(1)
    OutboxRun.objects.filter(run_id=dropped.id).update(
        state=OutboxState.DROPPED, reason="Withdrawn by ann."
    )
    found = instance.get_run_by_id(canceled.id)
    assert found is not None
    instance.report_run_canceled(found, "Stopped by ann.")
    for result, said in ((dropped, "Withdrawn by ann."), (canceled, "Stopped by ann.")):
        result.refresh()
        assert result.status == FAILED
        assert said in result.errors[0].traceback
        assert issubclass(result.errors[0].exception_class, Exception)


def test_a_return_value_on_another_machine_is_said(instance: DagsterInstance, run: Any) -> None:
    result = run(tasks.add.enqueue(1))
    from upath import UPath

    for file in (UPath(instance.storage_directory()) / result.id).glob("*/result"):
        file.unlink()
    result.refresh()
    assert result.status == SUCCESSFUL
    with pytest.raises(ResultNotStored, match="is not stored where this process can read it"):
        result.return_value  # noqa: B018


@pytest.mark.parametrize("result_id", ["", "123", str(uuid.UUID(int=9))])
def test_a_result_that_is_not_there_is_said(result_id: str, run: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result_id)


def test_other_runs_and_other_backends_have_no_result_here(run: Any) -> None:
    ProcessTreeInstance("t").add_process("one", func=processes.one).save()
    results = ProcessTreeInstance.load("t").execute()
    other = run(tasks.add.using(backend="other").enqueue(1))
    for each in (results["run_id"], other.id):
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result(each)


def test_only_tasks_can_be_run_and_only_of_allowed_modules() -> None:
    given: dict[str, Any] = {"task_id": "1", "backend": "default"}
    for path in ("os.system", "django.core.mail.send_mail", "nothing"):
        with pytest.raises(FunctionNotAllowed):
            django_tasks.run_task(path, **given)
    for path in ("tests.app.processes.one", "tests.app.tasks.nothing", "tests.app.tasks.calls"):
        with pytest.raises(FunctionNotFound):
            django_tasks.run_task(path, **given)


def test_a_tree_that_has_the_name_is_not_taken_over() -> None:
    tree = ProcessTreeInstance("tests.app.tasks.add").add_process("one", func=processes.one)
    tree.save()
    with pytest.raises(InvalidTask, match="which is not of the task"):
        tasks.add.enqueue(1)


def test_in_a_test_a_task_is_recorded_and_not_run() -> None:
    result = tasks.add.enqueue(1)
    [recorded] = submitted()
    assert (recorded.tree, recorded.run_id) == ("tests.app.tasks.add", result.id)
    result.refresh()
    assert result.status == READY


def test_options_are_refused(settings: Settings) -> None:
    backend = django_tasks.DagsterBackend("default", {"OPTIONS": {"retries": 3}})
    [problem] = backend.check()
    assert problem.id == "proctree_dagster.E012"
    assert django_tasks.DagsterBackend("default", {}).check() == []


def test_a_worker_knows_the_function_of_tasks_if_the_settings_name_the_backend(
    settings: Settings,
) -> None:
    assert apps._executes_tasks()
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    assert not apps._executes_tasks()
    settings.TASKS = {"default": {"BACKEND": "books.tasks.DerivedBackend"}}
    assert apps._executes_tasks()
    del settings.TASKS
    assert not apps._executes_tasks()


def test_a_task_whose_name_is_too_long_for_a_tree_is_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes.one, "__qualname__", "o" * 250)
    monkeypatch.setattr(processes, "o" * 250, processes.one, raising=False)
    with pytest.raises(InvalidTask, match="can't be saved as a tree"):
        tasks.task(processes.one).enqueue()
    assert not ProcessTree.objects.exists()
