"""A listing of many trees: what it costs, what it keeps, and for whom it waits."""

import enum
import gc
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import JobDefinition
from dagster._core.remote_representation.external_data import (
    JobDataSnap,
    JobRefSnap,
    RepositorySnap,
)
from dagster._core.snap import JobSnap
from dagster._serdes import serialize_value
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from proctree_dagster import functions
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.models.context_schema import ContextSchema
from proctree_dagster.orchestration import repository, repository_data, snapshot_texts
from proctree_dagster.orchestration.execution.tree_run import RUN_RESOURCE, WORKERS_RUN_RESOURCE
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.serving.job_snapshots import SnapshotJob, snapshot_job
from proctree_dagster.orchestration.serving.launchpad import context_mapping
from proctree_dagster.orchestration.snapshot_texts import snapshot_text
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import TreeRecord, from_row
from tests.app import processes

pytestmark = pytest.mark.django_db

TREES = 20


@pytest.fixture
def trees() -> list[ProcessTree]:
    saved = [
        ProcessTree.objects.create(
            name=f"tree {number}",
            description=f"Number {number}.",
            processes=[
                {"name": "one", "func": "tests.app.processes:one"},
                {"name": "two", "func": "tests.app.processes:two", "dependencies": ["one"]},
            ],
        )
        for number in range(TREES)
    ]
    for tree in saved:
        ProcessTreeSchedule.objects.create(process_tree=tree, context={"a": tree.pk})
    return saved


class Counting(ProcessTreeTranslator):
    """Counts the jobs that are built, by their trees."""

    def __init__(self) -> None:
        self.built: Counter[str] = Counter()

    def job(self, tree: TreeRecord, **kwargs: Any) -> JobDefinition:
        self.built[tree.name] += 1
        return super().job(tree, **kwargs)


def refresh(live: LiveRepositoryData) -> RepositorySnap:
    """Do what a code server does when a host asks for everything."""
    live._read_at = None  # as if a second had passed
    repository = build_repository()
    repository._repository_data = live
    return RepositorySnap.from_def(repository, defer_snapshots=True)


def ids(snapshot: RepositorySnap) -> dict[str, str]:
    return {job.name: job.snapshot_id for job in snapshot.job_refs or ()}


# What a refresh costs


def test_after_one_edit_a_refresh_rebuilds_one_job(trees: list[ProcessTree]) -> None:
    translator = Counting()
    live = LiveRepositoryData(translator)
    before = ids(refresh(live))
    assert translator.built == {tree.name: 1 for tree in trees}
    translator.built.clear()
    ProcessTree.objects.filter(pk=trees[7].pk).update(description="Edited behind every back.")
    after = ids(refresh(live))
    assert translator.built == {"tree 7": 1}
    assert {name for name in after if after[name] != before[name]} == {trees[7].job_name}


def test_a_refresh_is_a_few_queries_however_many_trees_there_are(
    trees: list[ProcessTree], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    live = LiveRepositoryData(ProcessTreeTranslator())
    for _ in range(2):
        # The trees, their schedules, links, subscriptions; and the triggers that need sensors.
        with django_assert_num_queries(5):
            refresh(live)


def test_a_tree_that_is_still_broken_is_looked_at_again_but_not_built_again(
    trees: list[ProcessTree],
) -> None:
    broken = [{"name": "x", "func": "tests.app.gone:x"}]
    ProcessTree.objects.filter(pk=trees[3].pk).update(processes=broken)
    translator = Counting()
    live = LiveRepositoryData(translator)
    refresh(live)
    refresh(live)
    assert translator.built["tree 3"] == 1


def test_a_module_that_many_broken_trees_name_is_not_imported_for_each(
    trees: list[ProcessTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": ["raises_each_time"]}
    (tmp_path / "raises_each_time.py").write_text(
        f"import {__name__} as here\nhere.IMPORTS.append(1)\nraise RuntimeError('no')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ProcessTree.objects.update(processes=[{"name": "x", "func": "raises_each_time:x"}])
    IMPORTS.clear()
    live = LiveRepositoryData(ProcessTreeTranslator())
    jobs = live.get_all_jobs()
    assert len(IMPORTS) == 1
    assert all("RuntimeError: no" in (job.description or "") for job in jobs)


IMPORTS: list[int] = []


# What is kept


def test_memory_stays_flat_over_hundreds_of_refreshes(trees: list[ProcessTree]) -> None:
    live = LiveRepositoryData(ProcessTreeTranslator())

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    def edit_and_refresh(times: int) -> None:
        for number in range(times):
            ProcessTree.objects.filter(pk=trees[number % TREES].pk).update(description=number)
            live._read_at = None
            live.get_all_jobs()
            live.get_all_schedules()

    edit_and_refresh(50)
    before = objects()
    edit_and_refresh(300)
    # Less than one object a refresh: nothing is kept of any.
    assert objects() - before < 150


def test_full_jobs_are_cached_up_to_a_number(
    trees: list[ProcessTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_data, "MAX_FULL_JOBS", 5)
    live = LiveRepositoryData(ProcessTreeTranslator())
    jobs = [live.get_job(tree.job_name) for tree in trees]
    assert live.get_job(trees[-1].job_name) is jobs[-1]
    assert live.get_job(trees[0].job_name) is not jobs[0]
    assert len(live._full_jobs) == 5


# The stand-in


@pytest.fixture
def full(trees: list[ProcessTree]) -> JobDefinition:
    return ProcessTreeTranslator().job(from_row(trees[0]))


@pytest.fixture
def stand_in(full: JobDefinition) -> SnapshotJob:
    result = snapshot_job(full, lambda: full)
    assert result is not None
    return result.copy()


def test_a_stand_in_says_in_a_list_what_the_job_says(
    full: JobDefinition, stand_in: SnapshotJob
) -> None:
    listed = stand_in.copy(listed=True)
    assert JobRefSnap.from_job_def(listed) == JobRefSnap.from_job_def(full)
    assert stand_in.partitions_def is full.partitions_def is None


def test_a_list_of_stand_ins_is_what_a_list_of_jobs_is(
    trees: list[ProcessTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = refresh(LiveRepositoryData(ProcessTreeTranslator()))
    monkeypatch.setattr(repository_data, "snapshot_job", lambda job, build: None)
    jobs = refresh(LiveRepositoryData(ProcessTreeTranslator()))
    assert serialize_value(stand_ins) == serialize_value(jobs)


def test_a_stand_in_that_is_asked_for_more_answers_as_the_job(
    full: JobDefinition, stand_in: SnapshotJob
) -> None:
    def snap(job: JobDefinition) -> str:
        return serialize_value(JobDataSnap.from_job_def(job, include_parent_snapshot=True))

    assert snap(stand_in) == snap(full)
    assert JobSnap.from_job_def(stand_in).snapshot_id == stand_in.get_job_snapshot_id()
    assert stand_in.description == full.description
    assert stand_in.graph is full.graph
    assert stand_in.executor_def is full.executor_def
    assert stand_in.get_subset(op_selection=["one"]).graph.node_names() == ["one"]


def test_a_host_that_fetches_each_job_of_a_list_has_none_built_again(
    trees: list[ProcessTree], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    translator = Counting()
    live = LiveRepositoryData(translator)
    for _ in range(2):
        refresh(live)
        with django_assert_num_queries(3 * TREES):  # each one's row, links and subscriptions
            for tree in trees:  # as a host does that is not one of ours
                JobDataSnap.from_job_def(live.get_job(tree.job_name), include_parent_snapshot=True)
    assert set(translator.built.values()) == {1}


def test_a_job_is_looked_up_as_it_is_not_as_it_was_listed(trees: list[ProcessTree]) -> None:
    live = LiveRepositoryData(ProcessTreeTranslator())
    refresh(live)
    ProcessTree.objects.filter(pk=trees[0].pk).update(description="Edited.")
    assert live.get_job(trees[0].job_name).description == "tree 0\n\nEdited."


def test_the_id_of_a_stand_ins_snapshot_is_the_one_that_dagster_computes(
    stand_in: SnapshotJob,
) -> None:
    assert stand_in.get_job_snapshot_id() == stand_in.get_job_snapshot().snapshot_id


def test_a_refresh_that_takes_long_reads_the_trees_once(
    trees: list[ProcessTree], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    class Slow(ProcessTreeTranslator):
        def job(self, tree: TreeRecord, **kwargs: Any) -> JobDefinition:
            live._read_at = (live._read_at or 0.0) - 1  # as if each tree took a second
            return super().job(tree, **kwargs)

    live = LiveRepositoryData(Slow())
    with django_assert_num_queries(5):  # as many as any refresh
        refresh(live)


def test_a_listing_leaves_the_garbage_collector_as_it_was(trees: list[ProcessTree]) -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    LiveRepositoryData(ProcessTreeTranslator()).get_all_jobs()
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_what_is_found_out_about_a_stand_in_is_not_kept(trees: list[ProcessTree]) -> None:
    live = LiveRepositoryData(ProcessTreeTranslator())
    refresh(live)
    handed_out = live.get_job(trees[0].job_name)
    assert handed_out.run_config_schema is not None  # kept on the job by Dagster
    kept = live._listed[trees[0].job_name].job
    assert vars(kept).keys() < vars(handed_out).keys()


def test_a_job_that_has_more_to_say_stands_for_itself(full: JobDefinition) -> None:
    with_config = full.graph.to_job(
        name="with_config", resource_defs=full.resource_defs, config={"resources": {}}
    )
    assert snapshot_job(with_config, lambda: with_config) is None


# Writing snapshots


class Colour(enum.Enum):
    RED = "red"


@dg.op(out=dg.Out(dg.DagsterType(lambda _, value: True, name="Journal")))
def journal() -> Any:
    return None


@dg.op(
    config_schema={
        "colour": dg.Field(dg.Enum.from_python_enum(Colour), default_value="RED"),
        "lines": [dg.Selector({"one": int, "many": dg.Map(str, dg.Noneable(float))})],
    },
    out=dg.Out(list[int], metadata={"rows": 5}),
    tags={"a": "b"},
    pool="ledger",
)
def with_types(context: dg.OpExecutionContext, first: Any) -> list[int]:
    return []


GAPS = {"config_schema_snapshot": json.loads(snapshot_texts._no_config())}


def jobs_of_all_kinds(tree: TreeRecord) -> Iterator[JobDefinition]:
    translator = ProcessTreeTranslator()
    yield translator.job(tree)
    yield translator.job(replace(tree, problem="It is broken.", spec=None))
    yield translator.job(replace(tree, default_context={"ü": [1, None, {"b": "}}"}], '"': "{}"}))
    mapping = context_mapping(ContextSchema(), {"day": "2026-11-24"})
    resources = {RUN_RESOURCE: WORKERS_RUN_RESOURCE}
    graph = dg.GraphDefinition(
        name="typed",
        node_defs=[journal, with_types],
        dependencies={"with_types": {"first": dg.DependencyDefinition("journal")}},
    )
    yield graph.to_job(config=mapping, resource_defs=resources)
    yield graph.to_job(config=mapping, metadata={"gaps": dg.MetadataValue.json(GAPS)})
    yield graph.to_job(metadata={"gaps": dg.MetadataValue.json(GAPS)})
    yield dg.GraphDefinition(name="around", node_defs=[graph]).to_job(
        config=mapping,
        description=snapshot_texts._no_config(),
        tags={"tag": snapshot_texts._no_types()},
    )


def test_a_snapshot_is_written_as_dagster_writes_it(trees: list[ProcessTree]) -> None:
    for job in jobs_of_all_kinds(from_row(trees[0])):
        text = snapshot_text(job)
        assert text == serialize_value(JobSnap.from_job_def(job))  # also: the job is left as it is


def test_what_the_types_of_two_jobs_have_in_common_is_only_the_name(
    trees: list[ProcessTree],
) -> None:
    def job(description: str) -> JobDefinition:
        kind = dg.DagsterType(lambda _, value: True, name="Journal", description=description)

        @dg.op(out=dg.Out(kind))
        def journal() -> Any: ...

        graph = dg.GraphDefinition(name="one", node_defs=[journal])
        return graph.to_job(config=context_mapping(ContextSchema(), {}))

    for each in (job("of a day"), job("of a year")):
        assert snapshot_text(each) == serialize_value(JobSnap.from_job_def(each))


# For whom a listing waits


class Slow(Counting):
    """Lets the test go on in the middle of a listing."""

    def __init__(self) -> None:
        super().__init__()
        self.at_it, self.go_on = threading.Event(), threading.Event()

    def job(self, tree: TreeRecord, **kwargs: Any) -> JobDefinition:
        if tree.name == "tree 5" and not self.at_it.is_set():
            self.at_it.set()
            assert self.go_on.wait(60)
        return super().job(tree, **kwargs)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    def close(*_: Any) -> None:
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        yield pool
        list(pool.map(close, range(4)))


class TestWithOtherThreads:
    pytestmark = pytest.mark.django_db(transaction=True)

    def test_a_look_up_does_not_wait_for_a_listing(
        self, trees: list[ProcessTree], threads: ThreadPoolExecutor
    ) -> None:
        translator = Slow()
        live = LiveRepositoryData(translator)
        rows = {tree.job_name: tree for tree in trees}
        # The database is this thread's own.
        live._find = lambda job_name: rows.get(job_name)  # type: ignore[method-assign]
        live._read = lambda: list(trees)  # type: ignore[method-assign]
        listing = threads.submit(live.get_all_jobs)
        assert translator.at_it.wait(60)
        job = threads.submit(live.get_job, trees[9].job_name)
        schedule = threads.submit(live.get_schedule, f"{trees[9].job_name}_schedule")
        assert job.result(60).name == trees[9].job_name
        assert schedule.result(60).job_name == trees[9].job_name
        assert not listing.done()
        translator.go_on.set()
        assert len(listing.result(60)) == TREES

    def test_two_listings_at_once_share_the_work(
        self, trees: list[ProcessTree], threads: ThreadPoolExecutor
    ) -> None:
        translator = Slow()
        live = LiveRepositoryData(translator)
        live._read = lambda: list(trees)  # type: ignore[method-assign]
        first = threads.submit(live.get_all_jobs)
        assert translator.at_it.wait(60)
        second = threads.submit(live.get_all_jobs)
        translator.go_on.set()
        assert len(first.result(60)) == len(second.result(60)) == TREES
        assert set(translator.built.values()) == {1}


# A worker, and the template that is forked for it


def test_warming_up_imports_the_functions_and_builds_one_job(
    trees: list[ProcessTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = Counting()
    monkeypatch.setattr(repository, "translator", lambda: translator)
    looked_up: list[str] = []

    def counted(reference: str) -> functions.Function:
        looked_up.append(reference)
        return resolve(reference)

    resolve = functions.resolve
    monkeypatch.setattr(functions, "resolve", counted)
    build_repository().warm_up()
    assert sum(translator.built.values()) == 1
    assert {f"{processes.__name__}:one", f"{processes.__name__}:two"} <= set(looked_up)
    assert len(looked_up) < TREES
