"""Runs of which retention has removed the log or the results, so that they are not mistaken.

Without its log a run looks as if it had executed nothing.
"""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, EventLogEntry, RunRecord

from ... import conf
from ...domain.retention import KEEP_ALL
from ...domain.runs import LogLine

STATUS_EVENTS = tuple(each.value for each in DagsterEventType if each.value.startswith("PIPELINE_"))
"""The events that say how a run began and ended: they stay as long as the run."""

NO_LOG = "Its log was removed: PROCTREE['KEEP']['events'] says how long logs are kept."

NO_RESULTS = (
    "The results of its processes were removed: PROCTREE['KEEP']['results'] says how long they are "
    "kept."
)

NOTES = "proctree/reach_of_pruning"
"""The entry of Dagster's storage that says how far logs and results were removed."""

EARLIER_NOTES = "proctree/pruned"
"""The entry of earlier releases, which knew of none that had stayed."""

MOST_STATUS_EVENTS = 20
"""How many of a run's events are read to find one that is not of its status."""


def has_no_log(instance: DagsterInstance, record: RunRecord) -> bool:
    """Return whether a run has executed something, and has no log of it any more."""
    if not record.dagster_run.is_finished or record.start_time is None:
        return False
    if conf.current().KEEP.events == KEEP_ALL and "events" not in read_notes(instance):
        return False  # no log was ever removed: its worker has died at once
    run_id = record.dagster_run.run_id
    found = instance.get_records_for_run(run_id, limit=MOST_STATUS_EVENTS).records
    return are_of_status(each.event_log_entry for each in found)


def are_of_status(entries: Iterable[EventLogEntry]) -> bool:
    """Return whether entries of a log only say how the run began and ended."""
    return all(
        each.dagster_event is not None and each.dagster_event.event_type_value in STATUS_EVENTS
        for each in entries
    )


def line(record: RunRecord) -> LogLine:
    """Return what stands in place of a run's log."""
    ended = dt.datetime.fromtimestamp(record.end_time or record.start_time or 0.0, dt.UTC)
    return LogLine(at=ended, level="info", process="", message=NO_LOG, trace="")


@dataclass(frozen=True)
class Reach:
    """How far the logs, or the results, of a job's runs were removed."""

    number: int = 0
    """The last run, by Dagster's numbers."""

    stayed: frozenset[int] = frozenset()
    """The runs before it that have theirs: they were needed, or had not ended."""

    def has(self, number: int) -> bool:
        """Return whether a run has lost its own."""
        return number <= self.number and number not in self.stayed


def has_no_results(instance: DagsterInstance, record: RunRecord) -> bool:
    """Return whether the results of a run were removed."""
    reach = read_notes(instance).get("results", {}).get(record.dagster_run.job_name, Reach())
    return reach.has(record.storage_id)


def read_notes(instance: DagsterInstance) -> dict[str, dict[str, Reach]]:
    """Return how far logs and results were removed, by their kind and the job."""
    texts = instance.daemon_cursor_storage.get_cursor_values({NOTES, EARLIER_NOTES})
    found = {
        kind: {job: Reach(number) for job, number in jobs.items()}
        for kind, jobs in json.loads(texts.get(EARLIER_NOTES, "{}")).items()
    }
    for kind, jobs in json.loads(texts.get(NOTES, "{}")).items():
        known = {job: Reach(number, frozenset(left)) for job, (number, left) in jobs.items()}
        found[kind] = {**found.get(kind, {}), **known}
    return found


def write_notes(instance: DagsterInstance, notes: Mapping[str, Mapping[str, Reach]]) -> None:
    """Write what ``read_notes`` returns."""
    plain = {
        kind: {job: [reach.number, sorted(reach.stayed)] for job, reach in jobs.items()}
        for kind, jobs in notes.items()
    }
    instance.daemon_cursor_storage.set_cursor_values({NOTES: json.dumps(plain)})
