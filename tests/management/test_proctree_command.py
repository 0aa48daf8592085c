"""``manage.py proctree list``: what holds a schedule back, Django's switch or Dagster's."""

import datetime as dt
import gc
import logging
import os
import tracemalloc
from dataclasses import replace
from io import StringIO

import pytest
from dagster import DagsterInstance
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.orchestration.launching.workers import Worker
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import origins
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db


def scheduled(name: str) -> ProcessTreeSchedule:
    tree = ProcessTreeInstance(name).add_process("one", func=processes.one)
    tree.save()
    return tree.register_schedule(cron="0 9 * * *")


def switch(instance: DagsterInstance, name: str, status: InstigatorStatus) -> None:
    """Turn Dagster's switch of a schedule, as its UI does."""
    switch_in(origins.remote_origin(name).repository_origin, instance, name, status)


def switch_in(
    repository: RemoteRepositoryOrigin,
    instance: DagsterInstance,
    name: str,
    status: InstigatorStatus,
) -> None:
    origin = RemoteInstigatorOrigin(repository, f"{name}{run_tags.SCHEDULE_SUFFIX}")
    data = ScheduleInstigatorData("0 9 * * *", start_timestamp=None)
    state = InstigatorState(origin, InstigatorType.SCHEDULE, status, data)
    known = instance.get_instigator_state(origin.get_id(), origin.get_selector().get_id())
    (instance.add_instigator_state if known is None else instance.update_instigator_state)(state)


def listed() -> str:
    """Return what the command lists; it writes nothing."""
    out = StringIO()
    with CaptureQueriesContext(connection) as queries:
        call_command("proctree", "list", stdout=out, stderr=out, no_color=True)
    assert {query["sql"].split()[0] for query in queries} <= {"SELECT"}
    return out.getvalue()


def test_every_tree_is_listed_with_its_rule_and_its_last_run(instance: DagsterInstance) -> None:
    ProcessTreeInstance("by_hand").add_process("one", func=processes.one).save()
    scheduled("close")
    ProcessTreeSchedule.objects.update(
        next_run=dt.datetime(2026, 6, 10, 7, tzinfo=dt.UTC),
        last_run=dt.datetime(2026, 6, 9, 7, tzinfo=dt.UTC),
        last_run_status=RunStatus.SUCCESS,
        last_run_id="abc",
    )
    by_hand, close = listed().splitlines()[:2]
    assert by_hand.split("\t")[:2] == ["by_hand", "no schedule"]
    assert close == (
        "close\tat 09:00 every day in Africa/Johannesburg\t2026-06-10 09:00\t2026-06-09 09:00\t"
        "success\tabc\t"
    )


def cost_of_listing(trees: int) -> tuple[int, int]:
    """Return how many queries a list of so many trees takes, and its bytes of memory at most."""
    [first, *_] = ProcessTree.objects.all()
    there = ProcessTree.objects.count()
    made = ProcessTree.objects.bulk_create(
        ProcessTree(name=f"t{number}", job_name=f"t{number}", processes=first.processes)
        for number in range(there, trees)
    )
    ProcessTreeSchedule.objects.bulk_create(
        ProcessTreeSchedule(process_tree=each, interval_minutes=60) for each in made
    )
    call_command("proctree", "list", stdout=StringIO(), stderr=StringIO())  # imports, caches
    with CaptureQueriesContext(connection) as queries:
        call_command("proctree", "list", stdout=StringIO(), stderr=StringIO())
    threshold = gc.get_threshold()
    gc.set_threshold(700)  # Python's own: the tests search for garbage more rarely
    tracemalloc.start()
    try:
        call_command("proctree", "list", stdout=StringIO(), stderr=StringIO())
        return len(queries), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.set_threshold(*threshold)


def test_a_thousand_trees_are_listed_in_the_queries_of_ten_and_little_more_memory(
    instance: DagsterInstance,
) -> None:
    tree = ProcessTreeInstance("large")
    for number in range(30):
        tree.add_process(f"process {number}", func=processes.one)
    tree.save()
    queries, memory = cost_of_listing(10)
    more_queries, more_memory = cost_of_listing(1000)
    assert more_queries == queries
    # A line of the list and its cells for each: none of the trees and their processes is kept.
    assert more_memory - memory < 1000 * 4000


def test_which_of_the_two_switches_holds_a_schedule_back(instance: DagsterInstance) -> None:
    for name in ("neither", "django", "dagster", "both"):
        scheduled(name)
    ProcessTreeSchedule.objects.filter(process_tree__name__in=["django", "both"]).update(
        enabled=False
    )
    switch(instance, "neither", InstigatorStatus.RUNNING)
    switch(instance, "dagster", InstigatorStatus.STOPPED)
    switch(instance, "both", InstigatorStatus.STOPPED)
    text = listed()
    lines = [line.split("\t") for line in text.splitlines()[:4]]
    assert {line[0]: line[-1] for line in lines} == {
        **{"both": "Django and Dagster", "dagster": "Dagster"},
        **{"django": "Django", "neither": ""},
    }
    assert "django does not run: its 'enabled' is off" in text
    assert "dagster does not run: its switch in Dagster is off" in text
    assert text.count("both does not run") == 2
    assert "neither does not run" not in text
    switch(instance, "dagster", InstigatorStatus.RUNNING)
    assert "dagster does not run" not in listed()


@pytest.mark.parametrize(
    ("location", "repository"),
    [("warehouse", "process_trees"), ("proctree", "__repository__"), ("warehouse", "other")],
)
def test_a_schedule_of_the_same_name_elsewhere_is_not_ours(
    location: str, repository: str, instance: DagsterInstance
) -> None:
    scheduled("close")
    server = GrpcServerCodeLocationOrigin("127.0.0.1", 4000, location_name=location)
    elsewhere = RemoteRepositoryOrigin(server, repository)
    switch_in(elsewhere, instance, "close", InstigatorStatus.STOPPED)
    assert "does not run" not in listed()
    switch(instance, "close", InstigatorStatus.STOPPED)
    switch_in(elsewhere, instance, "close", InstigatorStatus.RUNNING)
    assert "close does not run: its switch in Dagster is off" in listed()


def test_a_run_that_dagster_does_not_know_any_more_is_not_listed_as_started(
    instance: DagsterInstance,
) -> None:
    scheduled("close")
    ProcessTreeSchedule.objects.update(
        last_run=timezone.now(),
        last_run_status=RunStatus.STARTED,
        last_run_id="gone",
        last_run_worker=replace(Worker.of_process("gone", os.getpid()), started="1").as_text(),
    )
    assert "failure" in listed()


def test_a_run_whose_worker_seems_lost_is_listed_so_and_nothing_is_written(
    instance: DagsterInstance,
) -> None:
    scheduled("close")
    run_id, _ = tree_runs.submit_row(ProcessTree.objects.get())
    ProcessTreeSchedule.objects.update(
        last_run=timezone.now(),
        last_run_status=RunStatus.STARTED,
        last_run_id=run_id,
        last_run_worker=replace(Worker.of_process(run_id, os.getpid()), started="1").as_text(),
    )
    assert "lost?" in listed()
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert not run.is_finished


@pytest.mark.usefixtures("real_dagster")
def test_without_a_home_of_dagsters_what_the_rows_say_is_listed() -> None:
    scheduled("close")
    text = listed()
    assert "Dagster was not asked: Dagster has no home" in text
    assert "at 09:00 every day" in text


def test_what_was_switched_in_dagsters_ui_is_written_down_when_it_refreshes(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled("close")
    switch(instance, "close", InstigatorStatus.STOPPED)
    with caplog.at_level(logging.WARNING, "proctree_dagster"):
        LiveRepositoryData(ProcessTreeTranslator()).get_all_schedules()
    assert ProcessTreeSchedule.objects.get().held_back_by == "Dagster"
    assert "was stopped in Dagster: the daemon does not run it, though it is enabled" in caplog.text
