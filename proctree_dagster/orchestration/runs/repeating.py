"""Repeating runs: from where they failed, or in full; each once, however often it is asked for."""

import datetime as dt
import uuid
from collections.abc import Iterable

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    RunRecord,
    RunsFilter,
)

from ...context import tagging
from ...domain import run_tags as tags
from ...domain.runs import FailedRuns, RunQuery
from ...exceptions import RunError
from ...models import ProcessTree
from .. import dagster_internals as internals
from .. import tree_records
from ..configured import translator
from ..dagster_features import RETRY_FROM_FAILURE, is_on, why_off
from . import create, opening, removed, run_pages, storage_time
from .summaries import LAUNCHERS, summaries

RESUMABLE = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
"""The statuses of a run that can be repeated from where it failed."""

ORPHANED_AFTER = dt.timedelta(minutes=1)
"""Age of a run that was created and never queued: the process that created it has ended."""

MOST_FAILED = 5000
"""How many failed runs are read at most to find the last ones of their trees."""


def again(
    instance: DagsterInstance,
    run: DagsterRun,
    user: str = "",
    *,
    everything: bool = False,
    triggered_by: tags.Trigger = "command",
) -> DagsterRun:
    """Create and queue a re-execution of a run.

    From failure, successful processes are not repeated. A run that failed before any process did
    is repeated in full.

    Parameters
    ----------
    instance:
        Where it is recorded.
    run:
        The run.
    user:
        The user who requests it.
    everything:
        Whether it is repeated in full, whatever has succeeded.
    triggered_by:
        Who requests it.

    Raises
    ------
    RunError
        It has not ended or not failed, it is being repeated already, its tree is gone, its
        functions are known to no worker, or this Dagster has nothing by which a run is repeated.
    InstanceError
        The instance has no queue.
    """
    seed = _check(instance, run, everything=everything)
    row = ProcessTree.objects.filter(job_name=run.job_name).first()
    if row is None:
        raise RunError(f"The tree of run {run.run_id} was deleted ({run.job_name!r}).")
    opening.check_queue(instance)
    if not is_on(RETRY_FROM_FAILURE):
        raise RunError(
            f"Run {run.run_id} can't be repeated from here with this Dagster: "
            f"{why_off(RETRY_FROM_FAILURE)} {RETRY_FROM_FAILURE.without}"
        )
    job = translator().job(tree_records.from_row(row))
    steps, known = _resumed(instance, run, job) if not everything else ([], None)
    plan = internals.create_execution_plan(
        job,
        run.run_config,
        step_keys_to_execute=steps or None,
        known_state=known if steps else None,
    )
    left_out = {
        *internals.TAGS_TO_MAYBE_OMIT_ON_RETRY,
        *LAUNCHERS,
        *(tags.WORKER, tags.FAILED_OPTIONAL, tags.RESUMES, tags.RAN_REVISION),
    }
    copied = {key: value for key, value in tags.renamed(run.tags).items() if key not in left_out}
    try:
        repeated = instance.create_run(
            job_name=job.name,
            # One id for those who ask at the same moment: the storage takes the first one's run.
            run_id=str(uuid.uuid5(uuid.UUID(seed), "again")),
            run_config=run.run_config,
            status=DagsterRunStatus.NOT_STARTED,
            tags={
                **copied,
                **({tags.FROM_LAUNCHPAD: "true"} if tags.is_from_launchpad(run.tags) else {}),
                **tagging.by_user(user),
                **job.run_tags,
                tags.TRIGGERED_BY: triggered_by,
                tags.PARENT_RUN: run.run_id,
                tags.ROOT_RUN: run.root_run_id or run.run_id,
                **({tags.RESUMES: "true"} if steps else {}),
            },
            root_run_id=run.root_run_id or run.run_id,
            parent_run_id=run.run_id,
            step_keys_to_execute=steps or None,
            **create.of_job(job, plan),
        )
    except internals.DagsterRunAlreadyExists as error:
        raise RunError(f"Run {run.run_id} is being repeated already.") from error
    create.submit(instance, repeated)
    return repeated


def _check(instance: DagsterInstance, run: DagsterRun, *, everything: bool) -> str:
    """Refuse to repeat a run that can't be, or is being repeated; return its latest attempt's id.

    Raises
    ------
    RunError
        With the reason.
    """
    status = run.status.value.lower()
    if not run.is_finished:
        raise RunError(f"Run {run.run_id} has not ended, it is {status}: cancel it first.")
    if not everything and run.status not in RESUMABLE:
        raise RunError(
            f"Run {run.run_id} has not failed, it is {status}: only what has failed or was "
            "canceled is repeated from where it failed."
        )
    if tags.value(run.tags, tags.IN_MEMORY):
        raise RunError(
            f"Run {run.run_id} used functions that only its process had; run the tree again."
        )
    repeats = RunsFilter(tags={tags.PARENT_RUN: run.run_id})
    newest = next(iter(instance.get_run_records(repeats, limit=1)), None)
    if newest is None:
        if run.tags.get(tags.WILL_RETRY) == "true":
            raise RunError(f"Run {run.run_id} is going to be repeated by Dagster itself.")
        return run.run_id
    latest = newest.dagster_run
    age = dt.datetime.now(dt.UTC) - storage_time.created_at(instance, newest)
    is_orphan = latest.status == DagsterRunStatus.NOT_STARTED and age > ORPHANED_AFTER
    if not latest.is_finished and not is_orphan:
        raise RunError(
            f"Run {run.run_id} is being repeated already, by run {latest.run_id}: "
            f"{latest.status.value.lower()}."
        )
    return latest.run_id


def _resumed(
    instance: DagsterInstance, run: DagsterRun, job: JobDefinition
) -> tuple[list[str], "internals.KnownExecutionState"]:
    """Return the steps that a run from failure executes, and what is known of the others.

    Raises
    ------
    RunError
        Its tree has lost a process that is to be repeated.
    """
    record = instance.get_run_record_by_id(run.run_id)
    if record is not None:
        _require_history(instance, record)
    steps, known = internals.KnownExecutionState.build_resume_retry_reexecution(instance, run)
    _require_steps(run, job, steps)
    return list(steps), known


def _require_history(instance: DagsterInstance, record: RunRecord) -> None:
    """Refuse to resume a run of which too little is left; it can be repeated in full."""
    lost = (
        removed.NO_LOG
        if removed.has_no_log(instance, record)
        else removed.NO_RESULTS
        if removed.has_no_results(instance, record)
        else ""
    )
    if lost:
        raise RunError(
            f"Run {record.dagster_run.run_id} can't go on where it failed. {lost} Repeat it in "
            "full: 'proctree retry --all'."
        )


def _require_steps(run: DagsterRun, job: JobDefinition, steps: Iterable[str]) -> None:
    present = {node.name for node in job.graph.nodes}
    gone = sorted({step.split("[")[0] for step in steps} - present)
    if gone:
        raise RunError(
            f"Run {run.run_id} can't go on where it failed: the tree of {run.job_name!r} has "
            f"changed since, and lacks {', '.join(map(repr, gone))}. Run the tree again."
        )


def last_failed(
    instance: DagsterInstance, since: dt.datetime, *, most_trees: int | None = None
) -> FailedRuns:
    """Return the last run of each tree since a moment, of those whose last run has failed.

    Parameters
    ----------
    instance:
        Where they are recorded.
    since:
        Only runs that were made since then; aware.
    most_trees:
        How many trees at most; all if left out. Each takes a query.
    """
    query = RunQuery(statuses=("failure",), since=since)
    found = run_pages.scan(instance, query, MOST_FAILED, searched=MOST_FAILED)
    candidates = {each.dagster_run.job_name: each for each in reversed(found.records)}
    newest_first = sorted(candidates.values(), key=lambda each: each.storage_id, reverse=True)
    chosen = [
        each
        for each in newest_first[:most_trees]
        if run_pages.newest(instance, each.dagster_run.job_name) == each.dagster_run.run_id
    ]
    return FailedRuns(
        chosen=tuple(summaries(instance, chosen)),
        others=len(found.records) - len(chosen),
        is_cut=not found.is_complete or len(newest_first) > (most_trees or len(newest_first)),
    )
