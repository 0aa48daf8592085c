"""Runs that are to be made: written down with their ids before anybody asks Dagster for them.

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

from ..context import encode
from ..domain import run_tags as tag_names
from ..domain.names import READ_AS_OBJECTS
from ..models import OutboxRun, OutboxState, ProcessTree
from ..support import isolation
from ..support.connections import writing
from ..support.row_reading import readable

LEASE = dt.timedelta(seconds=60)
"""How long one process has for a delivery; after that, or a failure, it is tried again."""

RETENTION = dt.timedelta(days=30)
"""How long a row is kept that has come to its end."""

MAX_LAUNCHES = 10
"""How many runs of a row may fail before they start; then it is left at that."""

OPEN = (OutboxState.WAITING, OutboxState.DELIVERED)
"""The states in which something is still to be done."""


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
"""What is to be done with a row that waits for runs, or for one of them."""


@dataclass(frozen=True)
class Delivered:
    """What Dagster says of a run that was delivered, with those that repeat it."""

    has_started: bool
    is_canceled: bool
    has_failed: bool
    """For good: Dagster does not try it again."""

    is_finished: bool


def add(
    tree: ProcessTree,
    context: Mapping[str, Any],
    tags: Mapping[str, str],
    after: Iterable[str] = (),
    run_id: uuid.UUID | str | None = None,
) -> OutboxRun:
    """Write down a run that is to be made, in the caller's transaction.

    In a test it is recorded as dropped: nobody delivers it (see ``isolation``).

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
        A UUID; left out, a new one is made. What is there already under this id stays as it is.

    Raises
    ------
    ContextError
        The context can't be stored.
    """
    recorded = {"state": OutboxState.DROPPED, "reason": isolation.RECORDED}
    row, _ = OutboxRun.objects.get_or_create(
        run_id=uuid.UUID(str(run_id)) if run_id is not None else uuid.uuid4(),
        defaults={
            "process_tree": tree,
            "context": encode(context),
            "tags": dict(tags),
            "family": tags.get(tag_names.FAMILY, ""),
            "after": [str(each) for each in after],
            **(recorded if isolation.is_active() else {}),
        },
    )
    return row


def recorded() -> models.QuerySet[OutboxRun]:
    """Return the runs that tests have asked for, with their trees, in their order."""
    rows = OutboxRun.objects.filter(state=OutboxState.DROPPED, reason=isolation.RECORDED)
    return rows.select_related("process_tree__schedule")


def withdraw(family: str, failed: str) -> None:
    """Delete what a test has recorded of a family that a failed run stands in the way of.

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
    """Let nobody delete trees until the end of the transaction; return the keys of those there.

    PostgreSQL looks at the end of a transaction whether a tree is still there: without the lock one
    that is deleted meanwhile would fail all of it. Of several deletions that are under way each is
    waited for. The other databases look at once, or let one write at a time.

    The lock is the one that PostgreSQL itself takes for a foreign key. ``select_for_update()``
    knows stronger ones only: this and a transaction that saves several trees, each in another
    order, would wait for each other.
    """
    keys = trees.order_by("pk").values_list("pk", flat=True)
    connection = connections[keys.db]
    if connection.vendor != "postgresql":
        return set(keys)
    sql, parameters = keys.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} FOR KEY SHARE", parameters)
        return {pk for (pk,) in cursor.fetchall()}


def is_open() -> bool:
    """Return True if a row is to be delivered, or was and its run has not started yet."""
    return OutboxRun.objects.filter(state__in=OPEN).exists()


def open_rows(run_ids: Iterable[str] | None = None) -> list[OutboxRun]:
    """Return the rows with which something is still to be done, the oldest first.

    Parameters
    ----------
    run_ids:
        Only these; all if left out.
    """
    rows = OutboxRun.objects.filter(state__in=OPEN)
    if run_ids is not None:
        rows = rows.filter(run_id__in=list(run_ids))
    return readable(rows)


def problem_of(row: OutboxRun) -> str | None:
    """Return what SQL has put into a row that makes no sense there, if it has."""
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
    """Return what is to be done with a waiting row.

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
        Whether Dagster has it all the same: it was made meanwhile.
    """
    if state in OPEN or is_there:
        return Wait()
    if state == OutboxState.DROPPED:
        return Drop(f"Run {run_id} was not made: a run before it has failed.")
    return Drop(f"Run {run_id} is gone: its tree or its history was deleted.")


def follow_up(row: OutboxRun, run: Delivered | None) -> None:
    """Note that a delivered run has started; if it failed before it started, make another.

    Parameters
    ----------
    row:
        A delivered row.
    run:
        What Dagster says of its run; ``None`` if it was deleted there.
    """
    if run is None:
        mark_started(row, "Its run was deleted in Dagster before it started.")
    elif run.has_started or run.is_canceled:
        mark_started(row)
    elif run.has_failed:
        if row.launches < MAX_LAUNCHES:
            launch_again(row)
        else:
            mark_started(row, f"{row.launches} runs failed before they started.")
    elif run.is_finished:
        mark_started(row)


def note(row: OutboxRun, problem: str) -> None:
    """Write down why a row that nobody has leased can't be delivered."""
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
    """Renew the lease before the step that must not be done twice. Return False if it was lost."""
    until = timezone.now() + LEASE
    if not _mine(row).update(leased_until=until):
        return False
    row.leased_until = until
    return True


def mark_delivered(row: OutboxRun) -> None:
    """Write down that Dagster has the run of a leased row."""
    _mine(row).update(
        state=OutboxState.DELIVERED, leased_until=None, reason="", delivered_at=timezone.now()
    )


def mark_failed(row: OutboxRun, reason: str) -> None:
    """Write down why a leased row could not be delivered; it is tried again after the lease."""
    _mine(row).update(reason=reason)


def mark_started(row: OutboxRun, reason: str = "") -> None:
    """Write down that a run has started, or has come to an end without."""
    OutboxRun.objects.filter(pk=row.pk, run_id=row.run_id, state__in=OPEN).update(
        state=OutboxState.STARTED, leased_until=None, reason=reason
    )


def drop(row: OutboxRun, reason: str) -> bool:
    """Drop a waiting row. Return False if another process has changed it."""
    waiting = OutboxRun.objects.filter(pk=row.pk, state=OutboxState.WAITING, after=row.after)
    return bool(waiting.update(state=OutboxState.DROPPED, reason=reason, leased_until=None))


def launch_again(row: OutboxRun) -> None:
    """Let a delivered row have another run: its run has failed before it started.

    The new id follows from the old one, and the rows that wait for the old one wait for the new.
    """
    new_id = uuid.uuid5(row.run_id, "again")
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
    """Let the rows of a family that wait for a failed run, or were dropped, wait for a new one.

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
                continue  # whoever delivers it says so, or has said so
            after = [new if each == failed else each for each in row.after]
            OutboxRun.objects.filter(pk=row.pk, state=row.state).update(
                after=after, state=OutboxState.WAITING, reason=""
            )


def revive(family: str) -> None:
    """Let the rows of a family that were dropped wait again: what failed is executed again.

    All of them: those behind a failed run were dropped one because of the other. What another
    failed run stands in the way of is dropped again.

    Parameters
    ----------
    family:
        Id of the family's first run.
    """
    dropped = OutboxRun.objects.filter(family=family, state=OutboxState.DROPPED)
    dropped.update(state=OutboxState.WAITING, reason="")


def family(first_run_id: str) -> models.QuerySet[OutboxRun]:
    """Return the rows of a family by their trees' names, in the order in which they run."""
    rows = OutboxRun.objects.filter(family=first_run_id).select_related("process_tree")
    return rows.only("run_id", "state", "reason", "process_tree", "process_tree__name")


def forget(now: dt.datetime) -> None:
    """Delete the rows that have come to their end long ago."""
    old = OutboxRun.objects.exclude(state__in=OPEN).filter(created_at__lt=now - RETENTION)
    if old.exists():  # asked every few seconds, and on SQLite a DELETE locks all others out
        old.delete()


def _mine(row: OutboxRun) -> models.QuerySet[OutboxRun]:
    """Return the row as long as its lease is one's own."""
    return OutboxRun.objects.filter(
        pk=row.pk,
        run_id=row.run_id,
        state=OutboxState.WAITING,
        leased_until=row.leased_until,
    )
