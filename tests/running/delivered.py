"""Executing in a test's own process what a worker would execute."""

from dagster import DagsterEvent, DagsterEventType, DagsterInstance

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import local_runs
from proctree_dagster.running import tree_runs


def run_now(instance: DagsterInstance, run_id: str) -> None:
    """Execute a run that was delivered."""
    event = DagsterEvent(DagsterEventType.RUN_STARTING.value, "a job")
    instance.report_dagster_event(event, run_id=run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    row = tree_runs.get_row(run.tags[run_tags.TREE])
    local_runs.execute_here(instance, translator().job(tree_records.from_row(row)), run)
