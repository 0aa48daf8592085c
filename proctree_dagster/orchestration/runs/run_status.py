"""The true status of a run, where Dagster has stored another one. It needs no Django."""

import datetime as dt
import logging
import time

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord

logger = logging.getLogger(__name__)

ENDS = {
    DagsterEventType.PIPELINE_SUCCESS,
    DagsterEventType.PIPELINE_FAILURE,
    DagsterEventType.PIPELINE_CANCELED,
}
"""The events that end a run."""


UNDER_WAY = {
    DagsterEventType.PIPELINE_STARTING,
    DagsterEventType.PIPELINE_START,
    DagsterEventType.PIPELINE_CANCELING,
}
"""The events that change the status of a run that is under way."""


def age(instance: DagsterInstance, record: RunRecord) -> float:
    """Return the seconds since a run that is under way changed its status.

    By its events: the columns are hours off on a PostgreSQL server whose time zone is not UTC.
    """
    entries = instance.all_logs(record.dagster_run.run_id, UNDER_WAY)
    since = entries[-1].timestamp if entries else record.update_timestamp.timestamp()
    return time.time() - since


def times_queued(instance: DagsterInstance, run_id: str) -> int:
    """Return how often a run was queued; 0 if it was launched without the queue."""
    return len(instance.all_logs(run_id, {DagsterEventType.PIPELINE_ENQUEUED}))


def restore(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Restore a run's status if a second launch has reset it; return whether the run has ended.

    Dagster marks a run as starting at each launch. Of two daemons that launch a run, the second may
    do so while the first one's worker executes it, or after that.
    """
    events = [
        (entry.dagster_event, entry.timestamp)
        for entry in instance.all_logs(run.run_id, {DagsterEventType.PIPELINE_START, *ENDS})
        if entry.dagster_event is not None
    ]
    ends = [each for each in events if each[0].event_type in ENDS]
    if not ends and run.status != DagsterRunStatus.STARTING:
        return False
    for event, timestamp in (ends or events)[-1:]:
        logger.warning(
            "Run %s was launched again when it had a worker: its status is %s again.",
            run.run_id,
            event.event_type_value,
        )
        moment = dt.datetime.fromtimestamp(timestamp, dt.UTC)
        instance.run_storage.handle_run_event(run.run_id, event, moment)
    return bool(ends)
