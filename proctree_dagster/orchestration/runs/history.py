"""The history of runs: their outcomes and logs; canceling them. ``repeating`` repeats them."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    RunRecord,
    RunsFilter,
)

from ...domain import run_tags as tags
from ...domain.runs import LogLine, RunSummary
from ...domain.texts import storable
from ...exceptions import RunError, RunNotFound
from .. import errors
from . import removed, run_pages, storage_time
from .summaries import all_failures, summary

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
        created_after=storage_time.as_stored(instance, since),
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
    run = record.dagster_run
    has_failed = run.status == DagsterRunStatus.FAILURE
    return summary(instance, record, all_failures(instance, run.run_id) if has_failed else {})


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
    entries = instance.all_logs(run_id)
    if removed.are_of_status(entries):
        record = instance.get_run_record_by_id(run_id)
        if record is not None and removed.has_no_log(instance, record):
            yield removed.line(record)
    yield from map(line, entries)


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
    said = event.message or _event_in_words(event.event_type_value)
    if event.is_step_failure and event.step_failure_data.error is not None:
        return f"{said} {errors.fault(event.step_failure_data.error)}"
    return said


def _event_in_words(name: str) -> str:
    """Return an event that has no message as a sentence: ``PIPELINE_ENQUEUED`` as Run enqueued."""
    return f"{name.replace('PIPELINE', 'RUN').replace('_', ' ').capitalize()}."


def _trace(entry: EventLogEntry) -> str:
    event = entry.dagster_event
    error = event.step_failure_data.error if event is not None and event.is_step_failure else None
    return "" if error is None else errors.trace(error)


def cancel(instance: DagsterInstance, run: DagsterRun, user: str = "") -> bool:
    """Take a run from the queue, or ask its worker to cancel it.

    Parameters
    ----------
    instance:
        Where it is recorded.
    run:
        The run.
    user:
        Who asks for it, for its log.

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
    if user:
        instance.report_engine_event(f"Canceling was requested by {storable(user)}.", run)
    return instance.run_coordinator.cancel_run(run.run_id)
