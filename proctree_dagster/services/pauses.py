"""Pauses: making and ending them, and noting on schedules what holds them now."""

import datetime as dt
from collections.abc import Iterable

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from ..exceptions import ScheduleError
from ..models import OutboxRun, OutboxState, Pause, ProcessTree, ProcessTreeSchedule
from ..models.schedule_queries import OVERDUE_AFTER
from ..support.row_reading import readable
from . import run_keys


class Active:
    """The pauses that hold something now, or did a moment ago, read by one query.

    Parameters
    ----------
    now:
        Aware; left out: the present.
    """

    def __init__(self, now: dt.datetime | None = None) -> None:
        now = now or timezone.now()
        found = Pause.objects.active_since(now - OVERDUE_AFTER, now)
        read = readable(found.select_related("process_tree", "schedule__process_tree"))
        self.pauses = [each for each in read if each.is_active(now)]
        self._ended = [each for each in read if not each.is_active(now)]

    def note(self, schedules: Iterable[ProcessTreeSchedule]) -> None:
        """Note the pauses on the schedules that they concern, so that none asks the database."""
        for schedule in schedules:
            schedule.pauses_now = [each for each in self.pauses if each.concerns(schedule)]
            schedule.was_paused = any(each.concerns(schedule) for each in self._ended)


def held_by_nothing(now: dt.datetime) -> "QuerySet[OutboxRun]":
    """Return the rows of the outbox that could be made, with ``since``: from when on.

    Their time has come, and they wait for no other run, for no key and for no pause.
    """
    waiting = OutboxRun.objects.filter(state=OutboxState.WAITING, after=[], key="")
    found = Pause.objects.active(now).of(OuterRef("schedule"), OuterRef("process_tree"))
    is_paused = Q(Exists(found.order_by()), schedule__isnull=False)
    free = run_keys.due(waiting, now).exclude(is_paused)
    return free.annotate(since=Coalesce("run_after", "created_at"))


def begin(
    what: ProcessTree | ProcessTreeSchedule | None,
    *,
    reason: str,
    until: dt.datetime | None = None,
    since: dt.datetime | None = None,
    drop: bool = False,
    made_by: str = "",
) -> Pause:
    """Hold the scheduled runs of a schedule, of a tree, or of everything.

    Parameters
    ----------
    what:
        ``None``: everything.
    reason:
        Shown wherever a schedule is.
    until:
        Aware; the moment at which runs may start again. ``None``: until ``end`` is called.
    since:
        Aware; ``None``: now.
    drop:
        Whether the due times in it are dropped; otherwise they become one run when it ends.
    made_by:
        Who asked for it.

    Raises
    ------
    ScheduleError
        It has no reason, or would end before it begins.
    """
    since = since or timezone.now()
    if not reason.strip():
        raise ScheduleError("A pause needs a reason: those who wonder why nothing runs read it.")
    if until is not None and until <= since:
        raise ScheduleError(f"The pause would end at {until}, which is not after {since}.")
    return Pause.objects.create(
        schedule=what if isinstance(what, ProcessTreeSchedule) else None,
        process_tree=what if isinstance(what, ProcessTree) else None,  # a schedule's: see ``save``
        reason=reason.strip()[:200],
        since=since,
        until=until,
        drop=drop,
        made_by=made_by[:150],
    )


def end(pauses: Iterable[Pause], now: dt.datetime | None = None) -> int:
    """End pauses; return how many. Those that have not begun are deleted."""
    now, ended = now or timezone.now(), 0
    for pause in pauses:
        rows = Pause.objects.filter(pk=pause.pk)
        if pause.since >= now:
            ended += bool(rows.delete()[0])
        else:
            ended += rows.filter(Q(until__isnull=True) | Q(until__gt=now)).update(until=now)
    return ended


def exactly_of(what: ProcessTree | ProcessTreeSchedule | None) -> list[Pause]:
    """Return the pauses of a schedule, of a tree, or of everything that are not over."""
    pauses = Pause.objects.not_over(timezone.now())
    if isinstance(what, ProcessTreeSchedule):
        return list(pauses.filter(schedule=what))
    return list(pauses.filter(schedule=None, process_tree=what))
