"""The history of runs: their outcomes and logs; canceling and re-executing them."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    JobDefinition,
    RunRecord,
    RunsFilter,
)

from ...context import tagging
from ...domain import run_tags as tags
from ...domain.runs import LogLine, RunSummary
from ...exceptions import RunError, RunNotFound
from ...models import ProcessTree
from .. import dagster_internals as internals
from .. import errors, tree_records
from ..configured import translator
from ..dagster_features import RETRY_FROM_FAILURE, is_on, why_off
from . import create, opening, run_pages
from .summaries import LAUNCHERS, all_failures, summary

PAGE = 100
"""How many runs are read at once."""

SHORTEST_ID = 4
"""Least characters of a run's id that identify it, if they are unique."""


def recent(
    instance: DagsterInstance,
    *,
    job_name: str | None = None,
    failed: bool = False,
    since: dt.datetime | None = None,
    with_tags: Mapping[str, str] | None = None,
    most: int = 20,
) -> list[RunSummary]:
    """Return our trees' runs, the newest first.

    Parameters
    ----------
    instance:
        Where they are recorded.
    job_name:
        Those of one tree only.
    failed:
        Those that failed only.
    since:
        Those made since then only; aware.
    with_tags:
        Those with all of these tags only.
    most:
        How many at most.
    """
    statuses = [DagsterRunStatus.FAILURE] if failed else None
    filters = RunsFilter(
        job_name=job_name,
        statuses=statuses,
        created_after=run_pages.in_utc(since),
        tags=with_tags or {},
    )
    found: list[RunSummary] = []
    for record in _records(instance, filters):
        if len(found) >= most:
            break
        found.append(_with_all_failures(instance, record))
    return found


def _records(instance: DagsterInstance, filters: RunsFilter) -> Iterator[RunRecord]:
    """Return the records of our runs, page by page."""
    cursor: str | None = None
    while True:
        page: Sequence[RunRecord] = instance.get_run_records(filters, limit=PAGE, cursor=cursor)
        yield from (record for record in page if tags.TREE in record.dagster_run.tags)
        if len(page) < PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _with_all_failures(instance: DagsterInstance, record: RunRecord) -> RunSummary:
    """Return a run with its outcome, and with why each process failed."""
    has_failed = record.dagster_run.status == DagsterRunStatus.FAILURE
    return summary(record, all_failures(instance, record.dagster_run.run_id) if has_failed else {})


def find(instance: DagsterInstance, run_id: str) -> RunRecord:
    """Return a run's record, by its id or a prefix of it.

    Raises
    ------
    RunNotFound
        There is none, or there are several.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is not None:
        return record
    if len(run_id) < SHORTEST_ID:
        raise RunNotFound(f"There is no run {run_id!r}; give at least {SHORTEST_ID} characters.")
    found = run_pages.ids_that_begin_with(instance, run_id, 5)
    record = instance.get_run_record_by_id(found[0]) if len(found) == 1 else None
    if record is None:
        raise RunNotFound(
            f"Several runs begin with {run_id!r}: {', '.join(found)}."
            if found
            else f"There is no run {run_id!r}: 'manage.py proctree runs' lists them."
        )
    return record


def log(instance: DagsterInstance, run_id: str) -> Iterator[LogLine]:
    """Return a run's log: Dagster's events, and the log lines of its functions."""
    return map(line, instance.all_logs(run_id))


def line(entry: EventLogEntry) -> LogLine:
    """Return an entry of a run's log as a line."""
    return LogLine(
        at=dt.datetime.fromtimestamp(entry.timestamp, dt.UTC),
        level=_level(entry),
        process=entry.step_key or "",
        message=_message(entry),
        trace=_trace(entry),
    )


def _level(entry: EventLogEntry) -> str:
    level = entry.level
    names = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
    return names.get(level, str(level)) if isinstance(level, int) else str(level).lower()


def _message(entry: EventLogEntry) -> str:
    """Return an entry's message, with the reason of a failure."""
    event = entry.dagster_event
    text = entry.user_message or entry.message
    if event is None:
        return text
    said = event.message or event.event_type_value
    if event.is_step_failure and event.step_failure_data.error is not None:
        return f"{said} {errors.fault(event.step_failure_data.error)}"
    return said


def _trace(entry: EventLogEntry) -> str:
    event = entry.dagster_event
    error = event.step_failure_data.error if event is not None and event.is_step_failure else None
    return "" if error is None else errors.trace(error)


def cancel(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Take a run from the queue, or ask its worker to cancel it.

    Returns
    -------
    bool
        Whether that was done, or is being done.

    Raises
    ------
    RunError
        It has ended.
    """
    if run.is_finished:
        raise RunError(f"Run {run.run_id} has ended: {run.status.value.lower()}.")
    return instance.run_coordinator.cancel_run(run.run_id)


def _require_steps(run: DagsterRun, job: JobDefinition, steps: Iterable[str]) -> None:
    """Refuse to repeat a run whose tree has lost a process that is to be repeated.

    Raises
    ------
    RunError
        It has lost one; the message names it.
    """
    present = {node.name for node in job.graph.nodes}
    gone = sorted({step.split("[")[0] for step in steps} - present)
    if gone:
        raise RunError(
            f"Run {run.run_id} can't go on where it failed: the tree of {run.job_name!r} has "
            f"changed since, and lacks {', '.join(map(repr, gone))}. Run the tree again."
        )


def again(instance: DagsterInstance, run: DagsterRun, user: str = "") -> DagsterRun:
    """Create and queue a re-execution of a run from failure.

    Successful processes are not repeated. A run that failed before any process did is repeated
    in full.

    Parameters
    ----------
    instance:
        Where it is recorded.
    run:
        The run.
    user:
        The user who requests it.

    Raises
    ------
    RunError
        It has not failed, its tree is gone, its functions are known to no worker, or this Dagster
        has nothing by which a run is repeated.
    InstanceError
        The instance has no queue.
    """
    if run.status not in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        raise RunError(
            f"Run {run.run_id} has not failed, it is {run.status.value.lower()}: only what has "
            "failed or was canceled is repeated."
        )
    if tags.value(run.tags, tags.IN_MEMORY):
        raise RunError(
            f"Run {run.run_id} used functions that only its process had; run the tree again."
        )
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
    steps, known = internals.KnownExecutionState.build_resume_retry_reexecution(instance, run)
    _require_steps(run, job, steps)
    plan = internals.create_execution_plan(
        job,
        run.run_config,
        step_keys_to_execute=list(steps) or None,
        known_state=known if steps else None,
    )
    left_out = {
        *internals.TAGS_TO_MAYBE_OMIT_ON_RETRY,
        *LAUNCHERS,
        tags.WORKER,
        tags.FAILED_OPTIONAL,
    }
    copied = {key: value for key, value in tags.renamed(run.tags).items() if key not in left_out}
    repeated = instance.create_run(
        job_name=job.name,
        run_id=None,
        run_config=run.run_config,
        status=DagsterRunStatus.NOT_STARTED,
        tags={
            **copied,
            **tagging.by_user(user),
            **job.run_tags,
            tags.TRIGGERED_BY: "command",
            tags.PARENT_RUN: run.run_id,
            tags.ROOT_RUN: run.root_run_id or run.run_id,
            **({tags.RESUMES: "true"} if steps else {}),
        },
        root_run_id=run.root_run_id or run.run_id,
        parent_run_id=run.run_id,
        step_keys_to_execute=list(steps) or None,
        **create.of_job(job, plan),
    )
    create.submit(instance, repeated)
    return repeated
