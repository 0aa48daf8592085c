"""Ends the runs whose worker is lost, so that no run is under way for ever.

This needs Django's database and Dagster's, so it is done by the sensor of the outbox, every ten
seconds while a run is under way, by the ticks of schedules and by
``check_and_run_scheduled_tasks()``. So it needs neither our launcher nor Dagster's run monitoring.
Listing runs writes nothing.

*Lost* is a worker that is known to have ended, or has been silent for ``PROCTREE["LOST_AFTER"]``
seconds. A worker whose process is seen to run is not lost. See ``run_workers``.
"""

import logging
import signal
import time
from dataclasses import dataclass, field

from dagster import (
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    QueuedRunCoordinator,
    RunRecord,
    RunsFilter,
)

from ... import conf
from ...domain import run_tags
from ...models import RunWorker
from ...services import run_workers
from ...services.run_workers import Sign
from ...support import os_processes
from ...support.os_processes import Identity, State
from ...support.row_reading import readable
from ..launching.workers import Worker
from . import run_status

logger = logging.getLogger(__name__)

ENDED_SECONDS = 10.0
"""Grace period in which the parent of an ended worker may report its exit code."""

KILL_SECONDS = 10.0
"""Seconds after the grace period in which the guardian should have ended the worker."""

UNWANTED_SECONDS = 15.0
"""Seconds that a worker may live after its run was marked as ended."""

LAUNCHES = 3
"""How often a queued run is launched whose worker never starts."""

ACTIVE = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
"""The states in which a run has a worker, or should have one."""


@dataclass
class Findings:
    """The outcome of one pass over the runs; ids of runs."""

    failed: list[str] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [
            (len(self.failed), "lost and failed"),
            (len(self.canceled), "lost and canceled"),
            (len(self.suspected), "silent"),
            (len(self.asked), "asked to cancel"),
            (len(self.queued), "queued again"),
        ]
        return ", ".join(f"{count} {what}" for count, what in counts if count)


def settle(instance: DagsterInstance) -> Findings:
    """Check every run that is under way, and end those whose worker is lost."""
    found = Findings()
    # Runs first: the row of a run that ends meanwhile has ended, too, and is read again.
    active = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(RunsFilter(statuses=ACTIVE))
    }
    rows = _rows(list(active))
    for run_id, record in active.items():
        try:
            _settle_run(instance, record, rows.pop(run_id, None), found)
        except Exception:  # an error of one run must not leave the others under way
            logger.exception("The worker of run %s can't be looked after.", run_id)
    for row in rows.values():
        try:
            _settle_row(instance, row, found)
        except Exception:  # nor stop the sensor's other parts
            logger.exception("The worker of run %s can't be looked after.", row.run_id)
    run_workers.prune()
    return found


def is_any_open(instance: DagsterInstance) -> bool:
    """Return whether a run is under way, or has a worker that is not known to have ended."""
    if RunWorker.objects.filter(ended_at=None).exists():
        return True
    return bool(instance.get_run_ids(RunsFilter(statuses=ACTIVE), limit=1))


def settle_run(instance: DagsterInstance, run_id: str, worker: Worker | None) -> None:
    """Do it for one run, at once.

    Parameters
    ----------
    instance:
        Where it is recorded.
    run_id:
        Its id.
    worker:
        Its worker, as recorded elsewhere than on the run.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is not None and not record.dagster_run.is_finished:
        _settle_run(instance, record, _row(run_id), Findings(), worker, grace=0.0)


def is_alive(run_id: str, worker: Worker | None, *, known: bool = False) -> bool:
    """Return whether a run may have a worker, by the database. Writes nothing.

    Parameters
    ----------
    run_id:
        Its id.
    worker:
        Its worker, as recorded elsewhere, for a run without a row.
    known:
        Whether Dagster knows it: then it may be alive though nothing else is known of it.
    """
    row = _row(run_id)
    if row is None and known:
        return worker is None or not worker.has_died
    if row is None:
        return worker is not None and worker.process.state is State.RUNNING
    sign = run_workers.sign_of(row)
    return sign is Sign.ALIVE or (sign is Sign.SILENT and not run_workers.is_lost(row))


def _row(run_id: str) -> RunWorker | None:
    return run_workers.with_now(RunWorker.objects.all()).filter(run_id=run_id).first()


def _rows(active: list[str]) -> dict[str, RunWorker]:
    """Return the rows of the active runs, and every other one that is open."""
    every = run_workers.with_now(RunWorker.objects.all())
    found = {row.run_id: row for row in readable(every.filter(ended_at=None))}
    missing = [run_id for run_id in active if run_id not in found]
    for start in range(0, len(missing), 500):
        for row in readable(every.filter(run_id__in=missing[start : start + 500])):
            found[row.run_id] = row
    return found


def _settle_run(
    instance: DagsterInstance,
    record: RunRecord,
    row: RunWorker | None,
    found: Findings,
    worker: Worker | None = None,
    *,
    grace: float = ENDED_SECONDS,
) -> None:
    run = record.dagster_run
    if row is None:
        _settle_untaken(instance, record, worker or Worker.of_run(run), found, grace)
        return
    sign = run_workers.sign_of(row)
    if sign is Sign.ENDED:
        if run_workers.silence_of(row) >= grace:
            _end(instance, row, f"Its worker ({run_workers.worker_of(row)}) has ended.", found)
    elif sign is Sign.SILENT:
        if run_workers.is_lost(row):
            worker_text, silence = run_workers.worker_of(row), run_workers.silence_of(row)
            reason = f"No sign of life of its worker ({worker_text}) for {silence:.0f} s."
            _end(instance, row, reason, found)
        elif run_workers.suspect(row):
            found.suspected.append(run.run_id)
    elif (
        run.status == DagsterRunStatus.STARTING
        and run_workers.seconds_since(row, row.taken_at) >= ENDED_SECONDS
    ):
        run_status.restore(instance, run)
    if run.status == DagsterRunStatus.CANCELING and sign is not Sign.ENDED:
        _see_to_cancel(row, found)


def _settle_untaken(
    instance: DagsterInstance,
    record: RunRecord,
    worker: Worker | None,
    found: Findings,
    grace: float,
) -> None:
    """End a run that no worker has taken, if its worker has died or never started.

    If no worker is known, the launching process was killed: such a run is queued again.
    """
    run = record.dagster_run
    age = run_status.age(instance, record)
    if worker is not None and worker.has_died and age >= grace:
        reason = f"Its worker ({worker}) has ended."
    elif not _is_of_a_tree(run):
        return  # of another code location, whose workers take no runs
    elif run.status == DagsterRunStatus.CANCELING and age >= _cancel_seconds():
        reason = "No worker of it is known."
    elif worker is None and _may_be_queued_again(instance, run, age):
        _queue_again(instance, run, age, found)
        return
    elif run.status == DagsterRunStatus.STARTING and age >= _start_seconds(instance):
        reason = f"No worker has taken it within {age:.0f} s after its launch."
    else:
        return
    if run_workers.shut(run.run_id):  # a worker that starts now is too late
        _report(instance, run.run_id, reason, canceled=False, found=found)


def _may_be_queued_again(instance: DagsterInstance, run: DagsterRun, age: float) -> bool:
    """Return whether a run came from the queue, and its launch has started no worker.

    After half of the timeout of a start: at its end run monitoring fails the run.
    """
    return (
        run.status == DagsterRunStatus.STARTING
        and age >= _start_seconds(instance) / 2
        and isinstance(instance.run_coordinator, QueuedRunCoordinator)
        and 0 < run_status.times_queued(instance, run.run_id) < LAUNCHES
    )


def _queue_again(instance: DagsterInstance, run: DagsterRun, age: float, found: Findings) -> None:
    """Put a run back into the queue.

    A late worker of this launch takes the run, and that of the next launch leaves it alone.
    """
    current = instance.get_run_by_id(run.run_id)
    if current is None or current.status != DagsterRunStatus.STARTING:
        return  # its worker, or another pass over the runs, was quicker
    logger.warning("Run %s is queued again: no worker took it within %.0f s.", run.run_id, age)
    instance.report_engine_event(
        f"No worker has taken this run within {age:.0f} s after its launch: whoever launched it "
        "may have been killed. It is queued again.",
        run,
    )
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
    found.queued.append(run.run_id)


def _cancel_seconds() -> float:
    return conf.current().TERMINATE_GRACE + KILL_SECONDS


def _start_seconds(instance: DagsterInstance) -> float:
    """Return the timeout of a start: that of ``run_monitoring``, even if that is off."""
    return float(instance.run_monitoring_start_timeout_seconds) or float("inf")


def _is_of_a_tree(run: DagsterRun) -> bool:
    origin = run.job_code_origin
    if origin is None or run_tags.value(run.tags, run_tags.IN_MEMORY):
        return False
    pointer = origin.repository_origin.code_pointer
    return run_tags.TREE in run.tags or pointer.describe().endswith(run_tags.REPOSITORY)


def _settle_row(instance: DagsterInstance, row: RunWorker, found: Findings) -> None:
    """Check a worker whose run is not under way (any more)."""
    run = instance.get_run_by_id(row.run_id)
    if run is not None and run.status in ACTIVE:
        return  # it has started meanwhile
    sign = run_workers.sign_of(row)
    if sign is Sign.ENDED or (sign is Sign.SILENT and run_workers.is_lost(row)):
        run_workers.give_up(row)
    elif sign is Sign.SILENT:
        run_workers.suspect(row)
    elif run is not None and run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        ended = instance.get_run_stats(row.run_id).end_time
        if ended is not None and time.time() - ended >= UNWANTED_SECONDS:
            # The run was marked as ended elsewhere (in the UI, by run monitoring), or the worker
            # joins what its run has left; its guardian knows which.
            _see_to_cancel(row, found, conf.current().EXIT_GRACE)


def _see_to_cancel(row: RunWorker, found: Findings, grace: float = 0.0) -> None:
    """Make a worker cancel its run; end the worker if nothing else has by then.

    ``grace``: seconds that it has besides its grace period.
    """
    if run_workers.request_cancel(row.run_id):
        found.asked.append(row.run_id)
        return
    if row.cancel_requested_at is None:
        return
    worker = run_workers.worker_of(row)
    asked = run_workers.seconds_since(row, row.cancel_requested_at)
    if row.is_dedicated and asked >= _cancel_seconds() + grace and worker.is_visible:
        _kill(row, worker)


def _kill(row: RunWorker, worker: Identity) -> None:
    programs = os_processes.programs_of(worker, row.run_id)
    worker.send(signal.SIGKILL)
    worker.wait(KILL_SECONDS)
    os_processes.end_all(programs.in_session, KILL_SECONDS)


def _end(instance: DagsterInstance, row: RunWorker, reason: str, found: Findings) -> None:
    """End the run of a worker that is lost, unless it has given a sign of life meanwhile."""
    if row.ended_at is None and not run_workers.give_up(row):
        return
    worker = run_workers.worker_of(row)
    if row.is_dedicated and worker.state is State.STOPPED:
        _kill(row, worker)
    canceled = row.cancel_requested_at is not None
    _report(instance, row.run_id, reason, canceled=canceled, found=found)


def _report(
    instance: DagsterInstance, run_id: str, reason: str, *, canceled: bool, found: Findings
) -> None:
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished or run_status.restore(instance, run):
        return
    if canceled or run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, reason)
        found.canceled.append(run_id)
    elif not instance.run_will_resume(run_id):
        logger.error("Run %s has failed: %s", run_id, reason)
        instance.report_run_failed(run, reason)
        found.failed.append(run_id)
