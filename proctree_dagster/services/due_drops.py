"""Due times that are dropped: in a pause, or because they are too late. What was is on the row."""

import datetime as dt
import logging
from collections.abc import Sequence

from ..domain.pauses import MOMENT, first_not_dropped
from ..domain.texts import in_utc, shorten
from ..models import Pause, ProcessTreeSchedule

logger = logging.getLogger(__name__)

MOST_COUNTED = 1000
"""How many dropped due times are counted; more are reported as "more"."""


def drop(
    schedule: ProcessTreeSchedule, at: dt.datetime, now: dt.datetime, pauses: Sequence[Pause]
) -> str:
    """Drop what is due and not to be run; return it in a sentence, blank if there is nothing.

    Parameters
    ----------
    schedule:
        Its row as just read; ``next_run`` is set to what is left.
    at:
        Aware; the tick's time.
    now:
        Aware.
    pauses:
        Those that concern it.
    """
    return _in_pauses(schedule, at, pauses) + _too_late_ones(schedule, at, now, pauses)


def too_late(schedule: ProcessTreeSchedule, due: dt.datetime, now: dt.datetime) -> str:
    """Return why a due time is too late to be run; blank if it is not."""
    minutes = schedule.not_after_minutes
    if minutes is None or now - due <= dt.timedelta(minutes=minutes):
        return ""
    return f"it is more than {minutes} minutes late"


def _in_pauses(schedule: ProcessTreeSchedule, at: dt.datetime, pauses: Sequence[Pause]) -> str:
    due = schedule.next_run
    if due is None or not schedule.is_due(at):
        return ""
    spans = [each.span for each in pauses]
    left = first_not_dropped(due, spans, at, schedule.due_after)
    covering = [each for each in pauses if each.drop and each.is_active(due)]
    return _drop_until(schedule, left, f"paused {covering[0].in_words}") if covering else ""


def _too_late_ones(
    schedule: ProcessTreeSchedule, at: dt.datetime, now: dt.datetime, pauses: Sequence[Pause]
) -> str:
    due, minutes = schedule.next_run, schedule.not_after_minutes
    if due is None or minutes is None or not schedule.is_due(at):
        return ""
    if any(each.is_active(now) for each in pauses):
        return ""  # it is held, and judged when it could run
    why = too_late(schedule, due, now)
    earliest = now - dt.timedelta(minutes=minutes) - MOMENT
    return _drop_until(schedule, schedule.due_after(earliest), why) if why else ""


def _drop_until(schedule: ProcessTreeSchedule, left: dt.datetime, why: str) -> str:
    """Let a schedule be due at ``left``, and nothing before; return what was dropped."""
    due = schedule.next_run
    assert due is not None
    rows = ProcessTreeSchedule.objects.filter(pk=schedule.pk, next_run=due, claim=None)
    if not rows.update(next_run=left):
        return ""  # claimed by another process, or changed meanwhile
    schedule.next_run = left
    return record(schedule, due, left - MOMENT, why)


def record(schedule: ProcessTreeSchedule, first: dt.datetime, last: dt.datetime, why: str) -> str:
    """Record on the row, and log, what was dropped; return it in a sentence."""
    count = schedule.due_times(first, last, MOST_COUNTED + 1)
    many = f"More than {MOST_COUNTED:,}" if count > MOST_COUNTED else f"{count:,}"
    what = f"The due time {in_utc(first)} was dropped: {why}."
    if count > 1:
        what = f"{many} due times from {in_utc(first)} on were dropped: {why}."
    rows = ProcessTreeSchedule.objects.filter(pk=schedule.pk)
    rows.update(dropped_due=first, dropped_why=shorten(what, 290))
    logger.warning("Schedule %r: %s", schedule.title, what)
    return what
