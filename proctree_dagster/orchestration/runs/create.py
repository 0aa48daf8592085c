"""The one place where a run is created and queued."""

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    JobDefinition,
    SubmitRunContext,
)

from ... import context as contexts
from ...context import tagging
from ...domain import run_tags as tags
from ..dagster_internals import (
    create_execution_plan,
    snapshot_from_execution_plan,
)
from . import job_records
from .origins import code_origin, remote_origin

if TYPE_CHECKING:
    from ..dagster_internals import ExecutionPlan, SqlRunStorage


def create_run(
    instance: DagsterInstance,
    job: JobDefinition,
    context: Mapping[str, Any],
    run_tags: Mapping[str, str],
    *,
    in_memory: bool = False,
    run_id: str | None = None,
    same_plan: bool = False,
) -> DagsterRun:
    """Create a run of a tree's job. Every run that Python starts is created here.

    Parameters
    ----------
    instance:
        The instance that records it.
    job:
        The tree's job.
    context:
        The whole context as JSON.
    run_tags:
        Tags besides the job's own, and those that the tree takes from the context.
    in_memory:
        Whether the run uses functions that only this process has: it can't be re-executed then.
    run_id:
        A UUID for the run; left out, Dagster makes one.
    same_plan:
        Whether the job's plan is the same for every context, so that it is made once.

    Raises
    ------
    ContextError
        The context has a key that makes Dagster's list of runs unreadable.
    """
    contexts.refuse_kept_keys(context)
    run_config = {"context": dict(context)}
    all_tags = {**job.run_tags, **run_tags, **({tags.IN_MEMORY: "true"} if in_memory else {})}
    all_tags |= tagging.missing(all_tags, context)
    if same_plan and job_records.can_be_stored(instance):
        return _record(instance, job, run_config, all_tags, run_id, in_memory=in_memory)
    # Not create_run_for_job: it records today's steps, but a run executes the tree as it is
    # when it starts.
    return instance.create_run(
        job_name=job.name,
        run_id=run_id,
        run_config=run_config,
        status=None,
        tags=all_tags,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        **of_job(job, create_execution_plan(job, run_config), in_memory=in_memory),
    )


def _record(
    instance: DagsterInstance,
    job: JobDefinition,
    run_config: Mapping[str, Any],
    run_tags: Mapping[str, str],
    run_id: str | None,
    *,
    in_memory: bool,
) -> DagsterRun:
    """Record a run as Dagster would, but for what it makes of the job each time."""
    record = job_records.of_job(job, run_config, same_plan=True)
    run = DagsterRun(
        job_name=job.name,
        run_id=run_id or str(uuid.uuid4()),
        run_config=run_config,
        tags=run_tags,
        **record.fields,
    )
    if not in_memory:
        origin = remote_origin(job.name)
        location = origin.repository_origin.code_location_origin.location_name
        run = run._replace(
            tags={**run_tags, tags.CODE_LOCATION: location},
            remote_job_origin=origin,
            job_code_origin=code_origin(job.name),
        )
    storage: SqlRunStorage = instance.run_storage  # type: ignore[assignment]
    job_records.store(storage, record.snapshots)
    return storage.add_run(run)


def of_job(job: JobDefinition, plan: "ExecutionPlan", *, in_memory: bool = False) -> dict[str, Any]:
    """Return the arguments of ``DagsterInstance.create_run`` that describe a run's job.

    Parameters
    ----------
    job, plan:
        The job, and what of it the run executes.
    in_memory:
        As for ``create_run``.
    """
    return {
        "execution_plan_snapshot": snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
        "job_snapshot": job.get_job_snapshot(),
        "parent_job_snapshot": None,
        "asset_selection": None,
        "asset_check_selection": None,
        "resolved_op_selection": None,
        "op_selection": None,
        "remote_job_origin": None if in_memory else remote_origin(job.name),
        "job_code_origin": None if in_memory else code_origin(job.name),
        "asset_graph": job.asset_layer.asset_graph,
    }


def submit(instance: DagsterInstance, run: DagsterRun) -> None:
    """Queue a run for the daemon."""
    # The queue does not use the workspace, which only Dagster's own processes have.
    context = SubmitRunContext(run, workspace=None)  # type: ignore[arg-type]
    instance.run_coordinator.submit_run(context)
