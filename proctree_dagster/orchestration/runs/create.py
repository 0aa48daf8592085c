"""The one place where a run is created, and what is asked of runs afterwards."""

import datetime as dt
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    JobDefinition,
    RunsFilter,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run_iterator
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ... import conf
from ... import context as contexts
from ...context import tagging
from ...domain import run_tags as tags
from ...exceptions import InstanceError
from ...models import ProcessTreeSchedule, RunStatus
from ...process.cancellation import Stop
from ...services import due_time_claims
from ...support import project, test_isolation
from ..errors import fault
from ..execution.in_process import leave_output_alone, tame
from . import lost_runs, run_taking
from .shared_instances import shared
from .workers import Worker

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 60.0
"""How long after its start a run has surely taken its claim."""

MAX_LAUNCHES = 10
"""How many runs of a claim may fail before they take it; then the claim is given up."""

ENTRY_POINT = (sys.executable, "-m", "dagster")
"""How a launcher starts Dagster: a bare ``dagster`` fails where it is not on the PATH."""


def dagster_home() -> str | None:
    """Return the instance's folder (see ``project.home``); ``None`` in a test (``isolation``)."""
    return None if test_isolation.is_active() else project.home()


@contextmanager
def open_instance(
    *,
    persistent: bool = False,
    ephemeral: bool = False,
    to_execute: bool = False,
    create: bool = True,
) -> Iterator[DagsterInstance]:
    """Open the Dagster instance, or use the one that this process has open.

    Parameters
    ----------
    persistent:
        Whether an instance without a folder will not do.
    ephemeral:
        Whether to open one that keeps nothing, whatever the settings say.
    to_execute:
        Whether a run is going to be executed with it: then no other run is.
    create:
        Whether the home that nobody has chosen is created, if it is not there yet.

    Raises
    ------
    InstanceError
        There is no such folder; or ``persistent`` is asked for, and none is set or a test runs; or
        its storage can't be created.
    """
    if ephemeral:
        with DagsterInstance.ephemeral() as instance:
            yield tame(instance)
        return
    home = dagster_home()
    if home is None:
        is_isolated = project.home() is not None
        if persistent and is_isolated:
            raise InstanceError(
                "A test does not open the real Dagster instance. One that wants to says so: "
                "'with proctree_dagster.testing.real_dagster():', with a Dagster home of its own."
            )
        if persistent:
            raise InstanceError(
                'Dagster has no home: leave PROCTREE["DAGSTER_HOME"] out, or set it or the '
                "environment variable DAGSTER_HOME to the folder of the instance that the daemon "
                "uses."
            )
        if not is_isolated:
            logger.warning(
                "Dagster has no home (PROCTREE['DAGSTER_HOME'] is None, and DAGSTER_HOME is not "
                "set): the run's history is not kept."
            )
        with DagsterInstance.ephemeral() as instance:
            yield tame(instance)
        return
    if project.is_default_home(home):
        if not create and not Path(home).is_dir():
            raise InstanceError(
                f"Dagster's home {home!r} is not there yet: nothing has run, and "
                "'python manage.py proctree dev' has not been started."
            )
        project.create_home(home)
    if not Path(home).is_dir():
        raise InstanceError(f"Dagster's home {home!r} is not a folder; create it.")
    with shared(home, to_execute=to_execute) as instance:
        set_pool_sizes(instance)
        yield tame(instance)


def set_pool_sizes(instance: DagsterInstance) -> None:
    """Set the sizes of ``PROCTREE["POOLS"]`` on the instance: a pool without one limits nothing."""
    wanted = conf.current().POOLS
    if not wanted:
        return
    storage = instance.event_log_storage
    present = {pool.name: pool.limit for pool in storage.get_pool_limits()}
    for name, size in wanted.items():
        if present.get(name) != size:
            storage.set_concurrency_slots(name, size)


def create_run(
    instance: DagsterInstance,
    job: JobDefinition,
    context: Mapping[str, Any],
    run_tags: Mapping[str, str],
    *,
    in_memory: bool = False,
    run_id: str | None = None,
) -> DagsterRun:
    """Create a run of a tree's job. Every run that Python starts is created here.

    Parameters
    ----------
    instance:
        Where its history is kept.
    job:
        The tree's job.
    context:
        The whole context as JSON.
    run_tags:
        Tags besides the job's own, and those that the tree takes from the context.
    in_memory:
        Whether the run uses functions that only this process has: it can't be re-executed then.
    run_id:
        A UUID for the run; left out, Dagster makes one.

    Raises
    ------
    ContextError
        The context has a key with which Dagster could read no run any more.
    """
    contexts.refuse_kept_keys(context)
    run_config = {"context": dict(context)}
    plan = create_execution_plan(job, run_config)
    all_tags = {**job.run_tags, **run_tags, **({tags.IN_MEMORY: "true"} if in_memory else {})}
    # Not create_run_for_job: it writes down today's steps, and a run executes the tree as it is
    # when it starts.
    return instance.create_run(
        job_name=job.name,
        run_id=run_id,
        run_config=run_config,
        status=None,
        tags={**all_tags, **tagging.missing(all_tags, context)},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        **of_job(job, plan, in_memory=in_memory),
    )


def of_job(job: JobDefinition, plan: ExecutionPlan, *, in_memory: bool = False) -> dict[str, Any]:
    """Return what ``DagsterInstance.create_run`` is told of a run's job.

    Parameters
    ----------
    job, plan:
        The job, and what of it the run executes.
    in_memory:
        Whether only this process has the job: nothing says then where its code is found.
    """
    return {
        "execution_plan_snapshot": snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
        "job_snapshot": job.get_job_snapshot(),
        "parent_job_snapshot": None,
        "asset_selection": None,
        "asset_check_selection": None,
        "resolved_op_selection": None,
        "op_selection": None,
        "remote_job_origin": None if in_memory else remote_origin(job.name),
        "job_code_origin": None if in_memory else code_origin(job.name),
        "asset_graph": job.asset_layer.asset_graph,
    }


def code_origin(job_name: str) -> JobPythonOrigin:
    """Return where a launcher finds the job's code: in this process's release."""
    pointer = ModuleCodePointer(project.definitions(), tags.REPOSITORY, project.working_directory())
    return JobPythonOrigin(
        job_name,
        RepositoryPythonOrigin(
            executable_path=sys.executable, code_pointer=pointer, entry_point=ENTRY_POINT
        ),
    )


def remote_origin(job_name: str) -> RemoteJobOrigin:
    """Say how the UI finds the job; without it a run can't be re-executed there."""
    target = LoadableTargetOrigin(
        executable_path=sys.executable,
        module_name=project.definitions(),
        working_directory=project.working_directory(),
        attribute=tags.REPOSITORY,
    )
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, tags.LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, tags.REPOSITORY), job_name)


def is_ours(origin: RemoteRepositoryOrigin) -> bool:
    """Return True if a schedule or a job of this origin is ours.

    One Dagster may serve several code locations, and a schedule and a job of another one may bear
    the name of one of ours.
    """
    location = origin.code_location_origin.location_name
    return (location, origin.repository_name) == (tags.LOCATION, tags.REPOSITORY)


def _is_of_our_job(run: DagsterRun) -> bool:
    """Return True if a run of a job of this name is of ours; one from Python may not say."""
    origin = run.remote_job_origin
    return origin is None or is_ours(origin.repository_origin)


def executed_here(run_id: str) -> dict[str, str]:
    """Return the tags of a run that the calling process, which is somebody's, is to execute."""
    return replace(Worker.of_process(run_id, os.getpid()), dedicated=False).as_tags()


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    success: bool
    fault: str | None
    """What stopped the run as a whole, outside of any process."""

    failed_steps: Mapping[str, str]
    """Why a step failed, by its key: also one that failed before or after its function."""


def execute_here(instance: DagsterInstance, job: JobDefinition, run: DagsterRun) -> Ended:
    """Execute a run in the calling process.

    However the call ends, the run does not stay as started.

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
    """Gathers from a run's events what its results need."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.failed_steps: dict[str, str] = {}
        self.interrupted = False

    def see(self, event: DagsterEvent) -> None:
        """Look at one event."""
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


def check_queue(instance: DagsterInstance) -> None:
    """Refuse an instance that has no run queue.

    Raises
    ------
    InstanceError
        It has none.
    """
    coordinator = instance.run_coordinator
    if not isinstance(coordinator, QueuedRunCoordinator):
        raise InstanceError(
            f"This instance has no run queue (its run coordinator is "
            f"{type(coordinator).__name__}): set QueuedRunCoordinator in dagster.yaml."
        )


def submit(instance: DagsterInstance, run: DagsterRun) -> None:
    """Queue a run for the daemon."""
    # The queue does not look at the workspace, which only Dagster's own processes have.
    context = SubmitRunContext(run, workspace=None)  # type: ignore[arg-type]
    instance.run_coordinator.submit_run(context)


def due_tag(due: dt.datetime) -> str:
    """Return a due time as the value of its tag."""
    return due.astimezone(dt.UTC).isoformat()


def take_claim(
    run: DagsterRun, *, resumed: bool
) -> due_time_claims.Taken | due_time_claims.Skip | None:
    """Let a scheduled run take its claim; ``None`` for any other run.

    A re-execution carries its parent's tags; it has no claim of its own.

    Parameters
    ----------
    run:
        The run.
    resumed:
        Whether it goes on after its worker died: it has taken its claim before.
    """
    due = run.tags.get(tags.DUE)
    if due is None or run.parent_run_id is not None:
        return None
    moment = dt.datetime.fromisoformat(due)
    worker = Worker.of_process(run.run_id, os.getpid()).as_text()
    if resumed:
        return due_time_claims.resume(moment, run.run_id, worker)
    return due_time_claims.take(run.job_name, moment, run.run_id, worker)


@dataclass(frozen=True)
class ScheduleHistory:
    """What Dagster knows of a schedule's runs (see ``claims.History``)."""

    instance: DagsterInstance
    schedule_id: int

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        """Tell how far a claim's runs without a parent are; ``none`` if none was launched."""
        job_name = ProcessTreeSchedule.objects.values_list("process_tree__job_name", flat=True).get(
            pk=self.schedule_id
        )
        found = self.instance.get_runs(RunsFilter(job_name=job_name, tags={tags.DUE: due_tag(due)}))
        launched = [
            run
            for run in found
            if run.parent_run_id is None
            and _is_of_our_job(run)
            and run.status != DagsterRunStatus.NOT_STARTED
        ]
        # The claim is still open, so a run that failed has not taken it: the daemon or the code
        # server died in the launch, or the database was away. One that was canceled was not wanted.
        alive = [run for run in launched if run.status != DagsterRunStatus.FAILURE]
        if not alive:
            return "none" if len(launched) < MAX_LAUNCHES else "finished"
        if all(run.is_finished for run in alive):
            return "finished"
        return "none" if all(map(self._died_before_taking, alive)) else "under way"

    def _died_before_taking(self, run: DagsterRun) -> bool:
        """Say whether a run started long enough ago to have taken its claim, and has not.

        It is only asked of the runs of an open claim. To take it is the first that a run does.
        """
        if run.is_finished:
            return True
        if run.status == DagsterRunStatus.QUEUED:
            return False
        record = self.instance.get_run_record_by_id(run.run_id)
        started = None if record is None else record.start_time
        return started is not None and time.time() - started > CLAIM_SECONDS

    def seen(self, run_id: str, worker: str) -> RunStatus | None:
        """Return what a run has come to, ``None`` if its worker seems lost. Nothing is written."""
        run = self.instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            return _STATUS[run.status]
        if lost_runs.is_alive(run_id, Worker.from_text(worker), known=run is not None):
            return RunStatus.STARTED
        return RunStatus.FAILURE if run is None else None

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        """Tell what a run has come to; one whose worker is lost is ended in Dagster."""
        run = self.instance.get_run_by_id(run_id)
        if run is None or not run.is_finished:
            try:
                lost_runs.settle_run(self.instance, run_id, Worker.from_text(worker))
            except Exception:  # its file of events may be broken for good: the schedule goes on
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
