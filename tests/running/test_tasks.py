"""Schedules without Dagster's daemon."""

import datetime as dt
import pickle

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
)
from django.db import connection, transaction
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ScheduleError, TreeFailed, TreeNotFound
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.orchestration.runs import lost_runs, schedule_claims
from proctree_dagster.running import tree_runs
from proctree_dagster.services import due_time_claims
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db


def scheduled(name: str, func: object = processes.echo, due: bool = True) -> ProcessTreeSchedule:
    tree = ProcessTreeInstance(name).add_process("only", func=func)  # type: ignore[arg-type]
    tree.save()
    schedule = tree.register_schedule(interval_minutes=60, context={"from": "the schedule"})
    if due:
        make_due(schedule)
    return schedule


def make_due(schedule: ProcessTreeSchedule) -> dt.datetime:
    due = timezone.now() - dt.timedelta(minutes=5)
    ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(next_run=due)
    return due


def claim(
    schedule: ProcessTreeSchedule, instance: DagsterInstance
) -> due_time_claims.Due | due_time_claims.Skip:
    history = schedule_claims.ScheduleHistory(instance, schedule.pk)
    return due_time_claims.request(schedule.pk, timezone.now(), history)


def test_what_is_due_runs_once_and_its_row_says_so(instance: DagsterInstance) -> None:
    schedule = scheduled("due")
    due = make_due(schedule)
    scheduled("later", due=False)
    before = timezone.now()
    results = check_and_run_scheduled_tasks()
    assert list(results) == ["due"]
    assert results["due"]["results"] == {"only": {"from": "the schedule"}}
    assert check_and_run_scheduled_tasks() == {}
    schedule.refresh_from_db()
    assert schedule.last_run is not None
    assert schedule.last_run >= before
    assert schedule.next_run is not None
    assert schedule.next_run > before
    assert schedule.claim is None
    [run] = instance.get_runs()
    assert schedule.last_run_id == run.run_id == results["due"]["run_id"]
    assert run.tags[run_tags.TRIGGERED_BY] == "schedule"
    assert run.tags[run_tags.DUE] == due.isoformat()


def test_one_failure_stops_no_other_and_is_not_tried_again_every_minute(
    instance: DagsterInstance,
) -> None:
    scheduled("a_fails", processes.fail)
    scheduled("b_broken")
    ProcessTree.objects.filter(name="b_broken").update(processes=[])
    scheduled("c_works")
    results = check_and_run_scheduled_tasks()
    assert {name: each["success"] for name, each in results.items()} == {
        "a_fails": False,
        "b_broken": False,
        "c_works": True,
    }
    assert check_and_run_scheduled_tasks() == {}


def test_a_disabled_schedule_does_not_run(instance: DagsterInstance) -> None:
    schedule = scheduled("disabled")
    ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(enabled=False)
    assert check_and_run_scheduled_tasks() == {}
    assert instance.get_runs() == []


def test_a_manual_run_moves_neither_last_run_nor_next_run(instance: DagsterInstance) -> None:
    schedule = scheduled("manual", due=False)
    ProcessTreeInstance.load("manual").execute()
    after = ProcessTreeSchedule.objects.get(pk=schedule.pk)
    assert (after.last_run, after.next_run) == (schedule.last_run, schedule.next_run)


def test_an_open_claim_without_a_run_is_taken_up_after_a_minute(instance: DagsterInstance) -> None:
    schedule = scheduled("lost")
    due = make_due(schedule)
    claimed = claim(schedule, instance)
    assert isinstance(claimed, due_time_claims.Due)  # and whoever claimed it was killed
    assert check_and_run_scheduled_tasks() == {}
    ProcessTreeSchedule.objects.update(claimed_at=timezone.now() - dt.timedelta(seconds=61))
    results = check_and_run_scheduled_tasks()
    assert results["lost"]["success"]
    [run] = instance.get_runs()
    assert run.tags[run_tags.DUE] == due.isoformat()


def test_a_run_that_cannot_take_its_claim_calls_no_function(instance: DagsterInstance) -> None:
    scheduled("twice")
    first = check_and_run_scheduled_tasks()["twice"]
    [run] = instance.get_runs()
    due = dt.datetime.fromisoformat(run.tags[run_tags.DUE])
    second = tree_runs.execute_row(
        ProcessTree.objects.get(name="twice"), triggered_by="schedule", due=due
    )
    assert first["success"]
    assert not second["success"]
    assert second["status"] == {"only": "skipped"}
    assert f"Already run by run {first['run_id']}" in second["errors"]["only"]
    ended = instance.get_run_by_id(second["run_id"])
    assert ended is not None
    assert ended.status == DagsterRunStatus.CANCELED


def test_a_claim_whose_run_was_canceled_in_the_queue_is_settled(instance: DagsterInstance) -> None:
    schedule = scheduled("canceled")
    claimed = claim(schedule, instance)
    assert isinstance(claimed, due_time_claims.Due)
    run_id, _ = tree_runs.submit_row(ProcessTree.objects.get(name="canceled"))
    instance.add_run_tags(run_id, {run_tags.DUE: schedule_claims.due_tag(claimed.due)})
    queued = instance.get_run_by_id(run_id)
    assert queued is not None
    assert (
        schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(claimed.due) == "under way"
    )
    instance.report_run_canceled(queued)
    assert (
        schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(claimed.due) == "finished"
    )
    assert check_and_run_scheduled_tasks() == {}
    make_due(schedule)
    assert check_and_run_scheduled_tasks()["canceled"]["success"]


def test_a_claim_whose_run_died_before_it_could_take_it_is_requested_again(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = scheduled("stuck")
    claimed = claim(schedule, instance)
    assert isinstance(claimed, due_time_claims.Due)
    run_id, _ = tree_runs.submit_row(ProcessTree.objects.get(name="stuck"))
    instance.add_run_tags(run_id, {run_tags.DUE: schedule_claims.due_tag(claimed.due)})
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_dagster_event(
        DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run_id=run_id
    )
    assert (
        schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(claimed.due) == "under way"
    )
    monkeypatch.setattr(schedule_claims, "CLAIM_SECONDS", -1.0)
    assert schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(claimed.due) == "none"
    ProcessTreeSchedule.objects.update(claimed_at=timezone.now() - dt.timedelta(seconds=61))
    assert check_and_run_scheduled_tasks()["stuck"]["success"]


def test_a_run_of_another_locations_job_of_the_same_name_settles_no_claim(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = scheduled("same")
    claimed = claim(schedule, instance)
    assert isinstance(claimed, due_time_claims.Due)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(run_tags, "LOCATION", "warehouse")
        run_id, _ = tree_runs.submit_row(ProcessTree.objects.get(name="same"))
    instance.add_run_tags(run_id, {run_tags.DUE: schedule_claims.due_tag(claimed.due)})
    history = schedule_claims.ScheduleHistory(instance, schedule.pk)
    assert history.of_claim(claimed.due) == "none"
    theirs = instance.get_run_by_id(run_id)
    assert theirs is not None
    instance.report_run_canceled(theirs)
    assert history.of_claim(claimed.due) == "none"


@pytest.mark.parametrize(
    "text", ["2026-01-01", "2026-01-01 00:00", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00.000"]
)
def test_a_next_run_that_sql_wrote_in_its_own_way_is_run(
    instance: DagsterInstance, text: str
) -> None:
    scheduled("sql")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_processtreeschedule SET next_run = %s", [text])
    # One look may be needed to write it as Django does; the next one runs it.
    results = check_and_run_scheduled_tasks() or check_and_run_scheduled_tasks()
    assert results["sql"]["success"]
    assert check_and_run_scheduled_tasks() == {}


@pytest.mark.parametrize(
    "text", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S+00:00"]
)
def test_a_claim_that_sql_wrote_in_its_own_way_does_not_stay_open(
    instance: DagsterInstance, text: str
) -> None:
    scheduled("sql")
    due = f"{timezone.now() - dt.timedelta(minutes=5):{text}}"
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_processtreeschedule SET claim = %s, claimed_at = %s",
            [due, due],
        )
    # One look may be needed to write it as Django does; the next one runs it.
    results = check_and_run_scheduled_tasks() or check_and_run_scheduled_tasks()
    assert results["sql"]["success"]
    assert ProcessTreeSchedule.objects.get().claim is None


def test_a_run_takes_a_claim_that_sql_wrote_in_its_own_way(instance: DagsterInstance) -> None:
    scheduled("sql")
    due = (timezone.now() - dt.timedelta(minutes=5)).replace(microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_processtreeschedule SET claim = %s, claimed_at = %s",
            [f"{due:%Y-%m-%dT%H:%M:%SZ}", f"{due:%Y-%m-%dT%H:%M:%SZ}"],
        )
    assert isinstance(due_time_claims.take("sql", due, "a run"), due_time_claims.Taken)


def test_a_run_that_can_never_take_its_claim_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled("sql")
    due = timezone.now().replace(microsecond=0)
    monkeypatch.setattr(due_time_claims, "_rewrite", lambda schedule: None)
    with connection.cursor() as cursor:
        written = f"{due:%Y-%m-%dT%H:%M:%SZ}"
        cursor.execute("UPDATE proctree_dagster_processtreeschedule SET claim = %s", [written])
    taken = due_time_claims.take("sql", due, "a run")
    assert isinstance(taken, due_time_claims.Skip)
    assert "can't be taken" in taken.reason


def test_a_last_run_without_an_id_says_nothing_of_other_schedules(
    instance: DagsterInstance,
) -> None:
    lost, other = scheduled("lost", due=False), scheduled("other", due=False)
    ProcessTreeSchedule.objects.filter(pk=lost.pk).update(last_run_status="started")
    claim(lost, instance)
    lost.refresh_from_db()
    other.refresh_from_db()
    assert (lost.last_run_status, other.last_run_status) == ("failure", "")


def test_a_lost_run_whose_events_can_not_be_written_does_not_hold_its_schedule_back(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = scheduled("books")
    ProcessTreeSchedule.objects.update(
        last_run_status="started", last_run_id=tree_runs.submit_row(schedule.process_tree).run_id
    )

    def fails(*args: object) -> None:
        raise OSError("its file is broken")

    monkeypatch.setattr(lost_runs, "settle_run", fails)
    monkeypatch.setattr(lost_runs, "is_alive", lambda *args, **known: True)
    assert check_and_run_scheduled_tasks() == {}  # its worker may be at work
    monkeypatch.setattr(lost_runs, "is_alive", lambda *args, **known: False)
    assert check_and_run_scheduled_tasks()["books"]["success"]


def test_inside_a_transaction_nothing_is_claimed(instance: DagsterInstance) -> None:
    schedule = scheduled("inside")
    with transaction.atomic():
        with pytest.raises(ScheduleError, match="inside a transaction"):
            check_and_run_scheduled_tasks()
        with pytest.raises(ScheduleError, match="inside a transaction"):
            ProcessTreeInstance.load("inside").create_task_function()()
    schedule.refresh_from_db()
    assert schedule.claim is None
    assert check_and_run_scheduled_tasks()["inside"]["success"]


class TestTaskFunction:
    def test_without_a_schedule_it_always_runs(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("free").add_process("one", func=processes.one)
        tree.save()
        task = tree.create_task_function()
        for _ in range(2):
            results = task()
            assert results is not None
            assert results["success"]
        assert len(instance.get_runs()) == 2

    def test_with_a_schedule_it_claims_first(self, instance: DagsterInstance) -> None:
        scheduled("claimed")
        task = ProcessTreeInstance.load("claimed").create_task_function()
        results = task()
        assert results is not None
        assert results["success"]
        assert task() is None
        assert len(instance.get_runs(RunsFilter(job_name="claimed"))) == 1

    def test_it_raises_when_the_tree_fails(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("failing").add_process("bad", func=processes.fail)
        tree.save()
        with pytest.raises(TreeFailed, match="bad: ValueError: this process always fails"):
            tree.create_task_function()()

    def test_it_survives_pickling_and_raises_when_the_tree_is_gone(self) -> None:
        tree = ProcessTreeInstance("gone").add_process("one", func=processes.one)
        row = tree.save()
        task = pickle.loads(pickle.dumps(tree.create_task_function()))
        row.delete()
        with pytest.raises(TreeNotFound):
            task()
