"""What the row says of a schedule's last run, however that ended."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.functions import process_function
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.orchestration.launching.workers import Worker
from proctree_dagster.orchestration.runs import schedule_claims
from proctree_dagster.running import tree_runs
from proctree_dagster.services import due_time_claims
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db


def due_schedule(func: object, **options: object) -> ProcessTreeSchedule:
    tree = ProcessTreeInstance("books").add_process("only", func=func)  # type: ignore[arg-type]
    tree.save()
    tree.register_schedule(**options)  # type: ignore[arg-type]
    ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=1))
    return ProcessTreeSchedule.objects.get()


def run_once() -> ProcessTreeSchedule:
    """Run what is due, and return the row."""
    check_and_run_scheduled_tasks()
    return ProcessTreeSchedule.objects.get()


def test_a_run_that_succeeded(instance: DagsterInstance) -> None:
    due_schedule(processes.one)
    assert run_once().last_run_status == RunStatus.SUCCESS


def test_a_run_that_failed(instance: DagsterInstance) -> None:
    due_schedule(processes.fail)
    after = run_once()
    assert after.last_run_status == RunStatus.FAILURE
    [run] = instance.get_runs()
    assert after.last_run_id == run.run_id


@process_function("tests.interrupt")
def interrupt() -> None:
    """Press Ctrl-C."""
    raise KeyboardInterrupt


def test_a_run_that_was_interrupted(instance: DagsterInstance) -> None:
    due_schedule(interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_and_run_scheduled_tasks()
    assert ProcessTreeSchedule.objects.get().last_run_status == RunStatus.CANCELED


@process_function("tests.look")
def look() -> str:
    """Return what the row says while its run is running."""
    return ProcessTreeSchedule.objects.get().last_run_status


def test_a_run_that_is_still_running_and_a_run_started_by_hand(instance: DagsterInstance) -> None:
    due_schedule(look)
    results = check_and_run_scheduled_tasks()["books"]
    assert results["results"] == {"only": "started"}
    assert look() == RunStatus.SUCCESS
    row = ProcessTree.objects.get()
    by_hand = tree_runs.execute_row(row)
    assert by_hand["results"] == {"only": "success"}  # it does not count
    assert ProcessTreeSchedule.objects.get().last_run_id == results["run_id"]


def test_the_run_says_in_its_log_for_how_many_due_times_it_stands(
    instance: DagsterInstance,
) -> None:
    due_schedule(processes.one, interval_minutes=7)
    due = timezone.now().replace(second=0, microsecond=0) - dt.timedelta(minutes=60)
    ProcessTreeSchedule.objects.update(next_run=due, anchor=due)
    results = check_and_run_scheduled_tasks()["books"]
    messages = [entry.user_message for entry in instance.all_logs(results["run_id"])]
    assert any("stands for 9 due times" in message for message in messages), messages


def test_a_due_time_is_handed_to_the_function_that_asks_for_it(instance: DagsterInstance) -> None:
    schedule = due_schedule(processes.echo, pass_scheduled_for=True, context={"a": 1})
    due = schedule.next_run
    results = check_and_run_scheduled_tasks()["books"]
    assert results["results"] == {"only": {"a": 1, "scheduled_for": due}}


SECONDS = 30.0


def started_elsewhere(instance: DagsterInstance) -> tuple[str, subprocess.Popen[bytes]]:
    """Let another process take up a scheduled run; return the run's id and the process."""
    schedule = due_schedule(processes.one)
    decision = due_time_claims.request(
        schedule.pk, timezone.now(), schedule_claims.ScheduleHistory(instance, schedule.pk)
    )
    assert isinstance(decision, due_time_claims.Due)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    run_id, _ = tree_runs.submit_row(ProcessTree.objects.get())
    instance.add_run_tags(run_id, {run_tags.DUE: schedule_claims.due_tag(decision.due)})
    worker = Worker.of_process(run_id, process.pid)
    due_time_claims.take("books", decision.due, run_id, worker.as_text())
    return run_id, process


def test_a_run_whose_process_was_killed_has_failed_and_dagster_is_told(
    instance: DagsterInstance,
) -> None:
    run_id, process = started_elsewhere(instance)
    ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=1))
    try:
        assert check_and_run_scheduled_tasks() == {}  # the last run is still running
        assert look() == RunStatus.STARTED
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
    assert check_and_run_scheduled_tasks()["books"]["success"]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE


def test_an_id_that_another_process_has_got_meanwhile_is_no_sign_of_life() -> None:
    worker = Worker.of_process("run", os.getpid())
    assert not worker.has_died
    assert replace(worker, started=str(int(worker.started) - 1)).has_died


def test_of_a_worker_on_another_host_nothing_is_known() -> None:
    worker = Worker.of_process("run", os.getpid())
    assert not replace(worker, host="elsewhere.example", started="1").has_died


def test_a_worker_comes_back_from_text_and_anything_else_is_none() -> None:
    worker = Worker.of_process("run", os.getpid())
    assert Worker.from_text(worker.as_text()) == worker
    for text in ("", "{}", "[1]", "null", "host 1 2", '{"pid": 1}'):
        assert Worker.from_text(text) is None
    for odd in ({"pid": "self"}, {"pid": -1}, {"pid": True}, {"guardian": 2**64}, {"host": [1]}):
        assert Worker.from_text(json.dumps({**asdict(worker), **odd})) is None
    assert Worker.from_text("[" * 5000) is None


def test_a_zombie_has_died() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    worker = Worker.of_process("run", process.pid)
    deadline = time.monotonic() + SECONDS
    while not worker.has_died:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.wait(SECONDS)
