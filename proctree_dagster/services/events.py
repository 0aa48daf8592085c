"""Events: each is stored once, with the alerts of it, and then sent to receivers of its signal.

A pass reads what has happened since the cursor. In one transaction it stores an event that is new
with its alerts, and after all of them it moves the cursor. So a process that dies loses nothing and
doubles nothing: what is not stored is read again, and what is stored is sent by the next pass.
"""

import datetime as dt
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models import F, Min, Q
from django.utils import timezone

from .. import signals
from ..domain import run_events
from ..domain.names import MAX_NAME_LENGTH
from ..domain.run_events import Mark, RunEvent
from ..domain.runs import RunSummary
from ..models import Event, EventCursor, ProcessTree
from ..support.connections import writing
from ..support.row_reading import readable
from . import alerts

logger = logging.getLogger(__name__)

CURSOR = 1
"""The key of the cursor's row."""

RETENTION = dt.timedelta(days=7)
"""How long what was sent is known, so that it is not sent again."""

READ_AGAIN = RETENTION - dt.timedelta(days=1)
"""How far back events are read at most, where a storage begins again or is an older copy."""

LONGEST_PAST = dt.timedelta(days=1)
"""How far a cursor looks back whose row has vanished."""

LEASE = dt.timedelta(minutes=2)
"""How long one process sends an event, before another one may."""

MOST_ATTEMPTS = 3
"""How often an event is sent whose receivers end the process."""

GAP = dt.timedelta(minutes=2)
"""After how long without a pass the daemon has not worked meanwhile."""

SENT_AT_ONCE = 200

LONGEST_SUBJECT = 300

STORED_AT_ONCE = 20
"""How many events are stored in one transaction: on SQLite nobody else writes meanwhile."""

AT_ONCE = 400
"""How many events are looked up by one query: SQLite takes a thousand values."""


@dataclass(frozen=True)
class Cursor:
    """How far Dagster's events have been read."""

    since: dt.datetime
    storage: str
    marks: tuple[Mark, ...]
    looked_at: dt.datetime | None

    def start(self, storage: str, now: dt.datetime) -> Mapping[str, int]:
        """Return the positions from which reading begins; none in another storage."""
        return run_events.start(self.marks, now) if storage == self.storage else {}

    def since_in(self, storage: str) -> dt.datetime:
        """Return the moment before which nothing is read; in another storage the last look."""
        if storage == self.storage or not self.storage or self.looked_at is None:
            return self.since
        return max(self.since, self.looked_at - run_events.OVERLAP)


def cursor() -> Cursor:
    """Return the cursor; its row is made if it has vanished."""
    return _cursor_of(_row())


def _cursor_of(row: EventCursor) -> Cursor:
    return Cursor(row.since, row.storage, tuple(run_events.marks(row.marks)), row.looked_at)


def _row() -> EventCursor:
    found = EventCursor.objects.filter(pk=CURSOR).first()
    if found is not None:
        return found
    now = timezone.now()
    first = ProcessTree.objects.aggregate(first=Min("created_at"))["first"] or now
    since = max(first, now - LONGEST_PAST)
    return EventCursor.objects.get_or_create(pk=CURSOR, defaults={"since": since})[0]


def known_cursor() -> Cursor | None:
    """Return the cursor, if its row is there; nothing is written."""
    row = EventCursor.objects.filter(pk=CURSOR).first()
    return None if row is None else _cursor_of(row)


def has_worked_for(now: dt.datetime, long: dt.timedelta) -> bool:
    """Return whether a daemon has made its passes for some time without longer gaps."""
    since = EventCursor.objects.filter(pk=CURSOR).values_list("working_since", flat=True).first()
    return since is not None and since <= now - long


def is_of_interest(kind: str) -> bool:
    """Return whether events of a kind are stored: ends of runs, and what has receivers."""
    return kind in run_events.ENDS or signals.SIGNALS[kind].has_listeners()


def unknown(found: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those pairs of a subject and a kind that are not stored."""
    subjects = sorted({subject for subject, _kind in found})
    known: set[tuple[str, str]] = set()
    for begin in range(0, len(subjects), AT_ONCE):
        some = Event.objects.filter(subject__in=subjects[begin : begin + AT_ONCE])
        known.update(some.values_list("subject", "kind"))
    return set(found) - known


def record(found: Iterable[RunEvent], mark: Mark, storage: str, *, is_all: bool = True) -> int:
    """Store the events that are new, and the alerts of them; then move the cursor.

    Parameters
    ----------
    found:
        Events in their order.
    mark:
        The position after them.
    storage:
        The id of Dagster's storage.
    is_all:
        Whether there are no more of them.

    Returns
    -------
    int
        How many were new.
    """
    _row()
    given = list(found)
    parts = [given[at : at + STORED_AT_ONCE] for at in range(0, len(given), STORED_AT_ONCE)]
    stored = sum(_store_together(part, mark.at) for part in parts)
    with writing(EventCursor):
        row = EventCursor.objects.select_for_update().get(pk=CURSOR)
        alerts.note_look(row.looked_at, mark.at)
        _move(row, mark, storage, is_all)
    return stored


def _store_together(part: Sequence[RunEvent], now: dt.datetime) -> int:
    """Store some events in one transaction; if that fails, each in its own."""
    try:
        with writing(EventCursor):  # an event and its alerts together, so that neither lacks
            EventCursor.objects.select_for_update().get(pk=CURSOR)
            return sum(_store(event, now) for event in part)
    except Exception:  # a value that the database does not take must not stop the other events
        if len(part) > 1:
            return sum(_store_together([event], now) for event in part)
        logger.exception("The event %s of run %s can't be stored.", part[0].kind, part[0].run)
        return 0


def _store(event: RunEvent, now: dt.datetime) -> bool:
    """Store an event that is new, with the alerts of it; return False if it is stored already."""
    run, data = event.run, event.data()
    if not add(event.kind, run.run_id, run.tree, event.at, data):
        return False
    for process, error in event.failures.items():
        if process:
            extra = {"process": process, "error": error}
            subject = f"{run.run_id}:{process}"
            add(run_events.PROCESS_FAILED, subject, run.tree, event.at, {**data, **extra})
    alerts.note_run(event, now)
    return True


def _move(row: EventCursor, mark: Mark, storage: str, is_all: bool) -> None:
    known = run_events.marks(row.marks)
    if storage != row.storage:
        if row.storage:
            logger.warning("Dagster's storage is another one: its events are read from now on.")
        row.since, known = _cursor_of(row).since_in(storage), []
    if is_all:
        row.since = max(row.since, mark.at - READ_AGAIN)
    row.marks = [each.to_json() for each in run_events.moved(known, mark)]
    if row.looked_at is None or mark.at - row.looked_at > GAP:
        row.working_since = mark.at
    row.storage, row.looked_at = storage, mark.at
    row.save()


def add(
    kind: str,
    subject: str,
    tree: str,
    at: dt.datetime,
    data: Mapping[str, Any] | None = None,
    *,
    is_open: bool = False,
) -> bool:
    """Store an event, in the caller's transaction; return False if it is stored already.

    Parameters
    ----------
    kind:
        The name of its signal, or another kind, which is not sent.
    subject:
        What it happened to; with the kind it is unique.
    tree:
        The tree's name.
    at:
        When it happened.
    data:
        What receivers get, as JSON.
    is_open:
        Whether it lasts: it is not forgotten while it does.
    """
    signal = signals.SIGNALS.get(kind)
    heard = signal is not None and signal.has_listeners()
    _event, is_new = Event.objects.get_or_create(
        subject=subject[:LONGEST_SUBJECT],
        kind=kind,
        defaults={
            "tree": tree[:MAX_NAME_LENGTH],
            "at": at,
            "data": dict(data or {}) if heard else {},
            "is_open": is_open,
            "sent_at": None if heard else timezone.now(),
        },
    )
    return is_new


def send(now: dt.datetime) -> int:
    """Send the events that are not sent yet to the receivers of their signals; return how many."""
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    waiting = Event.objects.filter(free, sent_at=None).order_by("pk")
    return sum(map(_send, readable(waiting, most=SENT_AT_ONCE)))


def is_any_waiting() -> bool:
    """Return whether an event is still to be sent, by whichever process."""
    return Event.objects.filter(sent_at=None).exists()


def _send(event: Event) -> int:
    now = timezone.now()
    leased = Event.objects.filter(pk=event.pk, sent_at=None, leased_until=event.leased_until)
    if not leased.update(leased_until=now + LEASE, attempts=F("attempts") + 1):
        return 0
    if event.attempts < MOST_ATTEMPTS:
        _call(event)
    else:
        logger.error(
            "The event %s is not sent to its receivers any more: %s times the process has ended "
            "meanwhile.",
            event,
            event.attempts,
        )
    return Event.objects.filter(pk=event.pk, sent_at=None).update(sent_at=timezone.now())


def _call(event: Event) -> None:
    try:
        given = _arguments(event)
    except (TypeError, ValueError, KeyError, AttributeError):  # SQL has put something else there
        logger.exception("The event %s can't be read: it is sent to nobody.", event)
        return
    # It logs what a receiver raises, and calls the next one.
    signals.SIGNALS[event.kind].send_robust(ProcessTree, **given)


def _arguments(event: Event) -> dict[str, Any]:
    given = dict(event.data)
    if "run" in given:
        given["run"] = RunSummary.from_json(given["run"])
    if "due" in given:
        given["due"] = dt.datetime.fromisoformat(given["due"])
    if event.kind != run_events.FAILED:
        given.pop("will_retry", None)
    return {**given, "tree": event.tree, "at": event.at, "event_id": str(event)}


def forget(now: dt.datetime) -> None:
    """Delete what was sent long ago."""
    old: models.QuerySet[Event] = Event.objects.filter(sent_at__lt=now - RETENTION, is_open=False)
    if old.exists():  # a DELETE takes SQLite's write lock
        old.delete()
