"""Schedules without Dagster's daemon: for APScheduler, cron and the like.

Both may be live beside the daemon: a due time is claimed by one of them.
"""

import datetime as dt
import logging
from dataclasses import dataclass
from typing import Literal

from django.utils import timezone

from . import claims, execution, triggers
from .connections import fresh_connections, in_transaction
from .exceptions import ScheduleError, TreeFailed
from .execution import Results
from .models import ProcessTreeSchedule, RunStatus
from .process import explain

logger = logging.getLogger(__name__)


def check_and_run_scheduled_tasks() -> dict[str, Results]:
    """Poll the triggers, run every tree that is due here and now, and deliver the outbox.

    Call it every minute, or leave the schedules to Dagster's daemon, or both.

    Returns
    -------
    dict
        The results of each tree that was due, by its name. One that fails stops no other.

    Raises
    ------
    ScheduleError
        It was called inside a transaction.
    """
    _refuse_transaction()
    _poll_triggers()
    results: dict[str, Results] = {}
    with fresh_connections():
        schedules = list(ProcessTreeSchedule.objects.select_related("process_tree"))
    for schedule in schedules:
        name = schedule.process_tree.name
        try:
            if not schedule.needs_look(timezone.now()):
                continue
            with fresh_connections():
                outcome = run_if_due(schedule.pk)
        except Exception as error:  # one tree's fault must not keep the others from running
            logger.exception("The scheduled process tree %r could not be run.", name)
            outcome = execution.not_run(name, explain(error))
        if outcome is not None:
            results[name] = outcome
    with fresh_connections():
        execution.deliver()
    return results


def _poll_triggers() -> None:
    """Poll the triggers first: that takes a moment, and trees that are due may take long."""
    try:
        triggers.poll_triggers()
    except Exception:  # triggers that can't be read must not keep the trees from running
        logger.exception("The triggers can't be polled.")


def run_if_due(schedule_id: int) -> Results | None:
    """Claim a schedule's due time and run its tree here; return ``None`` if it is not due."""
    _refuse_transaction()
    decision = claims.request(schedule_id, timezone.now(), _History(schedule_id))
    if isinstance(decision, claims.Skip):
        logger.debug("Schedule %s: %s", schedule_id, decision.reason)
        return None
    row = decision.schedule.process_tree
    return execution.execute_row(row, decision.context, triggered_by="schedule", due=decision.due)


def _refuse_transaction() -> None:
    if in_transaction():
        raise ScheduleError(
            "Scheduled trees can't be run inside a transaction: a rollback would undo the claim "
            "on the due time, and it would be run twice. Call this outside of atomic()."
        )


@dataclass(frozen=True)
class _History:
    """Opens Dagster's instance when it is asked, and only then."""

    schedule_id: int

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        from .orchestration import runs

        with runs.open_instance() as instance:
            return runs.ScheduleHistory(instance, self.schedule_id).of_claim(due)

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        from .orchestration import runs

        with runs.open_instance() as instance:
            return runs.ScheduleHistory(instance, self.schedule_id).of_run(run_id, worker)


@dataclass(frozen=True)
class TreeTask:
    """Runs one tree when it is called; see ``ProcessTreeInstance.create_task_function``.

    A plain object that can be pickled, so a job store may keep it.
    """

    tree_name: str

    def __call__(self) -> Results | None:
        """Run the tree if it is due, or if it has no schedule.

        Returns
        -------
        Results or None
            ``None`` if it was not due.

        Raises
        ------
        TreeFailed
            With the reasons.
        TreeNotFound
            The tree is gone.
        """
        with fresh_connections():
            row = execution.get_row(self.tree_name)
            schedule = row.schedule_or_none
            results = execution.execute_row(row) if schedule is None else run_if_due(schedule.pk)
        if results is not None and not results["success"]:
            reasons = "; ".join(f"{name}: {error}" for name, error in results["errors"].items())
            raise TreeFailed(f"The process tree {self.tree_name!r} failed. {reasons}")
        return results
