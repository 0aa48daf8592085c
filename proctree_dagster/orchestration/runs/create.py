"""The one place where a run is created and queued."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

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
    ResolvedRunConfig,
    create_execution_plan,
    snapshot_from_execution_plan,
)
from .origins import code_origin, remote_origin

if TYPE_CHECKING:
    from ..dagster_internals import ExecutionPlan, ExecutionPlanSnapshot


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
    plan = _plan(job, run_config, same=same_plan)
    all_tags = {**job.run_tags, **run_tags, **({tags.IN_MEMORY: "true"} if in_memory else {})}
    # Not create_run_for_job: it records today's steps, but a run executes the tree as it is
    # when it starts.
    return instance.create_run(
        job_name=job.name,
        run_id=run_id,
        run_config=run_config,
        status=None,
        tags={**all_tags, **tagging.missing(all_tags, context)},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        **_of_snapshot(job, plan, in_memory=in_memory),
    )


_plans: "WeakKeyDictionary[JobDefinition, ExecutionPlanSnapshot]" = WeakKeyDictionary()
"""The plans of jobs whose plan is always the same."""


def _plan(
    job: JobDefinition, run_config: Mapping[str, Any], *, same: bool
) -> "ExecutionPlanSnapshot":
    """Return the snapshot of a job's plan; the configuration is checked in any case."""
    known = _plans.get(job) if same else None
    if known is not None:
        ResolvedRunConfig.build(job, run_config)
        return known
    made = _snapshot(job, create_execution_plan(job, run_config))
    if same:
        _plans[job] = made
    return made


def _snapshot(job: JobDefinition, plan: "ExecutionPlan") -> "ExecutionPlanSnapshot":
    return snapshot_from_execution_plan(plan, job.get_job_snapshot_id())


def of_job(job: JobDefinition, plan: "ExecutionPlan") -> dict[str, Any]:
    """Return the arguments of ``DagsterInstance.create_run`` that describe a run's job.

    Parameters
    ----------
    job, plan:
        The job, and what of it the run executes.
    """
    return _of_snapshot(job, _snapshot(job, plan), in_memory=False)


def _of_snapshot(
    job: JobDefinition, plan: "ExecutionPlanSnapshot", *, in_memory: bool
) -> dict[str, Any]:
    return {
        "execution_plan_snapshot": plan,
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
