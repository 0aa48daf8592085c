"""The table of executors, and what every run does before its first process.

Whatever executor a project chooses is wrapped: the wrapper lets a scheduled run take its claim and
says when the tree has changed since the run was requested; then the chosen one takes over.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    in_process_executor,
    multiprocess_executor,
)
from dagster._core.events import EngineEventData
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.system_config.objects import ResolvedRunConfig
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.utils.module_loading import import_string

from .. import claims, conf, tags
from .. import context as contexts
from ..connections import fresh_connections
from ..exceptions import TreeFailed
from ..models import RunStatus
from . import followers, runs

logger = logging.getLogger(__name__)

RUN_RESOURCE = "tree_run"
"""The resource that holds a run's context."""

EXECUTORS = {
    "in_process": in_process_executor,
    "multiprocess": multiprocess_executor,
}
"""Executors by the name that ``PROCTREE["EXECUTOR"]`` gives them."""


def tree_executor(revision: str, went_on_after: list[str] | None = None) -> ExecutorDefinition:
    """Return the executor of a tree's job.

    Parameters
    ----------
    revision:
        The tree's.
    went_on_after:
        Given if the run stays in the calling process, where Ctrl-C cancels it: the required
        processes that will have failed without stopping it.
    """
    chosen = configured_executor() if went_on_after is None else in_process_executor

    def create(context: InitExecutorContext) -> Executor:
        assert chosen.executor_creation_fn is not None
        return TreeExecutor(chosen.executor_creation_fn(context), revision, went_on_after)

    return ExecutorDefinition(
        name=chosen.name,
        config_schema=chosen.config_schema.as_field(),
        requirements=chosen.get_requirements,
        executor_creation_fn=create,
        description=chosen.description,
    )


def configured_executor() -> ExecutorDefinition:
    """Return the executor that ``PROCTREE["EXECUTOR"]`` names.

    Raises
    ------
    ImproperlyConfigured
        It is neither in the table nor the dotted path of an ``ExecutorDefinition``.
    """
    name = conf.current().EXECUTOR
    if name in EXECUTORS:
        return EXECUTORS[name]
    known = f"choose one of {', '.join(EXECUTORS)}, or a dotted path"
    if "." not in name:
        raise ImproperlyConfigured(f'PROCTREE["EXECUTOR"] is unknown: {name!r}; {known}.')
    try:
        found = import_string(name)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'PROCTREE["EXECUTOR"] can\'t be imported: {error}. Is its package installed?'
        ) from error
    if not isinstance(found, ExecutorDefinition):
        raise ImproperlyConfigured(
            f'PROCTREE["EXECUTOR"] names {type(found).__name__}, not an executor; {known}.'
        )
    return found


class TreeExecutor(Executor):
    """Begins a tree's run, then leaves it to the executor that it wraps."""

    def __init__(
        self, inner: Executor, revision: str, went_on_after: list[str] | None = None
    ) -> None:
        self._inner = inner
        self._revision = revision
        self._local = went_on_after is not None
        self._went_on_after = [] if went_on_after is None else went_on_after

    @property
    def retries(self) -> RetryMode:
        """The wrapped executor's."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """The wrapped executor's."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Take the claim, warn of a changed tree, and execute."""
        run, instance = plan_context.dagster_run, plan_context.instance
        claim = runs.take_claim(run, resumed=plan_context.resume_from_failure)
        if isinstance(claim, claims.Skip):
            yield DagsterEvent.engine_event(plan_context, claim.reason, EngineEventData())
            # Dagster ends a run that is interrupted while canceling as canceled, not as failed.
            instance.report_run_canceling(run, claim.reason)
            raise runs.ClaimRefused(claim.reason)
        if claim is not None:
            yield DagsterEvent.engine_event(plan_context, str(claim), EngineEventData())
        failed = True
        try:
            any_failed = False
            for event in self._execute(plan_context):
                any_failed = any_failed or event.is_step_failure
                yield event
            failed = any_failed
        finally:
            if claim is not None:
                _write_down_end(plan_context, failed)

    def _execute(self, plan_context: PlanOrchestrationContext) -> Iterator[DagsterEvent]:
        run, instance = plan_context.dagster_run, plan_context.instance
        requested = run.tags.get(tags.REVISION)
        if requested is not None and requested != self._revision:
            plan_context.log.warning(
                f"The tree has changed since this run was requested: revision {requested} was "
                f"asked for, {self._revision} runs."
            )
            if run.parent_run_id is None:
                plan_context = _whole_plan(plan_context)
        # Decoded once before anything else: a row that is gone is the run's failure, and says so.
        with fresh_connections():
            context = _run_context(plan_context)
            contexts.decode(context)
            yield from followers.begin(plan_context, context)
        try:
            yield from self._inner.execute(plan_context, plan_context.execution_plan)
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            current = instance.get_run_by_id(run.run_id)
            if self._local and current and current.status == DagsterRunStatus.STARTED:
                instance.report_run_canceling(run, "Interrupted where it was started.")
            raise
        if self._went_on_after:
            raise TreeFailed(f"Required processes failed: {', '.join(self._went_on_after)}.")


def _write_down_end(plan_context: PlanOrchestrationContext, failed: bool) -> None:
    """Write on the schedule's row how its run has ended, for lists and for the next due time."""
    status = RunStatus.FAILURE if failed else RunStatus.SUCCESS
    current = plan_context.instance.get_run_by_id(plan_context.run_id) if failed else None
    if current is not None and current.status in (
        DagsterRunStatus.CANCELING,
        DagsterRunStatus.CANCELED,
    ):
        status = RunStatus.CANCELED
    try:
        with fresh_connections():
            claims.end(plan_context.run_id, status)
    except DatabaseError:  # the run has ended all the same; the next look at the schedule finds out
        logger.exception("How run %s ended could not be written down.", plan_context.run_id)


def _run_context(plan_context: PlanOrchestrationContext) -> Mapping[str, Any]:
    """Return the run's context, as JSON."""
    job = plan_context.job.get_definition()
    config = ResolvedRunConfig.build(job, plan_context.run_config).resources[RUN_RESOURCE].config
    context: Mapping[str, Any] = config["context"]
    return context


def _whole_plan(plan_context: PlanOrchestrationContext) -> PlanOrchestrationContext:
    """Let a run execute the tree as it is now.

    A launch from the UI writes down the steps of its time, and a process added since would be
    left out without a word. (One that was removed fails the run before it gets here.)
    """
    instance = plan_context.instance
    plan = create_execution_plan(
        plan_context.job,
        plan_context.run_config,
        instance_ref=instance.get_ref() if instance.is_persistent else None,
        tags=plan_context.dagster_run.tags,
        repository_load_data=plan_context.execution_plan.repository_load_data,
    )
    return PlanOrchestrationContext(
        plan_data=plan_context.plan_data._replace(execution_plan=plan),
        log_manager=plan_context.log,
        executor=plan_context.executor,
        output_capture=plan_context.output_capture,
        resume_from_failure=plan_context.resume_from_failure,
    )
