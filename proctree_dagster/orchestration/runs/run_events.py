"""What has happened to the runs of trees, as Dagster's storage records it.

Each change of a run's status is an event, which the storage keeps with a growing id. They are read
from a position on, kind by kind. An event may be read twice; ``services.events`` stores it once.
"""

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from dagster import (
    DagsterEventType,
    DagsterInstance,
    EventLogRecord,
    RunRecord,
    RunsFilter,
    RunStatusChangeRecordsFilter,
)

from ...domain import run_events, run_tags
from ...domain.run_events import Mark, RunEvent
from ...domain.texts import shorten, storable
from ...services import events, run_outbox
from . import details
from .summaries import all_failures, moment, summary

TYPES = {
    run_events.QUEUED: DagsterEventType.PIPELINE_ENQUEUED,
    run_events.STARTED: DagsterEventType.PIPELINE_START,
    run_events.SUCCEEDED: DagsterEventType.PIPELINE_SUCCESS,
    run_events.FAILED: DagsterEventType.PIPELINE_FAILURE,
    run_events.CANCELED: DagsterEventType.PIPELINE_CANCELED,
}
"""The types of Dagster's events, by our kinds."""

MOST = 200
"""How many events of a kind are read at once."""

UNDECIDED_SECONDS = 5.0
"""How long Dagster may take to record that it repeats a run, after the event of its failure."""

CLOCKS_APART = 86_400.0
"""Seconds by which the times of Dagster's columns may differ from ours (see ``storage_time``)."""


class Reading(NamedTuple):
    """Events, in their order, and the position after them."""

    events: list[RunEvent]
    mark: Mark
    storage: str
    """The id of Dagster's storage."""

    is_cut: bool
    """Whether there are more."""


@dataclass(frozen=True)
class _Read:
    """The records of one kind."""

    kind: str
    records: list[EventLogRecord]
    position: int
    """That before the first one."""

    @property
    def is_cut(self) -> bool:
        return len(self.records) == MOST

    def until(self, end: float) -> "_Read":
        """Return those that happened until a moment, if there are more than were read."""
        kept = []
        for record in self.records:
            if record.timestamp > end:
                break
            kept.append(record)
        return _Read(self.kind, kept, self.position)

    @property
    def last(self) -> int:
        """The position after the last one."""
        return max((each.storage_id for each in self.records), default=self.position)


def read(
    instance: DagsterInstance,
    cursor: events.Cursor,
    now: dt.datetime,
    after: Mapping[str, int] | None = None,
) -> Reading:
    """Return the events of our trees' runs since a position that are not known yet.

    Parameters
    ----------
    instance:
        Where they are recorded.
    cursor:
        The position.
    now:
        The present.
    after:
        A later position, where another reading has ended; left out, the cursor's.
    """
    storage = _storage_id(instance)
    since = cursor.since_in(storage)
    positions = cursor.start(storage, now) if after is None else after
    found = [_read(instance, kind, positions.get(kind, 0), since) for kind in TYPES]
    # The latest, not the last: where clocks differ, a kind would else end before it begins.
    ends = [max(record.timestamp for record in each.records) for each in found if each.is_cut]
    if ends:  # what happened later is read with what is not read yet, in its order
        found = [each.until(min(ends)) for each in found]
    mark = Mark(now, {each.kind: each.last for each in found})
    of_interest = [each for each in found if events.is_of_interest(each.kind)]
    return Reading(_events(instance, of_interest, since), mark, storage, bool(ends))


def _storage_id(instance: DagsterInstance) -> str:
    """Return the id of the storage: in another one, positions mean something else."""
    ask = getattr(instance.run_storage, "get_run_storage_id", None)
    return "" if ask is None else str(ask())


def _read(instance: DagsterInstance, kind: str, position: int, since: dt.datetime) -> _Read:
    records = _after(instance, kind, position, since)
    if not records and position and _newest(instance, kind) < position:
        position = 0  # the storage was emptied, and begins again
        records = _after(instance, kind, position, since)
    return _Read(kind, records, position)


def _after(
    instance: DagsterInstance, kind: str, position: int, since: dt.datetime
) -> list[EventLogRecord]:
    wanted = RunStatusChangeRecordsFilter(
        TYPES[kind],  # type: ignore[arg-type]  # it is one of those that it wants
        after_storage_id=position,
        after_timestamp=since.timestamp() - CLOCKS_APART,
    )
    found = instance.fetch_run_status_changes(wanted, limit=MOST, ascending=True)
    return list(found.records)


def _newest(instance: DagsterInstance, kind: str) -> int:
    found = instance.fetch_run_status_changes(TYPES[kind], limit=1)
    return max((each.storage_id for each in found.records), default=0)


def _events(
    instance: DagsterInstance, found: Iterable[_Read], since: dt.datetime
) -> list[RunEvent]:
    moments: dict[tuple[str, str], float] = {}
    for read_ in found:
        for record in read_.records:
            if record.timestamp >= since.timestamp():
                moments.setdefault((record.run_id, read_.kind), record.timestamp)
    new = {each: moments[each] for each in events.unknown(moments)}
    runs = _runs(instance, {run_id for run_id, _kind in new})
    in_order = sorted(new.items(), key=lambda each: each[1])
    return [
        _event(instance, runs[run_id], kind, at)
        for (run_id, kind), at in in_order
        if run_id in runs and not (kind == run_events.FAILED and _is_undecided(instance, at))
    ]


def _is_undecided(instance: DagsterInstance, at: float) -> bool:
    """Return whether Dagster may not have recorded yet that it repeats a run that has just failed.

    The next pass reads the event again.
    """
    return instance.run_retries_enabled and 0 <= time.time() - at < UNDECIDED_SECONDS


def _runs(instance: DagsterInstance, run_ids: set[str]) -> Mapping[str, RunRecord]:
    """Return those of the runs that are still there, and are of our trees."""
    if not run_ids:
        return {}
    found = instance.get_run_records(RunsFilter(run_ids=sorted(run_ids)))
    return {
        each.dagster_run.run_id: each for each in found if run_tags.TREE in each.dagster_run.tags
    }


def _event(instance: DagsterInstance, record: RunRecord, kind: str, at: float) -> RunEvent:
    happened = moment(at)
    assert happened is not None
    run = summary(instance, record)
    return RunEvent(
        kind=kind,
        run=replace(run, tags={name: storable(text) for name, text in run.tags.items()}),
        at=happened,
        will_retry=kind == run_events.FAILED and _will_retry(record),
        failures={
            storable(process): shorten(storable(error))
            for process, error in _failures(instance, record, kind)
        },
    )


def _will_retry(record: RunRecord) -> bool:
    run = record.dagster_run
    if run.tags.get(run_tags.WILL_RETRY) == "true":
        return True
    return record.start_time is None and run_outbox.is_made_anew(run.run_id)


def _failures(instance: DagsterInstance, record: RunRecord, kind: str) -> Iterator[tuple[str, str]]:
    """Yield the processes that failed, and why; of a run that only failed, why it did."""
    run = record.dagster_run
    if kind != run_events.FAILED and run_tags.FAILED_OPTIONAL not in run.tags:
        return
    if kind not in run_events.ENDS:
        return
    detail = details.detail(instance, run.run_id)
    failed = [each for each in detail.processes if each.status == "failed"]
    for process in failed:
        yield process.name, process.error
    if not failed and kind == run_events.FAILED:
        yield "", detail.fault or all_failures(instance, run.run_id).get("", "")
