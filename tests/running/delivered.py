"""Executing in a test's own process what a worker would execute."""

from collections.abc import Iterator

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, JobDefinition

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.dagster_internals import InMemoryJob, execute_run_iterator
from proctree_dagster.orchestration.runs import local_runs
from proctree_dagster.running import tree_runs


def run_now(instance: DagsterInstance, run_id: str) -> None:
    """Execute a run that was delivered."""
    run, job = _launched(instance, run_id)
    local_runs.execute_here(instance, job, run)


def events_of(instance: DagsterInstance, run_id: str) -> Iterator[DagsterEvent]:
    """Execute a run that was delivered, and yield its events: it waits while one is examined."""
    run, job = _launched(instance, run_id)
    yield from execute_run_iterator(InMemoryJob(job), run, instance)


def _launched(instance: DagsterInstance, run_id: str) -> tuple[DagsterRun, JobDefinition]:
    event = DagsterEvent(DagsterEventType.RUN_STARTING.value, "a job")
    instance.report_dagster_event(event, run_id=run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    row = tree_runs.get_row(run.tags[run_tags.TREE])
    return run, translator().job(tree_records.from_row(row))
