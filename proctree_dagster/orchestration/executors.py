"""The choice of a tree's executor, and what every run does before its first process.

The table of their names is ``executor_names``. The chosen executor is wrapped: the wrapper takes
the claim of a scheduled run and warns if the tree has changed since the run was requested; then the
chosen one takes over.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterRun,
    DagsterRunStatus,
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    TextMetadataValue,
    in_process_executor,
    multiprocess_executor,
)
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.utils.module_loading import import_string

from .. import conf, functions
from ..context import tagging
from ..domain import run_tags
from ..domain.names import dagster_name
from ..domain.texts import explain
from ..exceptions import ExecutorError, TreeFailed
from ..models import RunStatus
from ..models.validation import executor_names
from ..process import error_reports, timeouts, tracing
from ..services import due_time_claims, revisions
from ..support import project
from ..support.connections import fresh_connections
from .dagster_internals import (
    EngineEventData,
    PlanOrchestrationContext,
    ResolvedRunConfig,
    create_execution_plan,
)
from .execution import event_batching, remote_steps, run_output, tree_run
from .execution.threads_executor import threads_executor as threads_executor  # public here
from .execution.tree_run import RUN_RESOURCE
from .launching import worker_end
from .runs import family_runs, local_runs, run_taking, schedule_claims
from .tree_records import TreeRecord

if TYPE_CHECKING:
    from .dagster_internals import ExecutionPlan, RetryMode, StepDependencyConfig

logger = logging.getLogger(__name__)


def tree_executor(tree: TreeRecord, went_on_after: list[str] | None = None) -> ExecutorDefinition:
    """Return the executor of a tree's job.

    Parameters
    ----------
    tree:
        The tree. The one op of a broken tree fails in process, even if its executor is invalid.
    went_on_after:
        Given if the run stays in the calling process, where Ctrl-C cancels it: the required
        processes that will have failed without stopping it.

    Raises
    ------
    ImproperlyConfigured
        ``PROCTREE["EXECUTOR"]`` names none.
    ExecutorError
        The tree's does not.
    """
    current = conf.current()
    if tree.spec is None:
        chosen = in_process_executor
    elif went_on_after is not None:
        chosen = threads_executor
    elif tree.spec.executor in ("", current.EXECUTOR):
        chosen = configured_executor()
    else:
        problem = executor_names.problem_of_row(tree.spec.executor)
        if problem is not None:  # before any import: not every reader of the row checks it
            raise ExecutorError(f"The tree's executor: {problem}.")
        chosen = _imported(tree.spec.executor)
    max_concurrent = (tree.spec and tree.spec.max_concurrent) or current.MAX_CONCURRENT

    def create(context: InitExecutorContext) -> Executor:
        inner = _create_inner(
            chosen,
            context._replace(
                executor_def=chosen,
                executor_config=_with_defaults(chosen, context.executor_config, max_concurrent),
            ),
        )
        return TreeExecutor(
            inner, tree.revision, went_on_after, remote=not remote_steps.stay_here(chosen)
        )

    return ExecutorDefinition(
        name=chosen.name,
        # Unchanged, not as a field: an executor that was ``configured`` has its own configuration.
        config_schema=chosen.config_schema,  # type: ignore[arg-type]
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
    try:
        return find_executor(conf.current().EXECUTOR)
    except ExecutorError as error:
        raise ImproperlyConfigured(f'PROCTREE["EXECUTOR"]: {error}') from error


def find_executor(name: str) -> ExecutorDefinition:
    """Return an executor by its name in the table, or by its dotted path.

    Raises
    ------
    ExecutorError
        It is unknown, not installed, raises when it is imported, or is something else.
    """
    problem = executor_names.problem_of_name(name)
    if problem is not None:
        raise ExecutorError(problem)
    return _imported(name)


def _imported(name: str) -> ExecutorDefinition:
    """Return an executor whose name has no problem."""
    try:
        found = import_string(executor_names.path_of(name))
    except Exception as error:  # a module may raise anything when it is imported
        raise ExecutorError(
            f"the executor {name!r} can't be imported: {explain(error)}."
        ) from error
    if not isinstance(found, ExecutorDefinition):
        raise ExecutorError(
            f"{name!r} is {type(found).__name__}, not an executor (an ExecutorDefinition)"
        )
    return found


def may_use_several_machines(executor: ExecutorDefinition) -> bool:
    """Return whether an executor comes from a package whose executors use several machines.

    One that a project has ``configured`` keeps the function that creates it, and so its package.
    """
    return executor_names.comes_from_package_for_several_machines(module_of(executor))


def module_of(executor: ExecutorDefinition) -> str:
    """Return the module of the function that creates an executor; blank if it has none."""
    return getattr(executor.executor_creation_fn, "__module__", None) or ""


def _with_defaults(
    chosen: ExecutorDefinition, config: Mapping[str, Any], max_concurrent: int
) -> dict[str, Any]:
    """Fill in the options that the run's configuration lacks."""
    result = dict(config)
    _check_preloaded(chosen, result)
    takes = getattr(chosen.config_schema.config_type, "fields", {})
    if "max_concurrent" in takes and result.get("max_concurrent") is None:
        result["max_concurrent"] = max_concurrent
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    if chosen is multiprocess_executor and forks and not result.get("start_method"):
        # Each step's process is forked from one that has the trees imported.
        modules = [project.definitions()]
        result["start_method"] = {"forkserver": {"preload_modules": modules}}
    return result


def _check_preloaded(chosen: ExecutorDefinition, config: Mapping[str, Any]) -> None:
    """Refuse modules that were typed into the Launchpad and are not allowed.

    The preloaded modules of a ``configured`` executor come from the project's code.

    Raises
    ------
    ExecutorError
        A module is neither the code location's nor under an allowed prefix.
    """
    if chosen is not multiprocess_executor:
        return
    start_method = config.get("start_method") or {}
    named = (start_method.get("forkserver") or {}).get("preload_modules") or []
    for module in named:
        if module != project.definitions() and not functions.is_allowed(module):
            raise ExecutorError(
                f"preload_modules of this run names {module!r}, which is under none of the allowed "
                f"prefixes; leave it out, or set {functions.to_allow(module)}."
            )


def _create_inner(chosen: ExecutorDefinition, context: InitExecutorContext) -> Executor:
    """Create the chosen executor, as Dagster would.

    Raises
    ------
    ExecutorError
        The definition creates nothing.
    """
    create = chosen.executor_creation_fn
    made = None if create is None else create(context)
    if made is None:
        raise ExecutorError(
            f"The executor {chosen.name!r} created nothing: its @executor function must return "
            "an Executor."
        )
    return made


class TreeExecutor(Executor):
    """Starts a tree's run, then leaves it to the executor that it wraps.

    The wrapped executor gets a plan context of its own, whose ``executor`` it is itself: executors
    that run steps elsewhere (Celery's, for one) look up their own attributes there.
    """

    def __init__(
        self,
        inner: Executor,
        revision: str,
        went_on_after: list[str] | None = None,
        *,
        remote: bool = False,
    ) -> None:
        self._inner = inner
        self._revision = revision
        self._remote = remote
        self._local = went_on_after is not None
        self._went_on_after = [] if went_on_after is None else went_on_after
        self._failed_optional: list[str] = []

    @property
    def retries(self) -> "RetryMode":
        """The wrapped executor's."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> "StepDependencyConfig":
        """The wrapped executor's."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: "ExecutionPlan"
    ) -> Iterator[DagsterEvent]:
        """Take the claim, warn of a changed tree, and execute."""
        run, instance = plan_context.dagster_run, plan_context.instance
        options = tree_run.options_of(run.run_id) if self._local else None
        if options is not None:
            self._went_on_after = options.went_on_after
        claim = schedule_claims.take_claim(run, resumed=plan_context.resume_from_failure)
        if isinstance(claim, due_time_claims.Skip):
            yield DagsterEvent.engine_event(plan_context, claim.reason, EngineEventData())
            # Dagster ends a run that is interrupted while canceling as canceled, not as failed.
            instance.report_run_canceling(run, claim.reason)
            raise local_runs.ClaimRefused(claim.reason)
        if claim is not None:
            yield DagsterEvent.engine_event(plan_context, str(claim), EngineEventData())
        failed = False
        error_reports.begin()
        run_output.follow_by_tail_alone()
        try:
            with run_taking.executing(run, instance) as execution, _span(plan_context) as span:
                for event in self._execute(plan_context):
                    execution.failed = span.failed = failed = failed or event.is_step_failure
                    yield event
        except BaseException as error:
            if not failed and isinstance(error, Exception):
                error_reports.report(error, _about(run))
            failed = True
            raise
        finally:
            tree_run.forget(run.run_id)
            if claim is not None:
                _write_down_end(plan_context, failed)
            if worker_end.is_of_one_run():
                worker_end.within_grace(instance.get_ref(), run.run_id)

    def _execute(self, plan_context: PlanOrchestrationContext) -> Iterator[DagsterEvent]:
        run, instance = plan_context.dagster_run, plan_context.instance
        plan = plan_context.execution_plan
        requested = run_tags.value(run.tags, run_tags.REVISION)
        if requested is not None and requested != self._revision:
            plan_context.log.warning(
                f"The tree has changed since this run was requested: revision {requested} was "
                f"asked for, {self._revision} runs."
            )
            if run.parent_run_id is None:
                plan = _current_plan(plan_context)
        self._failed_optional = _failed_before(plan_context, plan)
        # Decoded once before anything else: a missing row fails the run with a message.
        self._record_revision(plan_context)
        with fresh_connections():
            context = _run_context(plan_context)
            untold = tagging.missing(run.tags, context)
            if untold:  # launched by way of another coordinator, or with the default context
                instance.add_run_tags(run.run_id, untold)
            tree_run.begin(run.run_id, context)
            yield from family_runs.begin(plan_context, context)
        try:
            with event_batching.grouped(instance, run.run_id):
                for event in self._execute_steps(plan_context, plan):
                    self._tag_allowed_failure(plan_context, plan, event)
                    yield event
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            current = instance.get_run_by_id(run.run_id)
            if self._local and current and current.status == DagsterRunStatus.STARTED:
                instance.report_run_canceling(run, "Interrupted where it was started.")
            raise
        finally:
            for name in timeouts.still_working(run.run_id):
                plan_context.log.warning(
                    f"Process {name!r} was abandoned after its timeout and still works; it ends "
                    f"with the process {os.getpid()} at the latest."
                )
        if self._went_on_after:
            raise TreeFailed(f"Required processes failed: {', '.join(self._went_on_after)}.")

    def _record_revision(self, plan_context: PlanOrchestrationContext) -> None:
        """Record what the tree is: SQL may have written it, or it has changed since."""
        run = plan_context.dagster_run
        if run_tags.value(run.tags, run_tags.IN_MEMORY):
            return
        revisions.see(run.job_name, self._revision)
        if run_tags.ran_revision(run.tags) != self._revision:
            tag = {run_tags.RAN_REVISION: self._revision}
            plan_context.instance.add_run_tags(run.run_id, tag)

    def _execute_steps(
        self, plan_context: PlanOrchestrationContext, plan: "ExecutionPlan"
    ) -> Iterator[DagsterEvent]:
        with remote_steps.own_process(plan_context.run_id):
            events = self._inner.execute(_context_of(self._inner, plan_context, plan), plan)
            yield from remote_steps.watched(events, plan_context) if self._remote else events

    def _tag_allowed_failure(
        self, plan_context: PlanOrchestrationContext, plan: "ExecutionPlan", event: DagsterEvent
    ) -> None:
        """Tag the run with its failed optional processes.

        The events of all steps pass through here one by one, whatever executes them.
        """
        output = event.step_output_data if event.is_successful_output else None
        status = output.metadata.get(run_tags.STATUS) if output and output.metadata else None
        if not isinstance(status, TextMetadataValue) or status.value != "failed":
            return
        step = plan.get_step_by_key(str(event.step_key))
        self._failed_optional.append((step.tags or {}).get(run_tags.PROCESS, step.key))
        names = run_tags.join(self._failed_optional)
        plan_context.instance.add_run_tags(plan_context.run_id, {run_tags.FAILED_OPTIONAL: names})


def _about(run: DagsterRun) -> dict[str, str]:
    """Return what a report or a span says of a run."""
    return {"tree": run.tags.get(run_tags.TREE, run.job_name), "run_id": run.run_id}


@contextmanager
def _span(plan_context: PlanOrchestrationContext) -> Iterator[tracing.RunSpan]:
    """Have a span for the run; steps in other processes find it by a tag."""
    run = plan_context.dagster_run
    about, parent = _about(run), run.tags.get(run_tags.SUBMITTED_IN, "")
    with tracing.of_run(run.run_id, f"run {about['tree']}", parent, about) as span:
        if span.header:
            plan_context.instance.add_run_tags(run.run_id, {run_tags.SPAN: span.header})
        yield span


def _failed_before(plan_context: PlanOrchestrationContext, plan: "ExecutionPlan") -> list[str]:
    """Return the failed optional processes of the parent run that this run does not repeat."""
    names = run_tags.split(plan_context.dagster_run.tags.get(run_tags.FAILED_OPTIONAL))
    return [name for name in names if dagster_name(name) not in plan.step_keys_to_execute]


def _write_down_end(plan_context: PlanOrchestrationContext, failed: bool) -> None:
    """Record the run's outcome on the schedule's row, for lists and for the next due time."""
    status = RunStatus.FAILURE if failed else RunStatus.SUCCESS
    current = plan_context.instance.get_run_by_id(plan_context.run_id) if failed else None
    if current is not None and current.status in (
        DagsterRunStatus.CANCELING,
        DagsterRunStatus.CANCELED,
    ):
        status = RunStatus.CANCELED
    try:
        with fresh_connections():
            due_time_claims.end(plan_context.run_id, status)
    except DatabaseError:  # the run has ended; the next tick of the schedule finds out
        logger.exception("How run %s ended could not be written down.", plan_context.run_id)


def _run_context(plan_context: PlanOrchestrationContext) -> Mapping[str, Any]:
    """Return the run's context, as JSON."""
    job = plan_context.job.get_definition()
    config = ResolvedRunConfig.build(job, plan_context.run_config).resources[RUN_RESOURCE].config
    return tree_run.context_of(plan_context.dagster_run, config["context"])


def _current_plan(plan_context: PlanOrchestrationContext) -> "ExecutionPlan":
    """Return the plan of the tree as it is now.

    A launch from the UI records the steps of that time, and a process added since would be
    left out silently. (One that was removed fails the run before it gets here.)
    """
    instance = plan_context.instance
    return create_execution_plan(
        plan_context.job,
        plan_context.run_config,
        instance_ref=instance.get_ref() if instance.is_persistent else None,
        tags=plan_context.dagster_run.tags,
        repository_load_data=plan_context.execution_plan.repository_load_data,
    )


def _context_of(
    executor: Executor, plan_context: PlanOrchestrationContext, plan: "ExecutionPlan"
) -> PlanOrchestrationContext:
    """Return the context in which an executor executes a plan: as Dagster would have made it."""
    return PlanOrchestrationContext(
        plan_data=plan_context.plan_data._replace(execution_plan=plan),
        log_manager=plan_context.log,
        executor=executor,
        output_capture=plan_context.output_capture,
        resume_from_failure=plan_context.resume_from_failure,
    )
