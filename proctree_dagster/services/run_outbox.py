"""The outbox: runs that are to be created, recorded with their ids before Dagster gets them.

A row is written in the caller's transaction, so it is there if and only if what it belongs to is.
Whoever delivers it later (``orchestration.runs.outbox_delivery``) gives the run the id of the row:
to do that twice makes one run. A row comes from ``waiting`` to ``delivered`` (Dagster has the run)
to ``started``, or is ``dropped`` because a run that it waits for has failed.

Each change is one update that filters on what was read, so that of several processes one wins.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connections, models
from django.db.models import F, Q
from django.utils import timezone

from .. import conf
from ..context import encode
from ..domain import run_tags as tag_names
from ..domain.names import READ_AS_OBJECTS
from ..domain.submissions import Submission
from ..models import OutboxRun, OutboxState, ProcessTree, default_schedules
from ..process import tracing
from ..support import isolation
from ..support.connections import writing
from ..support.row_reading import readable

LEASE = dt.timedelta(seconds=60)
"""Duration of a lease on a delivery; after that, or a failure, it is tried again."""

MAX_LAUNCHES = 10
"""How many runs of a row may fail before they start; after that none is created any more."""

OPEN = (OutboxState.WAITING, OutboxState.DELIVERED)
"""The states that are not final."""

CLOSED = Q(key_held=None) & ~Q(state__in=OPEN)
"""The rows of which nothing follows any more."""


AT_ONCE = Submission()


@dataclass(frozen=True)
class Ready:
    """What a row waits for has succeeded."""


@dataclass(frozen=True)
class Wait:
    """It may still succeed."""


@dataclass(frozen=True)
class Drop:
    """It never will."""

    reason: str


Verdict = Ready | Wait | Drop
"""The decision on a row that waits for runs, or the verdict on one of these runs."""


@dataclass(frozen=True)
class Delivered:
    """Dagster's record of a delivered run and its re-executions."""

    has_started: bool
    is_canceled: bool
    has_failed: bool
    """It has failed, and Dagster does not retry it."""

    is_finished: bool

    def will_be_made_anew(self, row: OutboxRun) -> bool:
        """Return whether another run takes the place of a delivered row's, which never started."""
        has_failed = self.has_failed and not self.has_started and not self.is_canceled
        return has_failed and row.launches < MAX_LAUNCHES


def add(
    tree: ProcessTree,
    context: Mapping[str, Any],
    tags: Mapping[str, str],
    after: Iterable[str] = (),
    run_id: uuid.UUID | str | None = None,
    submission: Submission = AT_ONCE,
    *,
    is_new: bool = False,
) -> OutboxRun:
    """Add a run to the outbox, in the caller's transaction.

    In a test its row is recorded as dropped, so that nothing delivers it (see ``isolation``).

    Parameters
    ----------
    tree:
        The tree that runs, as it is when the run starts.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    tags:
        The run's tags.
    after:
        Ids of the runs that must have succeeded first.
    run_id:
        A UUID; left out, a new one is made. An existing row of this id stays as it is.
    submission:
        Not before when it is made, and its key.
    is_new:
        Whether there can be no row of this id: the caller has just made it up.

    Raises
    ------
    ContextError
        The context can't be stored.
    """
    span = tracing.current()
    recorded = {"state": OutboxState.DROPPED, "reason": isolation.RECORDED}
    chosen = uuid.UUID(str(run_id)) if run_id is not None else uuid.uuid4()
    values = {
        "process_tree": tree,
        "context": encode(context),
        "tags": {**tags, **({tag_names.SUBMITTED_IN: span} if span else {})},
        "family": tags.get(tag_names.FAMILY, ""),
        "after": [str(each) for each in after],
        "run_after": submission.run_after,
        "key": submission.key,
        "replaces": submission.on_conflict == "replace" and bool(submission.key),
        **(recorded if isolation.is_active() else {}),
    }
    if is_new or run_id is None:
        return OutboxRun.objects.create(run_id=chosen, **values)
    return OutboxRun.objects.get_or_create(run_id=chosen, defaults=values)[0]


def recorded() -> models.QuerySet[OutboxRun]:
    """Return the runs that tests have asked for, with their trees, in their order."""
    rows = OutboxRun.objects.filter(state=OutboxState.DROPPED, reason=isolation.RECORDED)
    return rows.select_related("process_tree").prefetch_related(default_schedules("process_tree__"))


def withdraw(family: str, failed: str) -> None:
    """Delete a test's recorded runs of a family that wait for a failed run.

    Parameters
    ----------
    family:
        Id of the family's first run.
    failed:
        Id of the run that has failed.
    """
    lost = {failed}
    for row in recorded().filter(family=family):  # each after those that it waits for
        if lost.intersection(row.after):
            lost.add(str(row.run_id))
            row.delete()


def keep_trees(trees: models.QuerySet[ProcessTree]) -> set[int]:
    """Lock trees against deletion until the transaction ends; return the keys of those that exist.

    PostgreSQL checks foreign keys at the end of a transaction: without the lock a tree that is
    deleted meanwhile would fail all of it. It waits for each deletion that is under way. The other
    databases check at once, or allow one writer at a time.

    The lock is the one that PostgreSQL itself takes for a foreign key. ``select_for_update()`` has
    only stronger ones, which would deadlock with a transaction that saves several trees in another
    order.
    """
    keys = trees.order_by("pk").values_list("pk", flat=True)
    connection = connections[keys.db]
    if connection.vendor != "postgresql":
        return set(keys)
    sql, parameters = keys.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} FOR KEY SHARE", parameters)
        return {pk for (pk,) in cursor.fetchall()}


def is_open(until: dt.datetime | None = None) -> bool:
    """Return True if a pass over the outbox may find something to do, until a moment or now."""
    return _to_look_at(until).exists()


def _to_look_at(until: dt.datetime | None = None) -> models.QuerySet[OutboxRun]:
    """Return the rows that are not in a final state, or hold a key; not those of a later time."""
    rows = OutboxRun.objects.filter(Q(state__in=OPEN) | Q(key_held__isnull=False))
    return rows.exclude(state=OutboxState.WAITING, run_after__gt=until or timezone.now())


def open_rows(run_ids: Iterable[str] | None = None, *, of_rows: bool = True) -> list[OutboxRun]:
    """Return the rows that are not in a final state or hold a key, the oldest first.

    Those whose time has not come are left out.

    Parameters
    ----------
    run_ids:
        Only these, and the rows that hold their keys; all if left out.
    of_rows:
        Whether those of schedules with a run for each row are wanted that nothing has begun.
    """
    rows = _to_look_at()
    if not of_rows:
        rows = rows.exclude(state=OutboxState.WAITING, schedule__isnull=False, attempts=0)
    if run_ids is not None:
        ids = list(run_ids)
        keys = OutboxRun.objects.filter(run_id__in=ids).exclude(key="").values("key")
        rows = rows.filter(Q(run_id__in=ids) | Q(key_held__in=keys))
    return readable(rows)


def problem_of(row: OutboxRun) -> str | None:
    """Return the problem of a row with invalid values, which only SQL can write; else ``None``."""
    if not isinstance(row.tags, dict) or not _are_texts(row.tags.values()):
        return "Its tags are no texts by their names."
    if not READ_AS_OBJECTS.isdisjoint(row.tags):
        return "Its tags have a name that Dagster keeps for itself."
    if not isinstance(row.context, dict):
        return "Its context is no dictionary."
    if not isinstance(row.after, list) or not all(map(_is_run_id, row.after)):
        return "What it waits for is no list of ids of runs."
    return None


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(each, str) for each in values)


def _is_run_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(uuid.UUID(value))
    except ValueError:
        return False


def decide(row: OutboxRun, verdicts: Mapping[str, Verdict]) -> Verdict:
    """Return the decision on a waiting row.

    Parameters
    ----------
    row:
        The row.
    verdicts:
        The verdict of each run that it waits for, by the run's id.
    """
    found = [verdicts[run_id] for run_id in row.after]
    fatal = next((each for each in found if isinstance(each, Drop)), None)
    return fatal or (Wait() if Wait() in found else Ready())


def verdict_without_run(run_id: str, state: str | None, *, is_there: bool) -> Verdict:
    """Return the verdict of a run that Dagster does not list.

    Parameters
    ----------
    run_id:
        Its id.
    state:
        The state of its row; ``None`` if it has none.
    is_there:
        Whether Dagster has it after all: it was created meanwhile.
    """
    if state in OPEN or is_there:
        return Wait()
    if state == OutboxState.DROPPED:
        return Drop(f"Run {run_id} was not made: a run before it has failed.")
    return Drop(f"Run {run_id} is gone: its tree or its history was deleted.")


def follow_up(row: OutboxRun, run: Delivered | None) -> None:
    """Record that a delivered run has started; create another one if it failed before its start.

    Parameters
    ----------
    row:
        A delivered row.
    run:
        Dagster's record of its run; ``None`` if it was deleted there.
    """
    if run is None:
        mark_started(row, "Its run was deleted in Dagster before it started.")
    elif run.has_started or run.is_canceled:
        mark_started(row)
    elif run.will_be_made_anew(row):
        launch_again(row)
    elif run.has_failed:
        mark_started(row, f"{row.launches} runs failed before they started.")
    elif run.is_finished:
        mark_started(row)


def note(row: OutboxRun, problem: str) -> None:
    """Record why a row without a lease can't be delivered."""
    OutboxRun.objects.filter(pk=row.pk, run_id=row.run_id, leased_until=None).exclude(
        reason=problem
    ).update(reason=problem)


def lease(row: OutboxRun, now: dt.datetime) -> bool:
    """Lease a waiting row. Return False if another process has it."""
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    until = now + LEASE
    won = OutboxRun.objects.filter(free, pk=row.pk, run_id=row.run_id, state=OutboxState.WAITING)
    if not won.update(leased_until=until, attempts=F("attempts") + 1):
        return False
    row.leased_until = until
    return True


def renew(row: OutboxRun) -> bool:
    """Renew the lease before the non-idempotent step. Return False if it was lost."""
    until = timezone.now() + LEASE
    if not _mine(row).update(leased_until=until):
        return False
    row.leased_until = until
    return True


def mark_delivered(row: OutboxRun) -> None:
    """Record that Dagster has the run of a leased row."""
    _mine(row).update(
        state=OutboxState.DELIVERED, leased_until=None, reason="", delivered_at=timezone.now()
    )


def mark_failed(row: OutboxRun, reason: str) -> None:
    """Record why a leased row could not be delivered; it is retried after the lease."""
    _mine(row).update(reason=reason)


def mark_started(row: OutboxRun, reason: str = "") -> None:
    """Record that a run has started, or has ended without a start."""
    OutboxRun.objects.filter(pk=row.pk, run_id=row.run_id, state__in=OPEN).update(
        state=OutboxState.STARTED, leased_until=None, reason=reason
    )


def drop(row: OutboxRun, reason: str) -> bool:
    """Drop a waiting row. Return False if another process has changed it."""
    waiting = OutboxRun.objects.filter(pk=row.pk, state=OutboxState.WAITING, after=row.after)
    return bool(waiting.update(**_dropped(reason)))


def _dropped(reason: str) -> dict[str, Any]:
    """Return what is written to a row that is dropped."""
    state = OutboxState.DROPPED
    return {"state": state, "reason": reason, "leased_until": None, "key_held": None}


def withdraw_one(row: OutboxRun, reason: str, now: dt.datetime) -> bool:
    """Drop a waiting row for good, as somebody has asked for that.

    Return False if another process is delivering it.
    """
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    waiting = OutboxRun.objects.filter(
        free, pk=row.pk, run_id=row.run_id, state=OutboxState.WAITING
    )
    is_broken = not isinstance(row.tags, dict)  # SQL has written it
    marked = {} if is_broken else {"tags": {**row.tags, tag_names.WITHDRAWN: "true"}}
    return bool(waiting.update(**_dropped(reason), **marked))


def is_made_anew(run_id: str) -> bool:
    """Return whether another run takes the place of one that has failed before its start."""
    try:
        run = uuid.UUID(run_id)
    except ValueError:  # a run that somebody has made with an id of another form
        return False
    again = Q(run_id=run, state__in=OPEN, launches__lt=MAX_LAUNCHES) | Q(run_id=next_id(run))
    return OutboxRun.objects.filter(again).exists()


def next_id(run_id: uuid.UUID) -> uuid.UUID:
    """Return the id of the run that takes the place of one that failed before it started."""
    return uuid.uuid5(run_id, "again")


def launch_again(row: OutboxRun) -> None:
    """Give a delivered row another run, as its run has failed before its start.

    The new id is derived from the old one, and rows that wait for the old run wait for the new.
    """
    new_id = next_id(row.run_id)
    with writing(OutboxRun):
        won = OutboxRun.objects.filter(
            pk=row.pk, run_id=row.run_id, state=OutboxState.DELIVERED
        ).update(
            run_id=new_id,
            state=OutboxState.WAITING,
            launches=F("launches") + 1,
            leased_until=None,
            reason=f"Run {row.run_id} failed before it started.",
            tags={**row.tags, tag_names.INSTEAD_OF: str(row.run_id)},
        )
        if won:
            replace(row.tags.get(tag_names.FAMILY), str(row.run_id), str(new_id))


def replace(family: str | None, failed: str, new: str) -> None:
    """Make the rows of a family that wait for a failed run, or were dropped, wait for a new one.

    Parameters
    ----------
    family:
        Id of the family's first run.
    failed, new:
        Ids of runs.
    """
    if family is None:
        return
    with writing(OutboxRun):
        unsettled = OutboxRun.objects.select_for_update().filter(
            state__in=(OutboxState.WAITING, OutboxState.DROPPED), family=family
        )
        for row in unsettled:
            if problem_of(row) is not None:
                continue  # the process that delivers it records the change
            if tag_names.WITHDRAWN in row.tags:
                continue
            after = [new if each == failed else each for each in row.after]
            OutboxRun.objects.filter(pk=row.pk, state=row.state).update(
                after=after, state=OutboxState.WAITING, reason=""
            )


def revive(family: str) -> None:
    """Make the dropped rows of a family wait again, as a failed run is re-executed.

    All of them, as the rows downstream of a failed run were dropped one because of the other; but
    not what somebody has withdrawn. Those that wait for another failed run are dropped again.

    Parameters
    ----------
    family:
        Id of the family's first run.
    """
    dropped = OutboxRun.objects.filter(family=family, state=OutboxState.DROPPED)
    dropped.exclude(tags__has_key=tag_names.WITHDRAWN).update(state=OutboxState.WAITING, reason="")


def family(first_run_id: str) -> models.QuerySet[OutboxRun]:
    """Return the rows of a family by their trees' names, in the order in which they run."""
    rows = OutboxRun.objects.filter(family=first_run_id).select_related("process_tree")
    return rows.only("run_id", "state", "reason", "process_tree", "process_tree__name")


MOST_FORGOTTEN = 500
"""How many rows are deleted at once: on SQLite nothing else is written meanwhile."""


def forget(now: dt.datetime) -> None:
    """Delete rows in a final state after the time that ``PROCTREE["KEEP"]`` says."""
    kept = conf.current().KEEP.outbox.age
    if kept is None:
        return
    old = list(closed_before(now - kept).values_list("pk", flat=True)[:MOST_FORGOTTEN])
    if old:  # called every few seconds, and on SQLite a DELETE takes the write lock
        OutboxRun.objects.filter(CLOSED, pk__in=old).delete()  # some may have been revived


def closed_before(moment: dt.datetime) -> models.QuerySet[OutboxRun]:
    """Return the rows in a final state, without a key, that were written before a moment."""
    return OutboxRun.objects.filter(CLOSED, created_at__lt=moment)


def _mine(row: OutboxRun) -> models.QuerySet[OutboxRun]:
    """Return the query of a row while its lease is held by this process."""
    return OutboxRun.objects.filter(
        pk=row.pk,
        run_id=row.run_id,
        state=OutboxState.WAITING,
        leased_until=row.leased_until,
    )
