"""Records of Dagster's storage as summaries of runs."""

import ast
import datetime as dt
import re
from collections.abc import Iterable, Mapping

import sqlalchemy
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    EventLogEntry,
    RunRecord,
    deserialize_value,
)

from ...domain import run_tags as tags
from ...domain.runs import RunSummary
from ...services import webserver
from .. import dagster_internals as internals
from .. import errors
from ..dagster_features import FAILURES_AT_ONCE, is_on
from . import storage_time

LAUNCHERS = (tags.USER, tags.SCHEDULE_NAME, tags.SENSOR_NAME)
"""The tags with a run's requester, by precedence."""

_STEPS_FAILED = re.compile(r"Steps failed: (\[.*\])\.?\s*$", re.DOTALL)
"""What Dagster's event of a failed run says of its steps."""

UNKNOWN = "It failed."
"""Why a process failed of which nothing else is recorded."""


def summary(
    instance: DagsterInstance, record: RunRecord, failures: Mapping[str, str] | None = None
) -> RunSummary:
    """Return a run with its outcome.

    Parameters
    ----------
    instance:
        Where it is recorded.
    record:
        Its record.
    failures:
        Why its processes failed, if they did.
    """
    run = record.dagster_run
    due = run.tags.get(tags.DUE) or run.tags.get(tags.DUE_OF_ROW)
    return RunSummary(
        run_id=run.run_id,
        tree=run.tags.get(tags.TREE, run.job_name),
        status=run.status.value.lower(),
        triggered_by=run.tags.get(tags.TRIGGERED_BY, ""),
        launched_by=next((run.tags[name] for name in LAUNCHERS if name in run.tags), ""),
        due=dt.datetime.fromisoformat(due) if due and run.parent_run_id is None else None,
        created_at=storage_time.created_at(instance, record),
        started_at=moment(record.start_time),
        ended_at=moment(record.end_time),
        parent_run_id=run.parent_run_id,
        failures=dict(failures or {}),
        url=webserver.run_url(run.run_id),
        tags=tags.shown(run.tags),
        job_name=run.job_name,
        schedule=tags.schedule_of(run.tags),
    )


def moment(timestamp: float | None) -> dt.datetime | None:
    """Return a timestamp in UTC."""
    return None if timestamp is None else dt.datetime.fromtimestamp(timestamp, dt.UTC)


def summaries(instance: DagsterInstance, records: Iterable[RunRecord]) -> list[RunSummary]:
    """Return runs with their outcomes; what failed of all of them is read at once.

    Of a run in which several processes failed, only the first has its reason.
    """
    all_of_them = list(records)
    failed = [each.dagster_run.run_id for each in all_of_them if _has_failed(each)]
    why = first_failures(instance, failed)
    return [summary(instance, each, why.get(each.dagster_run.run_id)) for each in all_of_them]


def _has_failed(record: RunRecord) -> bool:
    return record.dagster_run.status == DagsterRunStatus.FAILURE


def all_failures(instance: DagsterInstance, run_id: str) -> dict[str, str]:
    """Return why processes failed; under ``""`` why the run failed for another reason."""
    found = {}
    for entry in instance.all_logs(run_id, {DagsterEventType.STEP_FAILURE}):
        event = entry.dagster_event
        if event is not None and event.step_failure_data is not None:
            found[entry.step_key or ""] = errors.fault(event.step_failure_data.error) or UNKNOWN
    if found:
        return found
    events = instance.all_logs(run_id, {DagsterEventType.PIPELINE_FAILURE})
    return _with_cause(instance, run_id, _in_events(events))


def _with_cause(instance: DagsterInstance, run_id: str, failures: dict[str, str]) -> dict[str, str]:
    """Return why a run failed with the last error of Dagster's own, such as that of its launch.

    Its daemon records that apart from the failure, which only says that it was set from outside.
    """
    if "" not in failures:
        return failures
    for entry in reversed(instance.all_logs(run_id, {DagsterEventType.ENGINE_EVENT})):
        event = entry.dagster_event
        error = getattr(event.event_specific_data, "error", None) if event is not None else None
        why = errors.fault(error)
        if why is not None and why not in failures[""]:
            return {**failures, "": f"{failures['']} {why}"}
    return failures


def first_failures(instance: DagsterInstance, run_ids: list[str]) -> dict[str, dict[str, str]]:
    """Return why runs failed, by their ids, in one query (see ``FAILURES_AT_ONCE``).

    The first process that failed has its reason, others are named without one; under ``""`` why
    the run failed for another reason.
    """
    if not run_ids:
        return {}
    storage = instance.event_log_storage
    if not is_on(FAILURES_AT_ONCE) or not isinstance(storage, internals.SqlEventLogStorage):
        wanted = {DagsterEventType.PIPELINE_FAILURE}
        return {each: _in_events(instance.all_logs(each, wanted)) for each in run_ids}
    found: dict[str, list[EventLogEntry]] = {}
    for run_id, stored in _stored(storage, run_ids):
        found.setdefault(run_id, []).append(deserialize_value(stored, EventLogEntry))
    return {run_id: _in_events(entries) for run_id, entries in found.items()}


def _stored(storage: "internals.SqlEventLogStorage", run_ids: list[str]) -> list[tuple[str, str]]:
    """Return the stored events that say why runs failed: one table holds those of all runs."""
    table = internals.SqlEventLogStorageTable
    query = (
        sqlalchemy.select(table.c.run_id, table.c.event)
        .where(table.c.dagster_event_type == DagsterEventType.PIPELINE_FAILURE.value)
        .where(table.c.run_id.in_(run_ids))
        .order_by(table.c.id)
    )
    with storage.index_connection() as connection:
        return [(run_id, event) for run_id, event in connection.execute(query).fetchall()]


def _in_events(entries: Iterable[EventLogEntry]) -> dict[str, str]:
    """Return why a run failed, by the events that record its failure; the last one counts."""
    events = [each.dagster_event for each in entries if each.dagster_event is not None]
    return _in_event(events[-1]) if events else {}


def _in_event(event: DagsterEvent) -> dict[str, str]:
    data = event.event_specific_data
    why = errors.fault(getattr(data, "error", None)) or event.message or UNKNOWN
    first: DagsterEvent | None = getattr(data, "first_step_failure_event", None)
    if first is None or not first.step_key:
        return {"": why}
    return {first.step_key: why, **{name: "" for name in _named(event) if name != first.step_key}}


def _named(event: DagsterEvent) -> list[str]:
    """Return the failed steps that an event's message names; none, if it is another text."""
    found = _STEPS_FAILED.search(event.message or "")
    try:
        names = ast.literal_eval(found[1]) if found else []
    except (ValueError, SyntaxError):
        return []
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else []
