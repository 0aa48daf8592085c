"""The live repository: what the database says now, at little cost."""

import datetime as dt
import logging
import sys
from pathlib import Path

import psutil
import pytest
from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    RunRequest,
    SkipReason,
    build_schedule_context,
)
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import deserialize_value, serialize_value
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.orchestration import repository_data
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger
from tests.app import processes

pytestmark = pytest.mark.django_db


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no snapshot outlive the call that took it."""
    monkeypatch.setattr(repository_data, "SNAPSHOT_SECONDS", -1.0)


def save(name: str = "one", scheduled: bool = True) -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name, overwrite=True).add_process("one", func=processes.one)
    tree.save()
    if scheduled:
        tree.register_schedule(context={"a": 1})
    return tree


def data() -> LiveRepositoryData:
    return LiveRepositoryData(ProcessTreeTranslator())


def test_every_saved_tree_is_a_job_and_every_schedule_a_schedule() -> None:
    repository = build_repository()
    assert repository.name == "process_trees"
    save("b", scheduled=False)
    save("a")
    assert repository.job_names == ["a", "b"]
    assert [schedule.name for schedule in repository.schedule_defs] == ["a_schedule"]


@pytest.mark.usefixtures("fresh")
def test_a_tree_that_is_saved_changed_or_deleted_is_served_as_it_is() -> None:
    live = data()
    assert live.get_job_names() == []
    tree = save()
    assert live.get_job_names() == ["one"]
    tree.add_process("two", func=processes.two).save()
    assert {node.name for node in live.get_job("one").graph.nodes} == {"one", "two"}
    ProcessTree.objects.all().delete()
    assert not live.has_job("one")
    with pytest.raises(DagsterInvariantViolationError, match="'one': it was deleted"):
        live.get_job("one")
    with pytest.raises(DagsterInvariantViolationError, match="was deleted, or has no schedule"):
        live.get_schedule("one_schedule")


def test_a_job_may_begin_with_underscores() -> None:
    save("__mine")
    assert data().has_job("__mine")
    assert not data().has_job("__ASSET_JOB")


@pytest.mark.parametrize("deferred", [True, False])
def test_the_whole_repository_can_be_sent_as_a_code_server_sends_it(deferred: bool) -> None:
    create_trigger("polled", "schedule", {"interval_minutes": 5})
    save().subscribe_to_trigger("polled")
    snapshot = RepositorySnap.from_def(build_repository(), defer_snapshots=deferred)
    received = deserialize_value(serialize_value(snapshot), RepositorySnap)
    assert received == snapshot
    assert [each.name for each in received.schedules] == ["one_schedule"]
    assert {each.name for each in received.sensors} == {"polled_trigger", *run_tags.SENSORS}
    assert received.metadata
    assert received.metadata[run_tags.ENVIRONMENT].value


def test_few_queries_serve_a_whole_refresh_however_many_trees_there_are(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    create_trigger("subscribed", "schedule", {"interval_minutes": 5})
    for number in range(20):
        save(f"tree_{number}").subscribe_to_trigger("subscribed")
    repository = build_repository()
    # The trees, their schedules, links and subscriptions; the triggers and their trees.
    with django_assert_num_queries(6):
        snapshot = RepositorySnap.from_def(repository)
    assert len(snapshot.job_refs or snapshot.job_datas or []) == 20


def test_asking_for_one_job_builds_one_job_with_three_queries(
    django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        save(f"tree_{number}")
    built: list[str] = []
    translate = ProcessTreeTranslator.job

    def counted(self, tree, **kwargs):  # type: ignore[no-untyped-def]
        built.append(tree.name)
        return translate(self, tree, **kwargs)

    monkeypatch.setattr(ProcessTreeTranslator, "job", counted)
    with django_assert_num_queries(3):  # the tree, its links, and its subscriptions
        data().get_job("tree_7")
    assert built == ["tree_7"]


@pytest.mark.parametrize(("due", "queries"), [(False, 2), (True, 3)])
def test_a_tick_costs_two_queries_and_a_claim_one_more(
    instance: DagsterInstance,
    django_assert_num_queries: DjangoAssertNumQueries,
    due: bool,
    queries: int,
) -> None:
    save()
    if due:
        ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=1))
    repository = build_repository()
    context = build_schedule_context(instance, scheduled_execution_time=timezone.now())
    with django_assert_num_queries(queries):
        tick = repository.get_schedule_def("one_schedule").evaluate_tick(context)
    assert bool(tick.run_requests) == due


@pytest.mark.usefixtures("fresh")
def test_a_job_is_kept_until_its_revision_changes() -> None:
    live = data()
    tree = save()
    first = live.get_job("one")
    assert live.get_job("one") is first
    [listed] = live.get_all_jobs()
    assert listed.graph is first.graph
    tree.register_schedule(context={"a": 2})
    assert live.get_job("one") is not first


@pytest.mark.usefixtures("fresh")
def test_one_bad_tree_is_one_bad_job_and_the_others_are_untouched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    save("good")
    save("bad")
    ProcessTree.objects.filter(name="bad").update(
        processes=[{"name": "x", "func": "tests.app.gone:x"}]
    )
    live = data()
    with caplog.at_level(logging.ERROR):
        jobs = {job.name: job for job in live.get_all_jobs()}
        live.get_all_jobs()
    assert [node.name for node in jobs["bad"].graph.nodes] == ["broken_tree"]
    assert [node.name for node in jobs["good"].graph.nodes] == ["one"]
    assert set(live.get_schedule_names()) == {"bad_schedule", "good_schedule"}
    assert len([record for record in caplog.records if "is broken" in record.message]) == 1


@pytest.mark.usefixtures("fresh")
def test_a_translators_fault_breaks_its_tree_only() -> None:
    class Faulty(ProcessTreeTranslator):
        def graph(self, tree):  # type: ignore[no-untyped-def]
            if tree.name == "bad":
                raise RuntimeError("a fault of the project's own translator")
            return super().graph(tree)

    save("good")
    save("bad")
    jobs = {job.name: job for job in LiveRepositoryData(Faulty()).get_all_jobs()}
    assert "a fault of the project's own translator" in (jobs["bad"].description or "")
    assert [node.name for node in jobs["good"].graph.nodes] == ["one"]


class TestSchedules:
    def test_a_disabled_schedule_stays_and_its_tick_says_why_it_skips(
        self, instance: DagsterInstance
    ) -> None:
        save()
        ProcessTreeSchedule.objects.update(enabled=False)
        schedule = data().get_schedule("one_schedule")
        assert schedule.default_status == DefaultScheduleStatus.RUNNING
        tick = self.tick(instance)
        assert isinstance(tick, SkipReason)
        assert "Disabled in Django" in (tick.skip_message or "")

    def test_a_due_tick_requests_a_run_with_the_rows_context_and_claims_it(
        self, instance: DagsterInstance
    ) -> None:
        save()
        due = timezone.now().replace(microsecond=0) - dt.timedelta(minutes=1)
        ProcessTreeSchedule.objects.update(next_run=due)
        tick = self.tick(instance)
        assert isinstance(tick, RunRequest)
        assert tick.run_config == {"context": {"a": 1}}
        assert tick.tags[run_tags.TRIGGERED_BY] == "schedule"
        assert dt.datetime.fromisoformat(tick.tags[run_tags.DUE]) == due
        assert tick.run_key == tick.tags[run_tags.DUE]
        assert ProcessTreeSchedule.objects.get().claim == due
        later = self.tick(instance)
        assert isinstance(later, SkipReason)

    def test_a_tick_that_is_not_due_says_until_when(self, instance: DagsterInstance) -> None:
        save()
        tick = self.tick(instance)
        assert isinstance(tick, SkipReason)
        assert "Not due until" in (tick.skip_message or "")

    def test_the_tick_of_a_deleted_tree_skips(self, instance: DagsterInstance) -> None:
        save()
        schedule = data().get_schedule("one_schedule")
        ProcessTree.objects.all().delete()
        tick = schedule.evaluate_tick(
            build_schedule_context(instance, scheduled_execution_time=timezone.now())
        )
        assert "was deleted" in (tick.skip_message or "")

    def test_a_zone_that_became_unknown_breaks_no_listing(self, instance: DagsterInstance) -> None:
        save("good")
        save("bad")
        bad = ProcessTreeSchedule.objects.filter(process_tree__name="bad")
        bad.update(timezone="Mars/Olympus")
        schedules = {each.name: each for each in data().get_all_schedules()}
        assert schedules["bad_schedule"].cron_schedule == "* * * * *"
        assert "Mars/Olympus" in (schedules["bad_schedule"].description or "")

    def test_crons_are_coarse_and_every_minute_only_while_overdue(self) -> None:
        save()
        live = data()
        assert live.get_schedule("one_schedule").cron_schedule == "0 * * * *"
        ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=2))
        assert live.get_schedule("one_schedule").cron_schedule == "* * * * *"

    def tick(self, instance: DagsterInstance) -> RunRequest | SkipReason:
        schedule = data().get_schedule("one_schedule")
        context = build_schedule_context(instance, scheduled_execution_time=timezone.now())
        result = schedule.evaluate_tick(context)
        if result.run_requests:
            return result.run_requests[0]
        return SkipReason(result.skip_message)


@pytest.mark.usefixtures("fresh")
class TestRowsThatWereSavedPastTheModel:
    """Whatever SQL puts into a row, the other trees are served, and the row is a bad job."""

    def served(self) -> dict[str, list[str]]:
        live = data()
        jobs = {job.name: [node.name for node in job.graph.nodes] for job in live.get_all_jobs()}
        for name in live.get_schedule_names():
            live.get_schedule(name)
        for name in jobs:
            live.get_job(name)
        RepositorySnap.from_def(build_repository())
        return jobs

    def test_a_tree_without_a_job_name(self) -> None:
        save("good")
        one = [{"name": "one", "func": "tests.app.processes:one"}]
        ProcessTree.objects.bulk_create([ProcessTree(name="bulk", processes=one)])
        assert self.served() == {"good": ["one"], "bulk": ["one"]}

    @pytest.mark.parametrize("job_name", ["a b", "é", "type"])
    def test_a_job_name_that_dagster_refuses(self, job_name: str) -> None:
        save("good")
        save("bad")
        ProcessTree.objects.filter(name="bad").update(job_name=job_name)
        assert len(self.served()) == 2

    @pytest.mark.parametrize(
        "context", ["[1]", "null", "5", '"abc"', '{"a": {"$date": 1}}', '{"a": ' + "9" * 5000 + "}"]
    )
    def test_a_context_that_makes_no_sense(self, context: str) -> None:
        save("good")
        save("bad")
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE proctree_dagster_processtreeschedule SET context = %s WHERE "
                "process_tree_id = %s",
                [context, ProcessTree.objects.get(name="bad").pk],
            )
        assert self.served() == {"good": ["one"], "bad": ["broken_tree"]}

    @pytest.mark.parametrize(
        "processes_field", ["null", "5", '"x"', "[[[]]]", '[{"name": ' + "9" * 5000 + "}]"]
    )
    def test_processes_that_make_no_sense(self, processes_field: str) -> None:
        save("good")
        save("bad")
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE proctree_dagster_processtree SET processes = %s WHERE name = 'bad'",
                [processes_field],
            )
        assert self.served() == {"good": ["one"], "bad": ["broken_tree"]}

    @pytest.mark.parametrize(
        ("column", "value"), [("start_time", "garbage"), ("start_time", ""), ("timezone", "x/y")]
    )
    def test_a_schedule_that_makes_no_sense(self, column: str, value: str) -> None:
        save("good")
        save("bad")
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE proctree_dagster_processtreeschedule SET {column} = %s WHERE "
                "process_tree_id = %s",
                [value, ProcessTree.objects.get(name="bad").pk],
            )
        assert set(self.served()) == {"good", "bad"}


@pytest.mark.parametrize(
    "error",
    [psutil.AccessDenied(1), psutil.ZombieProcess(1), psutil.NoSuchProcess(1), PermissionError()],
)
def test_beside_a_parent_that_can_not_be_read_the_code_location_loads(
    error: Exception,
    dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(process: psutil.Process) -> list[str]:
        raise error

    monkeypatch.setattr(sys, "argv", ["dagster", "api", "grpc"])
    monkeypatch.setattr(psutil.Process, "cmdline", refuse)
    assert build_repository().name == run_tags.REPOSITORY
    assert "can't be read" in caplog.text


def test_a_home_that_can_not_be_prepared_does_not_keep_the_code_location_from_loading(
    dagster_home: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "POOLS": {"xero": 5}}
    (dagster_home / "dagster.yaml").write_text("no_such_key: 1")
    assert build_repository().name == run_tags.REPOSITORY
    assert "could not be prepared" in caplog.text
