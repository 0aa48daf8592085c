"""What does not happen: schedules that are late, runs that take too long, successes that lack.

Each is an event that is stored once: by its due time, by its run, by the last success.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable

from django.db.models import Max

from .. import conf
from ..domain import run_events
from ..domain.alert_settings import LATE, NO_SUCCESS, RECOVERED, TOO_LONG
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.runs import RunSummary
from ..models import AlertState, Event, ProcessTree, ProcessTreeSchedule
from ..models.schedule_queries import OVERDUE_AFTER
from ..support.connections import writing
from ..support.row_reading import readable
from . import alerts, events

UnderWay = Callable[[Collection[str]], Iterable[RunSummary]]
"""Returns the runs under way of trees, by their job names."""


def note(now: dt.datetime, under_way: UnderWay) -> int:
    """Store what is late, too long or lacking, with the alerts of it; return how much is new.

    Parameters
    ----------
    now:
        The present.
    under_way:
        Asks Dagster which runs are under way.
    """
    # A daemon that has just been started still has to run what was due before.
    late = _note_late(now) if events.has_worked_for(now, OVERDUE_AFTER) else 0
    return late + _note_recovered(now) + _note_too_long(now, under_way) + _note_no_success(now)


def _note_late(now: dt.datetime) -> int:
    after = dt.timedelta(minutes=conf.current().ALERTS.late_minutes)
    late = ProcessTreeSchedule.objects.overdue(now, after).select_related("process_tree")
    return sum(_note_late_one(schedule, now) for schedule in readable(late.order_by("pk")))


def _note_late_one(schedule: ProcessTreeSchedule, now: dt.datetime) -> bool:
    due = schedule.claim or schedule.next_run
    if due is None:
        return False
    tree, subject = schedule.process_tree, _subject(schedule.pk, due)
    if Event.objects.filter(kind=run_events.LATE, subject=subject).exists():
        return False
    with writing(Event):
        data = {"schedule": schedule.name, "due": due.isoformat()}
        if not events.add(run_events.LATE, subject, tree.name, now, data, is_open=True):
            return False
        facts = {**_schedule_facts(schedule), "due": alerts.in_words(due)}
        alerts.add(LATE, tree, tree.name, schedule.name, facts, due, now)
    return True


def _subject(pk: int, due: dt.datetime) -> str:
    return f"schedule:{pk}:{due.isoformat()}"


def _schedule_facts(schedule: ProcessTreeSchedule) -> dict[str, str]:
    return {} if schedule.name == DEFAULT_SCHEDULE else {"schedule": schedule.name}


def _note_recovered(now: dt.datetime) -> int:
    late = Event.objects.filter(kind=run_events.LATE, is_open=True).order_by("pk")
    return sum(_note_recovered_one(event, now) for event in readable(late))


def _note_recovered_one(event: Event, now: dt.datetime) -> bool:
    """Close the event of a schedule that was late, if its due time has been run or dropped."""
    still = Event.objects.filter(pk=event.pk, is_open=True)
    try:
        _kind, pk, due_text = event.subject.split(":", 2)
        due = dt.datetime.fromisoformat(due_text)
        found = ProcessTreeSchedule.objects.filter(pk=pk).select_related("process_tree")
        schedule = next(iter(readable(found)), None)
    except ValueError:  # SQL has put something else there
        schedule = None
    if schedule is None:  # it was deleted, or can't be read
        still.update(is_open=False)
        return False
    if due in (schedule.claim, schedule.next_run):
        return False
    with writing(Event):
        if not still.update(is_open=False):
            return False
        tree = schedule.process_tree
        data = {"schedule": schedule.name, "due": due.isoformat()}
        events.add(run_events.RECOVERED, event.subject, tree.name, now, data)
        facts = {**_schedule_facts(schedule), "due": alerts.in_words(due)}
        alerts.add(RECOVERED, tree, tree.name, f"{LATE} {schedule.name}", facts, now, now)
    return True


def _note_too_long(now: dt.datetime, under_way: UnderWay) -> int:
    limited = ProcessTree.objects.filter(expected_minutes__isnull=False)
    trees = {tree.job_name: tree for tree in readable(limited)}
    runs = list(under_way(trees.keys())) if trees else []
    _close(TOO_LONG, {run.run_id for run in runs})
    return sum(_note_too_long_one(trees[run.job_name], run, now) for run in runs)


def _note_too_long_one(tree: ProcessTree, run: RunSummary, now: dt.datetime) -> bool:
    minutes = tree.expected_minutes
    if minutes is None or run.started_at is None:
        return False
    if now - run.started_at <= dt.timedelta(minutes=minutes):
        return False
    with writing(Event):
        if not events.add(TOO_LONG, run.run_id, tree.name, now, is_open=True):
            return False
        facts = {"run_id": run.run_id, "minutes": minutes}
        customer = alerts.customer_of(run)
        alerts.add(TOO_LONG, tree, tree.name, "", facts, run.started_at, now, customer)
    return True


def _note_no_success(now: dt.datetime) -> int:
    limited = ProcessTree.objects.filter(success_within_minutes__isnull=False)
    last = {tree: _last_success(tree) for tree in readable(limited)}
    _close(NO_SUCCESS, {_no_success_since(tree, at) for tree, at in last.items()})
    return sum(_note_no_success_one(tree, at, now) for tree, at in last.items())


def _last_success(tree: ProcessTree) -> dt.datetime:
    """Return when a tree has succeeded; before the first time, when somebody has saved it."""
    states = AlertState.objects.filter(process_tree=tree)
    last: dt.datetime | None = states.aggregate(last=Max("succeeded_at"))["last"]
    return last or tree.updated_at


def _no_success_since(tree: ProcessTree, last: dt.datetime) -> str:
    return f"tree:{tree.pk}:{last.isoformat()}"


def _close(kind: str, lasting: Collection[str]) -> None:
    """Let the events of a kind be forgotten that do not last any more, by their subjects."""
    is_open = Event.objects.filter(kind=kind, is_open=True)
    over = [pk for pk, subject in is_open.values_list("pk", "subject") if subject not in lasting]
    if over:
        Event.objects.filter(pk__in=over).update(is_open=False)


def _note_no_success_one(tree: ProcessTree, last: dt.datetime, now: dt.datetime) -> bool:
    minutes = tree.success_within_minutes
    if minutes is None or now - last <= dt.timedelta(minutes=minutes):
        return False
    subject = _no_success_since(tree, last)
    if Event.objects.filter(kind=NO_SUCCESS, subject=subject).exists():
        return False
    with writing(Event):
        if not events.add(NO_SUCCESS, subject, tree.name, now, is_open=True):
            return False
        facts = {"minutes": minutes, "since": alerts.in_words(last)}
        alerts.add(NO_SUCCESS, tree, tree.name, "", facts, last, now)
    return True
