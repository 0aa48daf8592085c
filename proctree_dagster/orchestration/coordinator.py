"""Launching runs without the queue, where no limit could hold them back."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    QueuedRunCoordinator,
    SubmitRunContext,
)

from ..domain import run_tags
from ..domain.limits import MAX_LIMIT_PER_KEY
from . import idle_sensors, kept_servers, queue_polls, queueing, ticks_together
from .launcher import WarmRunLauncher, has_own_server
from .launching import daemons, releases, sqlite_keepalive, wakeups

if TYPE_CHECKING:
    from .dagster_internals import BaseWorkspaceRequestContext, RunQueueConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Seconds between two polls of the queue, unless ``dequeue_interval_seconds`` is set."""


OUR_LIMITS: Sequence[Mapping[str, Any]] = (
    {"key": run_tags.KEY, "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
    *(
        {
            **{"key": f"{run_tags.AT_MOST}{number}", "limit": number},
            "value": {"applyLimitPerUniqueValue": True},
        }
        for number in range(1, MAX_LIMIT_PER_KEY + 1)
    ),
)
"""The limits that this package's tags stand for, as ``tag_concurrency_limits`` of dagster.yaml."""


class StraightRunCoordinator(QueuedRunCoordinator[DagsterInstance]):
    """Launches a run at once if no limit could apply to it, and queues it otherwise.

    No limit can apply if ``max_concurrent_runs`` is -1, the run has no tag that
    ``tag_concurrency_limits`` name, and no process of its tree has a pool. It takes the
    configuration of ``QueuedRunCoordinator``; the daemon polls the queue every second, unless
    ``dequeue_interval_seconds`` is set, and when a run is queued or has ended on its machine. It
    adds the limits of runs with a key, and of trees, to those that are set.
    """

    def __init__(self, dequeue_interval_seconds: int | None = None, **others: Any) -> None:
        super().__init__(dequeue_interval_seconds=dequeue_interval_seconds, **others)
        self._poll_seconds = dequeue_interval_seconds or POLL_SECONDS
        self._files = ExitStack()
        self._presence: daemons.Presence | None = None

    def register_instance(self, instance: DagsterInstance) -> None:
        """Register the instance.

        This makes each poll of a queue on SQLite cheaper, and lets Dagster's daemon evaluate ticks
        together.
        """
        super().register_instance(instance)
        ticks_together.install()
        sqlite_keepalive.keep_engines()
        if instance not in sqlite_keepalive.opened_during_runs:
            self._files = sqlite_keepalive.keep_open(sqlite_keepalive.of_instance(instance))

    def dispose(self) -> None:
        """Release its resources."""
        self._files.close()
        super().dispose()

    @property
    def dequeue_interval_seconds(self) -> float:  # type: ignore[override]
        """Seconds between two polls of the queue; the daemon reads it when it starts."""
        queue_polls.install()
        kept_servers.keep()
        idle_sensors.install(self._instance)
        self._presence = daemons.Presence()
        return self._poll_seconds

    def get_run_queue_config(self) -> "RunQueueConfig":
        """Return the queue's limits, and note the daemon, which calls this at each poll."""
        if self._presence is not None:
            self._presence.note(self._instance)
        given = super().get_run_queue_config()
        return given._replace(tag_concurrency_limits=[*given.tag_concurrency_limits, *OUR_LIMITS])

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Launch a run, or queue it."""
        run = context.dagster_run
        if run.status == DagsterRunStatus.NOT_STARTED:
            run = self._tagged(self._prepared(run))
            if not self._may_be_limited(run) and self._can_launch(context):
                return self._instance.launch_run(run.run_id, context.workspace)
            if queueing.can_together(self._instance):
                try:
                    queueing.queue(self._instance, [run])
                except Exception:  # a database is locked: as Dagster does it, then
                    logger.exception("Run %s is queued in Dagster's own way.", run.run_id)
                else:
                    return run.with_status(DagsterRunStatus.QUEUED)
        queued = super().submit_run(context._replace(dagster_run=run))
        wakeups.wake(self._instance.root_directory)
        return queued

    def submit_together(
        self, runs: Sequence[DagsterRun], workspace: "BaseWorkspaceRequestContext"
    ) -> None:
        """Launch or queue several runs; one that can't be launched is marked as failed.

        Parameters
        ----------
        runs:
            Runs as they are stored.
        workspace:
            The workspace of the process.
        """
        waiting: list[DagsterRun] = []
        for given in runs:
            if given.status != DagsterRunStatus.NOT_STARTED:
                continue
            run = self._tagged(self._prepared(given))
            can_wait = self._may_be_limited(run) or not self._can_launch(
                SubmitRunContext(run, workspace)
            )
            if can_wait and queueing.can_together(self._instance):
                waiting.append(run)
                continue
            try:
                self._instance.submit_run(run.run_id, workspace)
            except Exception:  # the run has failed, and its log has the trace
                logger.exception("Run %s can't be submitted.", run.run_id)
        if waiting:
            queueing.queue(self._instance, waiting)

    def _may_be_limited(self, run: DagsterRun) -> bool:
        """Whether a limit may hold this run back; those of other runs' tags can't."""
        queue = self._instance.get_concurrency_config().run_queue_config
        return (
            queue is None
            or queue.max_concurrent_runs != -1
            or any(_concerns(limit, run) for limit in [*queue.tag_concurrency_limits, *OUR_LIMITS])
            or run.run_op_concurrency is not None
        )

    def _can_launch(self, context: SubmitRunContext) -> bool:
        """Whether the launcher needs nothing that the caller lacks."""
        return context.workspace is not None or (
            isinstance(self._instance.run_launcher, WarmRunLauncher)
            # In the queue it waits until its code server answers.
            and not has_own_server(context.dagster_run)
        )

    def _prepared(self, run: DagsterRun) -> DagsterRun:
        """Store on a run the steps and the release that it is to execute, and return it."""
        prepared = _of_this_release(self._without_steps(run))
        if prepared == run or run.remote_job_origin is None:
            return run
        # The one method of Dagster's storage that writes a full run.
        self._instance.run_storage.replace_job_origin(prepared, run.remote_job_origin)
        return prepared

    def _tagged(self, run: DagsterRun) -> DagsterRun:
        """Tag a run from its context, which is not read before for a launch in the UI.

        Here, as the queue's limits use tags; under another coordinator the worker does it.
        """
        if run.tags.keys().isdisjoint({run_tags.FROM_CONTEXT, run_tags.LIMIT}):
            return run
        from ..context import (
            tagging,  # with Django, which Dagster's own processes need for nothing else
        )

        context = run.run_config.get("context")
        found = tagging.missing(run.tags, context) if isinstance(context, Mapping) else {}
        if not found:
            return run
        self._instance.add_run_tags(run.run_id, found)
        return run.with_tags({**run.tags, **found})

    def _without_steps(self, run: DagsterRun) -> DagsterRun:
        """Make a run execute the tree as it is when it starts.

        A launch from the UI records the steps of that time. A tree that changes before the run
        starts would be executed without its new processes, or fail.
        """
        if run.parent_run_id is not None or not run.step_keys_to_execute:
            return run
        if run.execution_plan_snapshot_id is None:
            return run
        plan = self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        if {step.key for step in plan.steps} != set(run.step_keys_to_execute):
            return run  # the user chose these steps
        return run._replace(step_keys_to_execute=None)


def _concerns(limit: Mapping[str, Any], run: DagsterRun) -> bool:
    """Return whether a limit of ``tag_concurrency_limits`` counts a run."""
    key, value = limit["key"], limit.get("value")
    return key in run.tags and (not isinstance(value, str) or run.tags[key] == value)


def _of_this_release(run: DagsterRun) -> DagsterRun:
    """Make a run execute the code that its path leads to now, whichever process launches it.

    ``workspace.yaml`` may say ``working_directory: .``, or name a symbolic link: a launcher that
    is in another folder, or launches after the link was switched, would find other code there.
    """
    origin = run.job_code_origin
    if origin is None or has_own_server(run):
        return run
    return run._replace(
        job_code_origin=origin._replace(repository_origin=releases.pinned(origin.repository_origin))
    )
