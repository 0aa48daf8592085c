"""Runs that are executed in the calling process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
)

from ...process.cancellation import Stop
from ..dagster_internals import InMemoryJob, execute_run_iterator
from ..errors import fault
from ..launching.workers import Worker
from . import run_taking
from .in_process import leave_output_alone


def executed_here(run_id: str) -> dict[str, str]:
    """Return the tags of a run that the calling process is to execute."""
    return replace(Worker.of_process(run_id, os.getpid()), dedicated=False).as_tags()


@dataclass(frozen=True)
class Ended:
    """The outcome of a run."""

    success: bool
    fault: str | None
    """The error that stopped the run outside any process."""

    failed_steps: Mapping[str, str]
    """Why each failed step failed, by its key, also before or after its function."""


def execute_here(instance: DagsterInstance, job: JobDefinition, run: DagsterRun) -> Ended:
    """Execute a run in the calling process.

    The run never keeps the status "started", however the call ends.

    Raises
    ------
    KeyboardInterrupt
        It was interrupted (Ctrl-C); the run is canceled.
    """
    watch, stop = _Watch(), Stop(DagsterExecutionInterruptedError)
    leave_output_alone(instance)
    try:
        with stop.heeded(), run_taking.signs_of_life(run, instance, stop.ask):
            for event in execute_run_iterator(InMemoryJob(job), run, instance):
                watch.see(event)
    finally:
        ended = instance.get_run_by_id(run.run_id)
        if ended is not None and not ended.is_finished:
            instance.report_run_canceled(ended, "Interrupted where it was started.")
    if stop.asked:
        watch.fault = "It was terminated: Dagster was asked to, or its signs of life had ceased."
    elif watch.interrupted:
        raise KeyboardInterrupt
    success = ended is not None and ended.status == DagsterRunStatus.SUCCESS
    return Ended(success, watch.fault, watch.failed_steps)


class _Watch:
    """Collects the results of a run from its events."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.failed_steps: dict[str, str] = {}
        self.interrupted = False

    def see(self, event: DagsterEvent) -> None:
        """Take one event into account."""
        if event.event_type == DagsterEventType.RUN_FAILURE:
            self.fault = fault(event.job_failure_data.error)
        elif event.event_type == DagsterEventType.STEP_FAILURE and event.step_key:
            self.failed_steps[event.step_key] = fault(event.step_failure_data.error) or "It failed."
        elif event.event_type == DagsterEventType.RUN_CANCELED:
            error = event.job_canceled_data.error
            self.fault = fault(error)
            self.interrupted = error is None or error.cls_name != ClaimRefused.__name__


class ClaimRefused(DagsterExecutionInterruptedError):
    """A scheduled run could not take its claim: its due time was run already."""
