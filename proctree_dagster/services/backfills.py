"""Backfills: requesting their runs, a few at once, the oldest due time first.

Each pass counts the unfinished runs of a backfill and records those that may begin beside them, in
one transaction with how far it has come. The id of a run follows from the schedule and the due
time, so no due time is run twice, by whatever backfill. A row of the outbox is unfinished from
when it is recorded until its run and its retries have ended: until then it holds a key of its own
(see ``run_keys``).
"""

import datetime as dt
import uuid
from collections.abc import Callable, Collection
from itertools import islice

from django.utils import timezone

from ..context import encode, tagging
from ..domain import for_each
from ..domain import run_tags as tags
from ..exceptions import ScheduleError
from ..models import Backfill, BackfillState, OutboxRun, ProcessTreeSchedule
from ..models.context_schema import SCHEDULED_FOR
from ..support.connections import writing

CHUNK = 100
"""How many due times one pass considers at most."""

HasRun = Callable[[ProcessTreeSchedule, Collection[dt.datetime]], Collection[dt.datetime]]
"""Returns those of some due times of a schedule that have a run already, of the schedule itself."""


def start(
    schedule: ProcessTreeSchedule,
    first: dt.datetime,
    last: dt.datetime,
    *,
    limit: int = 4,
    made_by: str = "",
) -> Backfill:
    """Begin a backfill; its first runs are requested by the next pass.

    Parameters
    ----------
    schedule:
        Whose due times are run.
    first, last:
        Aware; the range of due times, both included.
    limit:
        How many of its runs are unfinished at the same time, at most.
    made_by:
        Who asked for it.

    Raises
    ------
    ScheduleError
        The range is empty, or the schedule can't be run so.
    """
    row = Backfill(schedule=schedule, first=first, last=last, limit=limit, made_by=made_by[:150])
    if last < first:
        raise ScheduleError(f"The range ends at {last}, before it begins at {first}.")
    problem = row.problem(timezone.now())
    if problem:
        raise ScheduleError(problem)
    row.save()
    return row


def stop(backfill: Backfill) -> bool:
    """Request no more runs; those that were requested go on. Return False if it was not running."""
    running = Backfill.objects.filter(pk=backfill.pk, state=BackfillState.RUNNING)
    return bool(running.update(state=BackfillState.STOPPED))


def resume(backfill: Backfill) -> bool:
    """Let a stopped backfill continue from where it is. Return False if it was not stopped."""
    stopped = Backfill.objects.filter(pk=backfill.pk, state=BackfillState.STOPPED)
    return bool(stopped.update(state=BackfillState.RUNNING))


def running() -> list[int]:
    """Return the keys of the running backfills, the oldest first."""
    rows = Backfill.objects.filter(state=BackfillState.RUNNING)
    return list(rows.order_by("pk").values_list("pk", flat=True))


def request(pk: int, has_run: HasRun) -> list[str]:
    """Record the runs of a backfill that may begin now; return their ids.

    Parameters
    ----------
    pk:
        The backfill's.
    has_run:
        Asked before the transaction begins.
    """
    seen = _running(pk)
    if seen is None or unfinished(seen) >= seen.limit:
        return []
    now = timezone.now()
    left = list(islice(seen.due_times_left(now), CHUNK))
    had = set(has_run(seen.schedule, left)) if left else set()
    with writing(Backfill) as alias:
        row = _running(pk, alias)
        if row is None or row.reached != seen.reached:
            return []  # another process was here
        free = row.limit - unfinished(row)
        recorded = OutboxRun.objects.using(alias).filter(run_id__in=[_id(row, due) for due in left])
        ids = set(recorded.values_list("run_id", flat=True))
        made: list[str] = []
        for due in left:
            if due in had or _id(row, due) in ids:
                row.left_out += 1
            elif free > 0:
                made.append(str(_record(row, due, alias).run_id))
                row.requested, free = row.requested + 1, free - 1
            else:
                break
            row.reached = due
        is_through = len(left) < CHUNK and (not left or row.reached == left[-1])
        if is_through and not unfinished(row):
            row.state = BackfillState.DONE
        row.save(update_fields=["reached", "requested", "left_out", "state"])
    return made


def unfinished(backfill: Backfill) -> int:
    """Return how many requested runs of a backfill have not ended, as far as Django knows."""
    return OutboxRun.objects.filter(backfill=backfill, key_held__isnull=False).count()


def _running(pk: int, lock_on: str | None = None) -> Backfill | None:
    rows = Backfill.objects.filter(pk=pk, state=BackfillState.RUNNING)
    if lock_on is not None:
        rows = rows.using(lock_on).select_for_update(of=("self",))
    return rows.select_related("schedule__process_tree").first()


def _id(backfill: Backfill, due: dt.datetime) -> uuid.UUID:
    return for_each.run_id(backfill.schedule.name_in_dagster(), due, "backfill")


def _record(backfill: Backfill, due: dt.datetime, alias: str) -> OutboxRun:
    schedule = backfill.schedule
    moment = due.astimezone(dt.UTC).isoformat()
    return OutboxRun.objects.using(alias).create(
        run_id=_id(backfill, due),
        process_tree_id=schedule.process_tree_id,
        backfill=backfill,
        key_held=f"backfill {backfill.pk} {moment}",
        context=encode({**schedule.context, SCHEDULED_FOR: due.astimezone(schedule.rule.zone)}),
        tags={
            **tagging.of_row(schedule.tags),
            **tags.of_schedule(schedule.name),
            **{tags.TRIGGERED_BY: "backfill", tags.BACKFILL: str(backfill.pk)},
            tags.DUE_OF_ROW: moment,
            **({tags.USER: backfill.made_by} if backfill.made_by else {}),
        },
    )
