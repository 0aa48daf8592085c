"""Claims of due times, and the runs that take them.

A process *claims* a due time with one atomic update, which only one process wins. The claim is
*open* until a run that is tagged with it takes it with another such update. So the daemon,
``check_and_run_scheduled_tasks()`` and ``create_task_function()`` may work at the same time: a run
is requested at least once and started exactly once. Each update filters on the row's own columns
only: for a join Django would select the ids first, and two processes could both win.
"""

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from django.utils import timezone

from ..context import encode
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.texts import in_utc
from ..models import Pause, ProcessTreeSchedule, RunStatus
from ..models.context_schema import SCHEDULED_FOR
from ..models.pauses import in_words
from ..support.connections import writing
from ..support.row_reading import readable
from . import due_drops

logger = logging.getLogger(__name__)

REQUEST_AGAIN_AFTER = dt.timedelta(seconds=60)
"""The age at which an open claim without a run is requested again."""

MOST_COUNTED = 1000
"""How many missed due times are counted; more are reported as "more"."""

MOST_TRIES = 100
"""How often a run tries to take its claim while others change the schedule's row."""


class History(Protocol):
    """Dagster's records of a schedule's runs; queried only where the row is not enough."""

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        """Return the state of a claim's runs, without re-executions; ``none`` without a run."""

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        """Return the outcome of a run that ``worker`` has taken."""


@dataclass(frozen=True)
class Due:
    """A claimed due time; its run is to be requested."""

    schedule: ProcessTreeSchedule
    due: dt.datetime

    @property
    def context(self) -> dict[str, Any]:
        """The run's context as JSON."""
        context: dict[str, Any] = self.schedule.context
        if self.schedule.pass_scheduled_for:
            context = {**context, SCHEDULED_FOR: self.due.astimezone(self.schedule.rule.zone)}
        return encode(context)


@dataclass(frozen=True)
class Skip:
    """No run is to be requested."""

    reason: str


@dataclass(frozen=True)
class Taken:
    """A run has taken its claim."""

    due: dt.datetime
    count: int
    """How many due times the run covers: those that passed until it started.

    ``MOST_COUNTED + 1`` means "more".
    """

    def __str__(self) -> str:
        if self.count == 1:
            return f"This run is for the due time {_say(self.due)}."
        many = f"more than {MOST_COUNTED:,}" if self.count > MOST_COUNTED else f"{self.count:,}"
        return (
            f"This run stands for {many} due times: that of {_say(self.due)}, and those "
            "that have passed since."
        )


def request(schedule_id: int, at: dt.datetime, history: History) -> Due | Skip:
    """Decide whether a schedule's tree is to run now, and claim the due time if it is.

    Parameters
    ----------
    schedule_id:
        Primary key of the schedule. Its row is read again, so that the state at the tick counts.
    at:
        Aware; the tick's time.
    history:
        Queried for an open claim, and for a last run that may still be running.
    """
    now = timezone.now()
    schedules = ProcessTreeSchedule.objects.select_related("process_tree").with_pauses(now)
    schedule = schedules.filter(pk=schedule_id).first()
    if schedule is None:
        return Skip("The tree or its schedule was deleted.")
    _align(schedule)
    if schedule.last_run_status == RunStatus.STARTED:
        look_at_last_run(schedule, history)
    if not schedule.enabled:
        _pass_over(schedule, at)
        return Skip("Disabled in Django: the schedule's 'enabled' is off.")
    pauses = _pauses_of(schedule, now)
    if active := [each for each in pauses if each.is_active(now)]:
        return Skip(_held(schedule, at, active, due_drops.drop(schedule, at, now, pauses)))
    if schedule.claim is not None:
        again = _look_at_claim(schedule, at, history)
        if again is not None:
            return again
    elif schedule.last_run == at and schedule.last_due is not None:
        # This tick was evaluated before, and its run has started: Dagster recognises the run key.
        return Due(schedule, schedule.last_due)
    if not schedule.is_due(at):
        return Skip(_not_due(schedule))
    if schedule.last_run_status == RunStatus.STARTED and not schedule.allow_overlap:
        return Skip(
            f"The last run ({schedule.last_run_id}) is still running; the due time "
            f"{_say(schedule.next_run)} is kept until it ends."
        )
    dropped = due_drops.drop(schedule, at, now, pauses)
    if dropped and not schedule.is_due(at):
        return Skip(f"{dropped} {_not_due(schedule)}")
    return _claim(schedule, at)


def request_together(
    ticks: Mapping[int, dt.datetime], history_of: Callable[[int], History]
) -> dict[int, Due | Skip | Exception]:
    """Do what ``request`` does, for many schedules: one query reads them, one transaction claims.

    What is simply due, or not due yet, is decided here. For any other schedule, and for one whose
    row another process has changed meanwhile, ``request`` decides.

    Parameters
    ----------
    ticks:
        The time of each schedule's tick, aware, by the schedule's primary key.
    history_of:
        Returns the records of a schedule's runs.

    Returns
    -------
    dict
        The decisions. An exception is what ``request`` has raised for that schedule.
    """
    decided = _decide_simple_ones(ticks)
    for pk, at in ticks.items():
        if pk not in decided:
            try:
                decided[pk] = request(pk, at, history_of(pk))
            except Exception as error:  # noqa: BLE001  # of this schedule alone, and the caller reports it
                decided[pk] = error
    return decided


def _decide_simple_ones(
    ticks: Mapping[int, dt.datetime],
) -> dict[int, Due | Skip | Exception]:
    now = timezone.now()
    found = ProcessTreeSchedule.objects.select_related("process_tree").with_pauses(now)
    # In the order of their keys, so that two processes do not wait for each other.
    schedules = readable(found.filter(pk__in=list(ticks)).order_by("pk"))
    simple = [each for each in schedules if _is_simple(each, ticks[each.pk], now)]
    due = [each for each in simple if each.is_due(ticks[each.pk])]
    decided: dict[int, Due | Skip | Exception] = {
        each.pk: Skip(_not_due(each)) for each in simple if not each.is_due(ticks[each.pk])
    }
    if due:
        with writing(ProcessTreeSchedule):
            decided |= {
                each.pk: Due(each, of) for each in due if (of := _win(each, ticks[each.pk]))
            }
    return decided


def _is_simple(schedule: ProcessTreeSchedule, at: dt.datetime, now: dt.datetime) -> bool:
    """Return whether nothing but its due time decides on a schedule's tick."""
    return (
        schedule.enabled
        and schedule.claim is None
        and schedule.last_run_status != RunStatus.STARTED
        and schedule.last_run != at
        and not schedule.has_pauses  # type: ignore[attr-defined]  # annotated
        and _is_aligned(schedule, now)
        and not due_drops.too_late(schedule, schedule.next_run or at, now)
    )


def _is_aligned(schedule: ProcessTreeSchedule, now: dt.datetime) -> bool:
    """Return whether a schedule's rule is the one that ``next_run`` follows from."""
    try:
        return not schedule.align(now)
    except Exception:  # SQL may have written any rule: ``request`` raises it for this one alone
        logger.info("The schedule %r is decided on by itself.", schedule.title, exc_info=True)
        return False


def _pauses_of(schedule: ProcessTreeSchedule, now: dt.datetime) -> list[Pause]:
    """Return the pauses that hold a schedule, or have dropped what it was due at."""
    if not schedule.has_pauses:  # type: ignore[attr-defined]  # annotated
        return []
    since = schedule.next_run or now
    found = Pause.objects.since_due(since, now).of(schedule.pk, schedule.process_tree_id)
    return readable(found)


def _held(schedule: ProcessTreeSchedule, at: dt.datetime, pauses: list[Pause], dropped: str) -> str:
    """Return why a paused schedule runs nothing, and what happens to its due time."""
    if schedule.claim is not None:
        what = f"The run for {_say(schedule.claim)} is not requested again before it ends."
    elif schedule.is_due(at):
        what = f"The due time {_say(schedule.next_run)} is kept; one run catches up."
    else:
        what = _not_due(schedule)
    return " ".join(filter(None, [f"Paused {in_words(pauses)}.", dropped, what]))


def take(
    job_name: str,
    due: dt.datetime,
    run_id: str,
    worker: str = "",
    schedule_name: str = DEFAULT_SCHEDULE,
) -> Taken | Skip:
    """Take a claim for a run, before the run calls any function.

    Parameters
    ----------
    job_name:
        The job of the run.
    due:
        The due time in the run's tag.
    run_id:
        The run's id.
    worker:
        The process that runs it, for ``History.of_run``.
    schedule_name:
        Which of the tree's schedules, as the run's tags say.

    Returns
    -------
    Taken or Skip
        ``Skip`` with the reason if the claim is not the run's, so that it must not continue.
    """
    schedules = ProcessTreeSchedule.objects.filter(
        process_tree__job_name=job_name, name=schedule_name
    )
    for _ in range(MOST_TRIES):
        schedule = schedules.first()
        if schedule is None:
            return Skip(f"The schedule that was due at {_say(due)} is gone.")
        if schedule.claim != due or not schedule.enabled:
            return _taken_or_skipped(schedule, due, run_id)
        now = timezone.now()
        changes: dict[str, object] = {
            **{"claim": None, "claimed_at": None},
            **{"last_run_id": run_id, "last_due": due},
            **{"last_run_status": RunStatus.STARTED, "last_run_worker": worker},
        }
        if schedule.next_run is not None and schedule.next_run <= now:
            # The run covers the due times that passed while its claim was open.
            changes["next_run"] = schedule.due_after(now)
        taken = ProcessTreeSchedule.objects.filter(
            pk=schedule.pk, enabled=True, claim=due, next_run=schedule.next_run
        ).update(**changes)
        if taken:
            return Taken(due, schedule.due_times(due, now, MOST_COUNTED + 1))
        _rewrite(schedule)  # or the row was changed meanwhile: try again
    return Skip(f"The claim on {_say(due)} can't be taken: its row changes all the time.")


def resume(due: dt.datetime, run_id: str, worker: str) -> Taken:
    """Record another worker for a run that has taken its claim and is resumed."""
    ProcessTreeSchedule.objects.filter(last_run_id=run_id).update(last_run_worker=worker)
    return Taken(due, 1)


def end(run_id: str, status: RunStatus) -> None:
    """Record the outcome of a run that took its claim."""
    rows = ProcessTreeSchedule.objects.filter(last_run_id=run_id)
    rows.update(last_run_status=status, last_ended=timezone.now())


def _taken_or_skipped(schedule: ProcessTreeSchedule, due: dt.datetime, run_id: str) -> Taken | Skip:
    if schedule.last_run_id == run_id:
        return Taken(due, 1)  # by this very run
    if schedule.last_due == due:
        return Skip(
            f"Already run by run {schedule.last_run_id}, which took the claim on {_say(due)}."
        )
    return Skip(
        f"The claim on {_say(due)} is no longer open: the schedule was switched off meanwhile, "
        "or a later due time was run."
    )


def look_at_last_run(schedule: ProcessTreeSchedule, history: History) -> None:
    """Ask Dagster whether the last run has ended, if it has not recorded its end itself."""
    status = history.of_run(schedule.last_run_id, schedule.last_run_worker)
    if status != RunStatus.STARTED:
        schedule.last_run_status = status
        mine = ProcessTreeSchedule.objects.filter(pk=schedule.pk, last_run_id=schedule.last_run_id)
        mine.update(last_run_status=status, last_ended=timezone.now())


def _align(schedule: ProcessTreeSchedule) -> None:
    """Apply a rule that was changed without ``save()`` (``update()``, SQL, a fixture)."""
    before = schedule.next_run_rule
    changed = schedule.align(timezone.now())
    if changed:
        ProcessTreeSchedule.objects.filter(pk=schedule.pk, next_run_rule=before).update(
            **{field: getattr(schedule, field) for field in changed}
        )


def _pass_over(schedule: ProcessTreeSchedule, at: dt.datetime) -> None:
    """Advance a disabled schedule's ``next_run``, and withdraw its open claim."""
    overdue = schedule.next_run is None or schedule.next_run <= at
    if overdue or schedule.claim is not None:
        ProcessTreeSchedule.objects.filter(pk=schedule.pk, enabled=False).update(
            next_run=schedule.due_after(at) if overdue else schedule.next_run,
            claim=None,
            claimed_at=None,
        )


def _look_at_claim(
    schedule: ProcessTreeSchedule, at: dt.datetime, history: History
) -> Due | Skip | None:
    """Return the decision on an open claim; ``None`` if the claim is closed."""
    claim, claimed_at = schedule.claim, schedule.claimed_at
    assert claim is not None
    progress = history.of_claim(claim)
    mine = ProcessTreeSchedule.objects.filter(pk=schedule.pk, claim=claim)
    if progress == "under way":
        return Skip(f"The run for {_say(claim)} is on its way.")
    if progress == "finished":
        # Its run ended without taking the claim (cancelled in the queue), or too many have failed.
        if not mine.update(claim=None, claimed_at=None):
            _rewrite(schedule)
            mine.update(claim=None, claimed_at=None)
        schedule.refresh_from_db()
        return None
    now = timezone.now()
    if why := due_drops.too_late(schedule, claim, now):
        if mine.update(claim=None, claimed_at=None):
            due_drops.record(schedule, claim, claim, why)
        schedule.refresh_from_db()
        return None
    same_tick = schedule.last_run == at
    # A claim may lie in the future if the clock was set back since.
    old = claimed_at is None or abs(now - claimed_at) >= REQUEST_AGAIN_AFTER
    if not (same_tick or old):
        return Skip(f"The run for {_say(claim)} has just been requested.")
    if not mine.filter(claimed_at=claimed_at).update(claimed_at=now):
        _rewrite(schedule)
        return Skip(f"The run for {_say(claim)} was requested by another process.")
    return Due(schedule, claim)


def _claim(schedule: ProcessTreeSchedule, at: dt.datetime) -> Due | Skip:
    """Claim the due time with one update, which one process wins."""
    won = _win(schedule, at)
    if won is not None:
        return Due(schedule, won)
    _rewrite(schedule)
    return Skip(f"The due time {_say(schedule.next_run or at)} was claimed by another process.")


def _win(schedule: ProcessTreeSchedule, at: dt.datetime) -> dt.datetime | None:
    """Return the due time that was claimed; ``None`` if the row is not what was read."""
    due = schedule.next_run or at
    won = ProcessTreeSchedule.objects.filter(
        pk=schedule.pk,
        enabled=True,
        claim=None,
        next_run=schedule.next_run,
        next_run_rule=schedule.next_run_rule,
    ).update(
        last_run=at,
        next_run=schedule.due_after(at),
        claim=due,
        claimed_at=timezone.now(),
    )
    return due if won else None


def _rewrite(schedule: ProcessTreeSchedule) -> None:
    """Rewrite the columns that updates filter on as Django formats them.

    On SQLite a time is text, and one that SQL has set may have another format: it can be read, but
    no update matches it. The next check then matches.
    """
    with writing(ProcessTreeSchedule) as alias:
        rows = ProcessTreeSchedule.objects.using(alias).filter(pk=schedule.pk)
        now = rows.select_for_update().first()
        if now is not None:
            rows.update(next_run=now.next_run, claim=now.claim, claimed_at=now.claimed_at)


def _not_due(schedule: ProcessTreeSchedule) -> str:
    if schedule.has_ended:
        return f"Not due any more: its end date is {schedule.end_date}."
    return f"Not due until {_say(schedule.next_run)}."


def _say(moment: dt.datetime | None) -> str:
    return "now" if moment is None else in_utc(moment)
