"""Runs of schedules: the claim that each takes, and the state of a claim's runs."""

import datetime as dt
import logging
import os
import time
from dataclasses import dataclass
from typing import Literal

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)

from ...domain import run_tags as tags
from ...models import ProcessTreeSchedule, RunStatus
from ...services import due_time_claims
from ..launching.workers import Worker
from . import lost_runs
from .origins import is_ours

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 60.0
"""Seconds after its start in which a run takes its claim."""

MAX_LAUNCHES = 10
"""How many runs of a claim may fail before they take it; then the claim is given up."""


def is_of_our_job(run: DagsterRun) -> bool:
    """Return True if a run of a job of this name is ours; one from Python may have no origin."""
    origin = run.remote_job_origin
    return origin is None or is_ours(origin.repository_origin)


def due_tag(due: dt.datetime) -> str:
    """Return a due time as the value of its tag."""
    return due.astimezone(dt.UTC).isoformat()


def take_claim(
    run: DagsterRun, *, resumed: bool
) -> due_time_claims.Taken | due_time_claims.Skip | None:
    """Take the claim of a scheduled run; ``None`` for any other run.

    A re-execution carries its parent's tags; it has no claim of its own.

    Parameters
    ----------
    run:
        The run.
    resumed:
        Whether it is resumed after its worker died: it has taken its claim before.
    """
    due = run.tags.get(tags.DUE)
    if due is None or run.parent_run_id is not None:
        return None
    moment = dt.datetime.fromisoformat(due)
    worker = Worker.of_process(run.run_id, os.getpid()).as_text()
    if resumed:
        return due_time_claims.resume(moment, run.run_id, worker)
    return due_time_claims.take(
        run.job_name, moment, run.run_id, worker, tags.schedule_of(run.tags)
    )


@dataclass(frozen=True)
class ScheduleHistory:
    """Dagster's records of a schedule's runs (see ``due_time_claims.History``)."""

    instance: DagsterInstance
    schedule_id: int

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        """Return the state of a claim's runs, without re-executions; ``none`` without a run."""
        job_name, name = ProcessTreeSchedule.objects.values_list(
            "process_tree__job_name", "name"
        ).get(pk=self.schedule_id)
        wanted = {tags.DUE: due_tag(due), **tags.of_schedule(name)}
        found = self.instance.get_runs(RunsFilter(job_name=job_name, tags=wanted))
        launched = [
            run
            for run in found
            if run.parent_run_id is None
            and tags.schedule_of(run.tags) == name
            and is_of_our_job(run)
            and run.status != DagsterRunStatus.NOT_STARTED
        ]
        # The claim is still open, so a failed run has not taken it: the daemon or the code server
        # died in the launch, or the database was not reachable. A canceled run was not wanted.
        alive = [run for run in launched if run.status != DagsterRunStatus.FAILURE]
        if not alive:
            return "none" if len(launched) < MAX_LAUNCHES else "finished"
        if all(run.is_finished for run in alive):
            return "finished"
        return "none" if all(map(self._died_before_taking, alive)) else "under way"

    def _died_before_taking(self, run: DagsterRun) -> bool:
        """Return whether a run started long enough ago to have taken its claim, and has not.

        Only for runs of an open claim. Taking it is the first thing that a run does.
        """
        if run.is_finished:
            return True
        if run.status == DagsterRunStatus.QUEUED:
            return False
        record = self.instance.get_run_record_by_id(run.run_id)
        started = None if record is None else record.start_time
        return started is not None and time.time() - started > CLAIM_SECONDS

    def seen(self, run_id: str, worker: str) -> RunStatus | None:
        """Return a run's outcome, ``None`` if its worker seems lost. Writes nothing."""
        run = self.instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            return _STATUS[run.status]
        if lost_runs.is_alive(run_id, Worker.from_text(worker), known=run is not None):
            return RunStatus.STARTED
        return RunStatus.FAILURE if run is None else None

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        """Return a run's outcome; a run whose worker is lost is ended in Dagster."""
        run = self.instance.get_run_by_id(run_id)
        if run is None or not run.is_finished:
            try:
                lost_runs.settle_run(self.instance, run_id, Worker.from_text(worker))
            except Exception:  # its file of events may be broken for good: the schedule continues
                logger.exception("Run %s can't be ended in Dagster.", run_id)
                is_known = run is not None
                if not lost_runs.is_alive(run_id, Worker.from_text(worker), known=is_known):
                    return RunStatus.FAILURE
            run = self.instance.get_run_by_id(run_id)
        if run is not None:
            return _STATUS.get(run.status, RunStatus.STARTED)
        # It was deleted in Dagster.
        is_alive = lost_runs.is_alive(run_id, Worker.from_text(worker))
        return RunStatus.STARTED if is_alive else RunStatus.FAILURE


_STATUS = {
    DagsterRunStatus.SUCCESS: RunStatus.SUCCESS,
    DagsterRunStatus.FAILURE: RunStatus.FAILURE,
    DagsterRunStatus.CANCELED: RunStatus.CANCELED,
}
