"""Queueing runs, many at once: what ``QueuedRunCoordinator`` does for each, with more queries."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from dagster import (
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    serialize_value,
)
from django.utils import timezone

from . import dagster_internals as internals
from .dagster_features import RUN_RECORDS, is_on
from .launching import wakeups


def can_together(instance: DagsterInstance) -> bool:
    """Return whether an instance's storage is one whose rows are written here.

    On PostgreSQL Dagster's connections commit each statement, so nothing is gained.
    """
    if not is_on(RUN_RECORDS):
        return False
    is_sqlite = isinstance(instance.event_log_storage, internals.SqliteEventLogStorage)
    return is_sqlite and hasattr(instance.run_storage, "connect")


def queue(instance: DagsterInstance, runs: Sequence[DagsterRun]) -> None:
    """Queue runs that have not been started.

    The event comes before the status, as Dagster has it: a process that is killed in between leaves
    a run that was not started, which is queued again.

    Parameters
    ----------
    instance:
        One for which ``can_together`` is true.
    runs:
        The runs as they are stored. One that is not NOT_STARTED any more stays as it is.
    """
    storage = instance.event_log_storage
    assert isinstance(storage, internals.SqliteEventLogStorage)
    run_storage: Any = instance.run_storage
    now = time.time()
    statements = [(run, storage.prepare_insert_event(_event(run, now))) for run in runs]
    for run, statement in statements:
        if _begin(storage, run.run_id, statement):
            continue
        with storage.run_connection(run.run_id) as connection:
            connection.execute(statement)
    with storage.index_connection() as connection:
        for _, statement in statements:
            connection.execute(statement)
    table = internals.RunsTable
    update = table.update().where(
        table.c.run_id == sqlalchemy.bindparam("id_of_run"),
        table.c.status == DagsterRunStatus.NOT_STARTED.value,
    )
    status = DagsterRunStatus.QUEUED
    rows = [
        {
            **{"id_of_run": run.run_id, "status": status.value, "update_timestamp": timezone.now()},
            "run_body": serialize_value(run.with_status(status)),
        }
        for run in runs
    ]
    with run_storage.connect() as connection:
        connection.execute(update, rows)
    wakeups.wake(instance.root_directory)


def _begin(storage: Any, run_id: str, statement: Any) -> bool:
    """Store the first event of a run with its file, if the storage can (``run_files``)."""
    return hasattr(storage, "begin") and storage.begin(run_id, statement)


def _event(run: DagsterRun, now: float) -> EventLogEntry:
    return EventLogEntry(
        error_info=None,
        level=logging.INFO,
        user_message="",
        run_id=run.run_id,
        timestamp=now,
        step_key=None,
        job_name=run.job_name,
        dagster_event=DagsterEvent.job_enqueue(run),
    )
