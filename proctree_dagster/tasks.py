"""Schedules without Dagster's daemon: for APScheduler, cron and the like.

Both may be live beside the daemon: a due time is claimed by one of them.
"""

import datetime as dt
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from django.utils import timezone

from . import conf, triggers
from .context import tagging
from .domain import run_tags as tags
from .domain.run_tags import DEFAULT_SCHEDULE
from .domain.texts import explain
from .exceptions import ScheduleError, TreeFailed
from .models import ProcessTree, ProcessTreeSchedule, RunStatus
from .running import alert_passes, results, row_execution, tree_runs
from .running.results import Results
from .services import due_time_claims, row_runs, scheduling
from .support.call_context import carried
from .support.connections import (
    fresh_connections,
    in_transaction,
    is_bound_to_thread,
    own_connections,
)
from .support.row_reading import readable

if TYPE_CHECKING:
    from .orchestration.runs.schedule_claims import ScheduleHistory

logger = logging.getLogger(__name__)

_OF_SCHEDULES = [field.name for field in ProcessTreeSchedule._meta.concrete_fields]
_LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


def check_and_run_scheduled_tasks() -> dict[str, Results]:
    """Poll the triggers, run every tree that is due here and now, deliver the outbox and alerts.

    Call it every minute, or leave the schedules to Dagster's daemon, or both. Trees that are due
    run side by side, ``PROCTREE["MAX_CONCURRENT"]`` at once, the earliest due time first;
    triggers are polled beside them. A tree is claimed when its turn comes: a call that overlaps an
    earlier one runs the due trees that have not started. In a ``TestCase``, whose transaction no
    other thread sees, one tree runs after the other.

    Returns
    -------
    dict
        The results of each tree that was due, by its name, in the order of their due times; by a
        named schedule, as ``tree (schedule)``. A failed tree stops no other. Those of a schedule
        with ``for_each`` are keyed by row instead of by process; a failed row stops no other.

    Raises
    ------
    ScheduleError
        It was called inside a transaction.
    KeyboardInterrupt
        It was interrupted: the run in the calling thread is canceled, those beside it are finished,
        and no other is started.
    """
    _refuse_transaction()
    with fresh_connections():
        # Names only: the rest of a tree is read when it runs, and may be broken.
        rows = ProcessTreeSchedule.objects.select_related("process_tree")
        schedules = readable(rows.only(*_OF_SCHEDULES, "process_tree__name"))
        waiting = set(row_runs.waiting().values_list("schedule_id", flat=True))
    now = timezone.now()
    chosen = (each for each in schedules if each.pk in waiting or _needs_check(each, now))
    due = sorted(chosen, key=_waiting_since)
    results: dict[str, Results] = {}

    def run(schedule: ProcessTreeSchedule) -> None:
        outcome = _run_or_say_why(schedule, dagster)
        if outcome is not None:
            results[schedule.title] = outcome

    with ExitStack() as opened, _beside(_poll_triggers):  # polls may be slow, too
        dagster = _Dagster(opened)
        _in_turn([partial(run, each) for each in due], threads=conf.current().MAX_CONCURRENT)
        with fresh_connections():
            tree_runs.deliver(of_rows=False)  # which are executed here
            alert_passes.make_if_nobody_does()
    names = [schedule.title for schedule in due]
    return {name: results[name] for name in names if name in results}


def _in_turn(jobs: Sequence[Callable[[], None]], threads: int) -> None:
    """Call functions that raise nothing in a pool of threads, in their order.

    The calling thread is one of the pool. If it is interrupted, running calls are finished and no
    other is started.

    Parameters
    ----------
    jobs:
        The functions.
    threads:
        The most threads; one, where others would not see the caller's data.
    """
    waiting = deque(jobs)

    def work() -> None:
        with suppress(IndexError):  # none is left
            while True:
                waiting.popleft()()

    helpers = 0 if is_bound_to_thread() else min(threads, len(jobs)) - 1
    with ExitStack() as stack:
        for _ in range(helpers):
            stack.enter_context(_beside(work))
        stack.callback(waiting.clear)  # before the helpers are joined
        work()


@contextmanager
def _beside(func: Callable[[], None]) -> Iterator[None]:
    """Call a function in its own thread beside the block; before it, if no thread can start."""
    thread = None if is_bound_to_thread() else _start(func)
    if thread is None:
        func()
    try:
        yield
    finally:
        if thread is not None:
            thread.join()


def _start(func: Callable[[], None]) -> Thread | None:
    """Start a thread with its own connections; return ``None`` if no thread can start."""
    thread = Thread(target=carried(own_connections()(func)), name="proctree-due")
    try:
        thread.start()
    except RuntimeError as error:
        logger.warning("What is due is run in one thread less: %s", error)
        return None
    return thread


def _needs_check(schedule: ProcessTreeSchedule, now: dt.datetime) -> bool:
    with suppress(Exception):  # its row is broken, which is logged when it is run
        return schedule.needs_check(now)
    return True


def _waiting_since(schedule: ProcessTreeSchedule) -> dt.datetime:
    """Return since when a run of the schedule is due."""
    return schedule.claim or schedule.next_run or _LONG_AGO


def _run_or_say_why(schedule: ProcessTreeSchedule, dagster: "_Dagster") -> Results | None:
    """Run a schedule's tree if it is due; raises nothing."""
    try:
        with fresh_connections():
            return _run_if_due(schedule.pk, dagster)
    except Exception as error:  # an error of one tree must not prevent the others
        logger.exception("The scheduled process tree %r could not be run.", schedule.title)
        return results.not_run(schedule.process_tree.name, explain(error))


def _poll_triggers() -> None:
    """Poll the triggers and deliver the outbox, without waiting for the due trees."""
    try:
        triggers.poll_triggers()
    except Exception:  # unreadable triggers must not prevent the trees
        logger.exception("The triggers can't be polled.")
    with fresh_connections():
        tree_runs.deliver(of_rows=False)


def run_if_due(schedule_id: int) -> Results | None:
    """Claim a schedule's due time and run its tree here; return ``None`` if it is not due."""
    _refuse_transaction()
    with ExitStack() as opened:
        return _run_if_due(schedule_id, _Dagster(opened))


def _run_if_due(schedule_id: int, dagster: "_Dagster") -> Results | None:
    decision = due_time_claims.request(schedule_id, timezone.now(), _History(dagster, schedule_id))
    if isinstance(decision, due_time_claims.Skip):
        logger.debug("Schedule %s: %s", schedule_id, decision.reason)
        return _run_rows_that_wait(schedule_id, dagster)
    if decision.schedule.for_each:
        logger.info(row_runs.request(decision, timezone.now()).reason)
        return row_execution.execute_waiting(decision.schedule, dagster.has_run)
    row = decision.schedule.process_tree
    if tree_runs.has_history():
        dagster.open()  # the run uses it, too, and so does the next one
    return tree_runs.execute_row(
        row,
        decision.context,
        triggered_by="schedule",
        due=decision.due,
        run_tags={
            **tagging.of_row(decision.schedule.tags),
            **tags.of_schedule(decision.schedule.name),
        },
    )


def _run_rows_that_wait(schedule_id: int, dagster: "_Dagster") -> Results | None:
    """Run what an earlier due time of a schedule with a run for each row has left for now."""
    schedule = ProcessTreeSchedule.objects.filter(pk=schedule_id).first()
    if schedule is None or not row_runs.waiting(schedule).exists():
        return None
    outcomes = row_execution.execute_waiting(schedule, dagster.has_run)
    return outcomes if outcomes["status"] else None  # each waits for another run, or a pause's end


def _refuse_transaction() -> None:
    if in_transaction():
        raise ScheduleError(
            "Scheduled trees can't be run inside a transaction: a rollback would undo the claim "
            "on the due time, and it would be run twice. Call this outside of atomic()."
        )


class _Dagster:
    """Dagster's instance, opened at the first query, once for all schedules.

    Opening it costs more than a query, and most schedules need no query.
    """

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._lock = Lock()
        self._instance: Any = None  # a DagsterInstance, whose name is not imported here

    def history_of(self, schedule_id: int) -> "ScheduleHistory":
        """Return the history of a schedule's runs."""
        from .orchestration.runs import schedule_claims

        return schedule_claims.ScheduleHistory(self.open(), schedule_id)

    def has_run(self, run_id: str) -> bool:
        """Return whether Dagster has a run of this id."""
        return bool(self.open().has_run(run_id))

    def open(self) -> Any:
        """Open it, if it is not open yet, and return it."""
        from .orchestration.runs import opening

        with self._lock:
            if self._instance is None:
                self._instance = self._opened.enter_context(opening.open_instance())
        return self._instance


@dataclass(frozen=True)
class _History:
    """Queries Dagster for a schedule's runs."""

    dagster: _Dagster
    schedule_id: int

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        return self.dagster.history_of(self.schedule_id).of_claim(due)

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        return self.dagster.history_of(self.schedule_id).of_run(run_id, worker)


@dataclass(frozen=True)
class TreeTask:
    """Runs one tree when it is called; see ``ProcessTreeInstance.create_task_function``.

    It can be pickled, so a job store can persist it.
    """

    tree_name: str
    schedule_name: str = DEFAULT_SCHEDULE

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
        ScheduleNotFound
            The named schedule is gone; a tree whose default schedule is gone always runs.
        """
        with fresh_connections():
            row = tree_runs.get_row(self.tree_name)
            schedule = self._schedule(row)
            results = tree_runs.execute_row(row) if schedule is None else run_if_due(schedule.pk)
        if results is not None and not results["success"]:
            reasons = "; ".join(f"{name}: {error}" for name, error in results["errors"].items())
            raise TreeFailed(f"The process tree {self.tree_name!r} failed. {reasons}")
        return results

    def _schedule(self, row: ProcessTree) -> ProcessTreeSchedule | None:
        if self.schedule_name == DEFAULT_SCHEDULE:
            return row.schedule_or_none
        return scheduling.find(row, self.schedule_name)
