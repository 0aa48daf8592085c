"""Several schedules of one tree: each has its name, its context, its claims and its runs."""

import datetime as dt
import logging
import re
from typing import Any

import pytest
from dagster import DagsterInstance, build_schedule_context
from django.core.management import call_command
from django.utils import timezone

from proctree_dagster.domain import names, run_tags
from proctree_dagster.exceptions import ScheduleError, ScheduleNotFound
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import schedule_claims
from proctree_dagster.orchestration.serving import schedule_status
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.services import due_time_claims, scheduling
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = ('it\'s "quoted"', "\U0001f4a5", "é" * 200, "a b", "a-b", "../../etc", "%s {0}")


def save(name: str = "close", func: Any = processes.echo) -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name).add_process("echo", func=func)
    tree.save()
    return tree


def overdue(**which: Any) -> dt.datetime:
    """Let schedules be due since a few minutes; return the due time."""
    due = timezone.now().replace(second=0, microsecond=0) - dt.timedelta(minutes=5)
    ProcessTreeSchedule.objects.filter(**which).update(next_run=due)
    return due


def live() -> LiveRepositoryData:
    return LiveRepositoryData(ProcessTreeTranslator())


# --- Names ----------------------------------------------------------------------------------------


def test_the_default_schedules_name_in_dagster_is_the_jobs_with_a_suffix() -> None:
    assert save().register_schedule().dagster_name == "close_schedule"


def test_a_schedules_name_in_dagster_has_what_the_reader_needs_and_nothing_reads_it_back() -> None:
    found = names.schedule_name("job", "Harbour Lane")
    assert re.fullmatch(r"job_Harbour_Lane_[0-9a-f]{8}_schedule", found)
    assert names.schedule_name("job", "Harbour Lane", 2) != found


def test_no_name_in_dagster_depends_on_its_neighbours() -> None:
    first = save("a").register_schedule(name="b")
    other = save("a_b").register_schedule()
    assert other.dagster_name == "a_b_schedule"
    assert re.fullmatch(r"a_b_[0-9a-f]{8}_schedule", first.dagster_name or "")
    taken = save((first.dagster_name or "").removesuffix("_schedule")).register_schedule()
    assert taken.dagster_name not in (None, first.dagster_name), "however unlikely"


def test_names_that_look_alike_in_dagster_stay_apart_and_any_name_will_do() -> None:
    tree = save()
    found = [tree.register_schedule(name=name).dagster_name or "" for name in HOSTILE]
    assert len({*found, tree.register_schedule().dagster_name}) == len(HOSTILE) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", each) for each in found)
    data = live()
    assert set(data.get_schedule_names()) == {*found, "close_schedule"}
    assert {each.name for each in data.get_all_schedules()} == {*found, "close_schedule"}
    assert [data.get_schedule(each).job_name for each in found] == ["close"] * len(found)


@pytest.mark.parametrize("name", ["", " ", " a", "a\x00", "a\nb", "a" * 201, 5, "\ud800"])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ScheduleError, match="name"):
        save().register_schedule(name=name)
    assert not ProcessTreeSchedule.objects.exists()


def test_a_renamed_schedule_keeps_its_name_in_dagster_and_its_old_name_is_free() -> None:
    tree = save()
    schedule = tree.register_schedule()
    schedule.name = "renamed"
    schedule.save()
    again = tree.register_schedule()
    assert tree.get_schedule("renamed").dagster_name == "close_schedule"
    assert again.dagster_name not in (None, "close_schedule")


def test_bulk_create_and_a_copy_give_each_its_own_name_in_dagster() -> None:
    row = save().save()
    ProcessTreeSchedule.objects.bulk_create(
        ProcessTreeSchedule(process_tree=row, name=name) for name in ("default", "a", "a ", "a_")
    )
    copied = ProcessTreeSchedule.objects.get(name="a")
    copied.pk, copied.name = None, "copy"
    copied.save()
    found = ProcessTreeSchedule.objects.values_list("dagster_name", flat=True)
    assert len(set(found)) == 5
    assert "close_schedule" in found


def test_a_row_of_sql_is_given_its_name_when_it_is_listed() -> None:
    save().register_schedule()
    ProcessTreeSchedule.objects.update(dagster_name=None)
    assert live().get_schedule_names() == ["close_schedule"]
    assert ProcessTreeSchedule.objects.get().dagster_name == "close_schedule"


# --- Registering ----------------------------------------------------------------------------------


def test_each_name_has_its_own_rule_and_context() -> None:
    tree = save()
    for name in ("harbour-lane", "quiver-tree"):
        tree.register_schedule(name=name, cron="0 9 * * *", context={"customer": name})
    tree.register_schedule(interval_minutes=30)
    assert tree.get_schedule("quiver-tree").context == {"customer": "quiver-tree"}
    assert tree.get_schedule().interval_minutes == 30
    with pytest.raises(ScheduleNotFound, match="no schedule called 'x'; its schedules are 'def"):
        tree.get_schedule("x")
    assert tree.remove_schedule("quiver-tree")
    assert not tree.remove_schedule("quiver-tree")
    assert ProcessTreeSchedule.objects.count() == 2


def test_another_context_under_one_name_says_what_it_replaces(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = save()
    caplog.set_level(logging.WARNING, "proctree_dagster")
    tree.register_schedule(context={"customer": 1, "api_token": "s3cret"})
    tree.register_schedule(context={"customer": 1, "api_token": "s3cret"})
    tree.register_schedule(interval_minutes=30)
    assert caplog.messages == []
    tree.register_schedule(context={"customer": 2, "api_token": "s3cret"})
    [said] = caplog.messages
    assert '"customer": 1' in said
    assert '"customer": 2' in said
    assert "register_schedule(name=…)" in said
    assert "s3cret" not in said


def test_the_tree_has_its_default_schedule_as_a_one_to_one_relation_had_it() -> None:
    tree = save()
    row = ProcessTree.objects.get()
    assert not hasattr(row, "schedule")
    with pytest.raises(ProcessTreeSchedule.DoesNotExist):
        _ = row.schedule
    with pytest.raises(AttributeError):
        _ = row.schedule
    tree.register_schedule(name="named")
    assert row.schedule_or_none is None
    tree.register_schedule()
    row.refresh_from_db()
    assert hasattr(row, "schedule")
    row.schedule.enabled = False
    row.schedule.save()
    assert not ProcessTreeSchedule.objects.get(name="default").enabled
    assert ProcessTree.objects.filter(schedule__enabled=False).get() == row
    row.schedule.delete()
    assert not hasattr(row, "schedule")


def test_the_default_context_of_a_tree_is_its_default_schedules() -> None:
    tree = save()
    tree.register_schedule(name="named", context={"a": 1})
    assert ProcessTree.objects.get().default_context == {}
    before = ProcessTree.objects.get().revision
    tree.register_schedule(name="named", context={"a": 2})
    assert ProcessTree.objects.get().revision == before
    tree.register_schedule(context={"b": 1})
    assert ProcessTree.objects.get().default_context == {"b": 1}
    assert ProcessTreeManager.execute_tree("close")["results"]["echo"] == {"b": 1}


def test_drift_is_said_of_each_schedule_by_its_name() -> None:
    tree = save()
    for name in ("default", "night"):
        tree.register_schedule(name=name)
    assert ProcessTree.objects.get().edited == []
    scheduling.register(ProcessTree.objects.get(), by_code=False, name="night", cron="0 1 * * *")
    assert ProcessTree.objects.get().edited == ["schedule 'night'"]


# --- Runs -----------------------------------------------------------------------------------------


def test_two_schedules_that_are_due_in_one_minute_make_two_runs(instance: DagsterInstance) -> None:
    tree = save()
    tree.register_schedule(context={"who": "default", "empty": None})
    tree.register_schedule(name="night", context={"only": "mine"})
    overdue()
    results = check_and_run_scheduled_tasks()
    assert {name: each["results"]["echo"] for name, each in results.items()} == {
        "close": {"who": "default", "empty": None},
        "close (night)": {"only": "mine"},
    }
    runs = {run.tags.get(run_tags.SCHEDULE): run for run in instance.get_runs()}
    assert set(runs) == {None, "night"}
    assert runs["night"].run_config == {"context": {"only": "mine"}}
    last = dict(ProcessTreeSchedule.objects.values_list("name", "last_run_id"))
    assert last == {"default": runs[None].run_id, "night": runs["night"].run_id}


def test_each_ticks_for_itself(instance: DagsterInstance) -> None:
    tree = save()
    tree.register_schedule(context={"a": 1})
    tree.register_schedule(name="night", context={"b": 2}, tags={"team": "books"})
    due = schedule_claims.due_tag(overdue())
    found = {}
    for schedule in build_repository().schedule_defs:
        now = timezone.now().replace(second=0, microsecond=0)
        context = build_schedule_context(instance=instance, scheduled_execution_time=now)
        [request] = schedule.evaluate_tick(context).run_requests or []
        found[schedule.name] = request
    assert len(found) == 2
    assert found.pop("close_schedule").tags.get(run_tags.SCHEDULE) is None
    [night] = found.values()
    assert night.run_config == {"context": {"b": 2}}
    assert (night.run_key, night.tags["team"]) == (due, "books")
    assert night.tags[run_tags.SCHEDULE] == "night"


def test_overlap_is_judged_for_each_schedule_alone(instance: DagsterInstance) -> None:
    tree = save()
    tree.register_schedule()
    tree.register_schedule(name="night")
    overdue()
    runs = {"last_run_status": RunStatus.STARTED, "last_run_id": "x", "last_run_worker": ""}
    ProcessTreeSchedule.objects.filter(name="night").update(**runs)

    class StillRuns:
        def of_run(self, run_id: str, worker: str) -> RunStatus:
            return RunStatus.STARTED

    at, found = timezone.now(), ProcessTreeSchedule.objects.in_bulk(field_name="dagster_name")
    decisions: dict[str, Any] = {
        each.name: due_time_claims.request(each.pk, at, StillRuns())  # type: ignore[arg-type]
        for each in found.values()
    }
    assert isinstance(decisions["default"], due_time_claims.Due)
    assert "is still running" in decisions["night"].reason


def test_a_claim_is_that_of_the_schedule_that_the_run_names() -> None:
    tree = save()
    for name in ("default", "night"):
        tree.register_schedule(name=name)
    due = overdue()
    ProcessTreeSchedule.objects.update(claim=due, claimed_at=due)
    assert isinstance(due_time_claims.take("close", due, "one", "", "night"), due_time_claims.Taken)
    open_claims = ProcessTreeSchedule.objects.filter(claim=due)
    assert [each.name for each in open_claims] == ["default"]
    assert isinstance(due_time_claims.take("close", due, "two"), due_time_claims.Taken)
    due_time_claims.end("one", RunStatus.FAILURE)
    status = dict(ProcessTreeSchedule.objects.values_list("name", "last_run_status"))
    assert status == {"default": "started", "night": "failure"}


def test_the_runs_of_a_claim_are_those_of_its_schedule(instance: DagsterInstance) -> None:
    tree = save()
    tree.register_schedule(name="night")
    pk = tree.register_schedule().pk
    overdue(name="night")
    assert list(check_and_run_scheduled_tasks()) == ["close (night)"]
    [run] = instance.get_runs()
    due = dt.datetime.fromisoformat(run.tags[run_tags.DUE])
    history = schedule_claims.ScheduleHistory(instance, tree.get_schedule("night").pk)
    assert history.of_claim(due) == "finished"
    assert schedule_claims.ScheduleHistory(instance, pk).of_claim(due) == "none"


def test_a_schedule_that_is_removed_while_its_claim_is_open_runs_no_more() -> None:
    tree = save()
    tree.register_schedule()
    tree.register_schedule(name="night")
    due = overdue()
    ProcessTreeSchedule.objects.update(claim=due, claimed_at=due)
    tree.remove_schedule("night")
    skipped = due_time_claims.take("close", due, "one", "", "night")
    assert isinstance(skipped, due_time_claims.Skip)
    assert "is gone" in skipped.reason
    assert tree.get_schedule().claim == due


def test_what_a_run_updates_is_the_context_of_the_schedule_that_its_tags_name() -> None:
    tree = save()
    tree.register_schedule(context={"a": 1})
    tree.register_schedule(name="night", context={"b": 2})
    row = ProcessTree.objects.get()
    assert row.base_context(run_tags.of_schedule("night")) == {"b": 2}
    assert row.base_context({}) == {"a": 1}
    assert row.base_context(run_tags.of_schedule("gone")) == {}


def test_a_task_function_runs_the_named_schedule(instance: DagsterInstance) -> None:
    tree = save()
    tree.register_schedule(name="night", context={"b": 2})
    with pytest.raises(ScheduleNotFound):
        tree.create_task_function("day")
    task = tree.create_task_function("night")
    assert task() is None
    overdue()
    results = task()
    assert results is not None
    assert results["results"]["echo"] == {"b": 2}


# --- Dagster's switch -----------------------------------------------------------------------------


def test_a_switch_in_dagster_is_that_of_one_schedule_also_after_it_is_renamed(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = save()
    tree.register_schedule()
    night = tree.register_schedule(name="night")
    monkeypatch.setattr(schedule_status, "stopped", lambda instance: {night.dagster_name})
    night.name = "late"
    night.save()
    schedule_status.look_at_switches(instance)
    held = dict(ProcessTreeSchedule.objects.values_list("name", "stopped_in_dagster"))
    assert held == {"default": False, "late": True}


# --- The command line -----------------------------------------------------------------------------


def test_the_commands_take_the_name_of_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    tree = save()
    call_command("proctree", "schedule", "close", "--every", "60")
    call_command("proctree", "schedule", "close", "--name", "night", "--cron", "0 1 * * *")
    call_command("proctree", "disable", "close", "--name", "night")
    capsys.readouterr()
    call_command("proctree", "list")
    listed, warned = capsys.readouterr()
    assert "close\tevery hour" in listed
    assert "close (night)\tat 01:00" in listed
    assert "close (night) does not run" in warned
    call_command("proctree", "show", "close")
    shown = capsys.readouterr().out
    assert "Schedule: every hour" in shown
    assert "Schedule 'night': at 01:00" in shown
    call_command("proctree", "enable", "close", "--name", "night")
    assert tree.get_schedule("night").enabled
    with pytest.raises(Exception, match="no schedule called 'x'"):
        call_command("proctree", "disable", "close", "--name", "x")
