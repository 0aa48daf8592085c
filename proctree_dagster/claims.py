"""Who runs a due time: claims, and the runs that take them.

A due time is *claimed* by one atomic update that one process wins, and the claim is *open* until a
run tagged with it takes it by another. So the daemon, ``check_and_run_scheduled_tasks()`` and
``create_task_function()`` may all be live at once: a run is requested at least once and started
exactly once. Each update filters on the row's own columns only: a join would make Django ask for
the ids first, and two processes could both win.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from django.utils import timezone

from .models import ProcessTreeSchedule

REQUEST_AGAIN_AFTER = dt.timedelta(seconds=60)
"""The age at which an open claim without a run is requested again."""

ClaimRuns = Callable[[dt.datetime], Literal["none", "under way", "finished"]]
"""Tells how far a claim's runs without a parent have come; ``none`` if none was launched."""


@dataclass(frozen=True)
class Due:
    """A claimed due time; its run is to be requested."""

    schedule: ProcessTreeSchedule
    due: dt.datetime


@dataclass(frozen=True)
class Skip:
    """No run is to be requested."""

    reason: str


def request(schedule_id: int, at: dt.datetime, claim_runs: ClaimRuns) -> Due | Skip:
    """Decide what one look at a schedule asks for, and claim the due time if one is due.

    Parameters
    ----------
    schedule_id:
        Primary key of the schedule. Its row is read anew: what counts is the row at the tick.
    at:
        Aware; the tick's time.
    claim_runs:
        Asked about an open claim.
    """
    schedule = (
        ProcessTreeSchedule.objects.select_related("process_tree").filter(pk=schedule_id).first()
    )
    if schedule is None:
        return Skip("The tree or its schedule was deleted.")
    _align(schedule)
    if not schedule.enabled:
        _pass_over(schedule, at)
        return Skip("Disabled in Django: the schedule's 'enabled' is off.")
    if schedule.claim is not None:
        again = _look_at_claim(schedule, at, claim_runs)
        if again is not None:
            return again
    if not schedule.is_due(at):
        return Skip(f"Not due until {_say(schedule.next_run)}.")
    return _claim(schedule, at)


def take(job_name: str, due: dt.datetime, run_id: str) -> str | None:
    """Let a run take its claim before it calls any function.

    Parameters
    ----------
    job_name:
        The job of the run.
    due:
        The due time in the run's tag.
    run_id:
        The run's id.

    Returns
    -------
    str or None
        Why the run may not go on, or ``None`` if the claim is its own now.
    """
    schedules = ProcessTreeSchedule.objects.filter(process_tree__job_name=job_name)
    while (schedule := schedules.first()) is not None:
        if schedule.claim != due or not schedule.enabled:
            return _why_not_taken(schedule, due, run_id)
        now = timezone.now()
        changes: dict[str, object] = {
            **{"claim": None, "claimed_at": None},
            **{"last_run_id": run_id, "last_due": due},
        }
        if schedule.next_run is not None and schedule.next_run <= now:
            # The run stands for the due times that passed while its claim was open.
            changes["next_run"] = schedule.due_after(now)
        taken = ProcessTreeSchedule.objects.filter(
            pk=schedule.pk, enabled=True, claim=due, next_run=schedule.next_run
        ).update(**changes)
        if taken:
            return None
        _rewrite_next_run(schedule)  # or somebody has changed the row meanwhile: look again
    return f"The schedule that was due at {_say(due)} is gone."


def _why_not_taken(schedule: ProcessTreeSchedule, due: dt.datetime, run_id: str) -> str | None:
    if schedule.last_run_id == run_id:
        return None  # it was taken by this very run
    if schedule.last_due == due:
        return f"Already run by run {schedule.last_run_id}, which took the claim on {_say(due)}."
    return (
        f"The claim on {_say(due)} is no longer open: the schedule was switched off meanwhile, "
        "or a later due time was run."
    )


def _align(schedule: ProcessTreeSchedule) -> None:
    """Follow a rule that was changed behind ``save()``'s back (``update()``, SQL, a fixture)."""
    before = schedule.next_run_rule
    changed = schedule.align(timezone.now())
    if changed:
        ProcessTreeSchedule.objects.filter(pk=schedule.pk, next_run_rule=before).update(
            **{field: getattr(schedule, field) for field in changed}
        )


def _pass_over(schedule: ProcessTreeSchedule, at: dt.datetime) -> None:
    """Move a disabled schedule's ``next_run`` on, and withdraw its open claim."""
    overdue = schedule.next_run is None or schedule.next_run <= at
    if overdue or schedule.claim is not None:
        ProcessTreeSchedule.objects.filter(pk=schedule.pk, enabled=False).update(
            next_run=schedule.due_after(at) if overdue else schedule.next_run,
            claim=None,
            claimed_at=None,
        )


def _look_at_claim(
    schedule: ProcessTreeSchedule, at: dt.datetime, claim_runs: ClaimRuns
) -> Due | Skip | None:
    """Say what an open claim asks for; ``None`` if it has come to its end."""
    claim, claimed_at = schedule.claim, schedule.claimed_at
    assert claim is not None
    progress = claim_runs(claim)
    mine = ProcessTreeSchedule.objects.filter(pk=schedule.pk, claim=claim)
    if progress == "under way":
        return Skip(f"The run for {_say(claim)} is on its way.")
    if progress == "finished":
        # It ended before it could take its claim (cancelled in the queue, worker never came up).
        mine.update(claim=None, claimed_at=None)
        schedule.refresh_from_db()
        return None
    now = timezone.now()
    same_tick = schedule.last_run == at
    old = claimed_at is None or claimed_at <= now - REQUEST_AGAIN_AFTER
    if not (same_tick or old):
        return Skip(f"The run for {_say(claim)} has just been requested.")
    if not mine.filter(claimed_at=claimed_at).update(claimed_at=now):
        return Skip(f"The run for {_say(claim)} was requested by another process.")
    return Due(schedule, claim)


def _claim(schedule: ProcessTreeSchedule, at: dt.datetime) -> Due | Skip:
    """Claim the due time for one winner."""
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
    if won:
        return Due(schedule, due)
    _rewrite_next_run(schedule)
    return Skip(f"The due time {_say(due)} was claimed by another process.")


def _rewrite_next_run(schedule: ProcessTreeSchedule) -> None:
    """Write ``next_run`` as Django writes it, if nobody else has changed the row.

    On SQLite a time is text, and one that was set in SQL may be written in another way: it can be
    read, but no update finds it. The next look does, then.
    """
    now = ProcessTreeSchedule.objects.filter(pk=schedule.pk).first()
    if now is not None and (now.claim, now.next_run) == (schedule.claim, schedule.next_run):
        ProcessTreeSchedule.objects.filter(pk=schedule.pk, claim=schedule.claim).update(
            next_run=schedule.next_run
        )


def _say(moment: dt.datetime | None) -> str:
    return "now" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
