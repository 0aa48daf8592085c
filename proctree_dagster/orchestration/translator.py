"""Tree -> job, process -> op, schedule -> schedule.

Subclass ``ProcessTreeTranslator`` and name the subclass in ``PROCTREE["TRANSLATOR"]`` to change
what your trees look like in Dagster: call ``super()`` and change what it returns.
"""

import inspect
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from dagster import (
    Backoff,
    DagsterEvent,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    DependencyDefinition,
    Failure,
    Field,
    GraphDefinition,
    In,
    InitLoggerContext,
    InitResourceContext,
    Jitter,
    JobDefinition,
    MetadataValue,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    Permissive,
    ResourceDefinition,
    RetryPolicy,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    logger,
)
from django.utils import timezone

from .. import context as contexts
from ..context import sensitive, tagging
from ..domain import due_times, run_tags
from ..domain.names import dagster_name
from ..domain.texts import explain, shorten, shown, storable, storable_error
from ..domain.tree_spec import ProcessSpec, linked_trees
from ..exceptions import ContextError, ProcessTimeout, StillWorking
from ..models import ProcessTree, ProcessTreeSchedule, Trigger
from ..process import reporting, timeouts
from ..process.run import Outcome, Process, in_sync, run_process
from ..support.connections import fresh_connections
from .execution import event_batching, remote_steps, step_logs
from .execution.result_io_manager import result_io_manager
from .executors import RUN_RESOURCE, tree_executor
from .runs.schedule_ticks import evaluate
from .serving.launchpad import context_mapping
from .serving.port_types import RETURN, port_type
from .tree_records import TreeRecord

OUTPUT = "result"

SHOWN_TREES = 20
"""How many of the trees that subscribe to a trigger its sensor's description names."""

Collect = Callable[[str, Outcome], None]
"""Takes a process's name and its outcome, in the process that runs it."""


@dataclass(frozen=True)
class Local:
    """How a run in the calling process differs from one that a worker executes."""

    collect: Collect
    """Called with the outcome of each process, as it starts and as it ends, from its thread."""

    in_sync: frozenset[str] = frozenset()
    """Processes that need not run."""

    stop_on_error: bool = True
    """Whether what is behind a failure is left out."""

    went_on_after: list[str] = field(default_factory=list)
    """Required processes that failed without stopping what is behind them."""

    report: Callable[[str, reporting.Progress], None] | None = None
    """Called when a process says how far it is, from its thread."""


@dataclass(frozen=True)
class TreeRun:
    """What the ops of one run share."""

    context: Mapping[str, Any]
    """The run's context, decoded when the run began, or this worker of it."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    """The same as JSON."""

    local: Local | None = None

    def own_context(self) -> Mapping[str, Any]:
        """Return the context for one process: what it changes in a list or a row is its own.

        So it is in every executor, whether the processes share memory or not.
        """
        try:
            with fresh_connections():
                return contexts.decode(self.stored)
        except ContextError as error:  # a process before it has deleted a row, say
            logging.getLogger(__name__).warning("As it was when the run began: %s", error)
            return self.context

    def tell(self, process: str, outcome: Outcome) -> None:
        """Hand the outcome of a process to whoever started the run, if that is in this process."""
        if self.local is not None:
            self.local.collect(process, outcome)

    def report(self, process: str, progress: reporting.Progress) -> None:
        """Hand on how far a process is, in the same way."""
        if self.local is not None and self.local.report is not None:
            self.local.report(process, progress)


class ProcessTreeTranslator:
    """Turns records into Dagster's definitions; every method may be overridden."""

    def job(self, tree: TreeRecord, *, local: Local | None = None) -> JobDefinition:
        """Return the job of a tree; of a broken one, a job whose one op fails with the reason.

        Parameters
        ----------
        tree:
            The tree.
        local:
            Given if the job runs in the calling process, whatever ``PROCTREE["EXECUTOR"]`` says.
        """
        went_on_after = None if local is None else local.went_on_after
        executor = tree_executor(tree, went_on_after)
        loggers = {"django": _django_logger} if local else {}
        return self.graph(tree).to_job(
            name=tree.job_name,
            description=self.job_description(tree),
            config=context_mapping(tree.context_schema, tree.default_context, loggers),
            tags=self.job_tags(tree),
            metadata=self.job_metadata(tree),
            resource_defs={
                RUN_RESOURCE: _run_resource(local) if local else _WORKERS_RUN_RESOURCE,
                "io_manager": result_io_manager,
            },
            executor_def=executor,
            logger_defs=loggers or None,
        )

    def graph(self, tree: TreeRecord) -> GraphDefinition:
        """Return the graph of a tree: an op for each process, wired by its dependencies."""
        if tree.spec is None:
            return GraphDefinition(name=tree.job_name, node_defs=[_broken_op(tree)])
        return GraphDefinition(
            name=tree.job_name,
            node_defs=[self.op(process) for process in tree.processes.values()],
            dependencies={
                dagster_name(process.name): {
                    dagster_name(name): DependencyDefinition(dagster_name(name), OUTPUT)
                    for name in process.dependencies
                }
                for process in tree.spec.processes
            },
        )

    def op(self, process: Process) -> OpDefinition:
        """Return the op of a process."""
        return OpDefinition(
            name=dagster_name(process.name),
            compute_fn=_compute(process),
            ins={
                dagster_name(name): In(port_type(process.func, name))
                for name in process.spec.dependencies
            },
            outs={OUTPUT: Out(port_type(process.func, RETURN))},
            description=self.op_description(process),
            tags=self.op_tags(process),
            required_resource_keys={RUN_RESOURCE},
            retry_policy=_retry_policy(process.spec),
            pool=process.spec.pool,
        )

    def job_description(self, tree: TreeRecord) -> str:
        """Return the job's description: the tree's, below its name if Dagster can't show that."""
        parts = ["" if tree.name == tree.job_name else tree.name, tree.problem or tree.description]
        if tree.spec is not None:
            followers = {"Then": tree.spec.dependent_trees, "Beside it": tree.spec.sibling_trees}
            parts += [f"{how}: {', '.join(names)}" for how, names in followers.items() if names]
        return storable("\n\n".join(part for part in parts if part))

    def job_tags(self, tree: TreeRecord) -> dict[str, str]:
        """Return the tags of the job and of its runs."""
        keys = () if tree.spec is None else tree.spec.run_tags
        return {
            run_tags.TREE: tree.name,
            run_tags.REVISION: tree.revision,
            **({run_tags.FROM_CONTEXT: run_tags.join(keys)} if keys else {}),
        }

    def job_metadata(self, tree: TreeRecord) -> dict[str, Any]:
        """Return the job's metadata."""
        metadata: dict[str, Any] = {
            run_tags.TREE: tree.name,
            run_tags.SHOWN_REVISION: tree.revision,
        }
        if tree.admin_url is not None:
            metadata[run_tags.ADMIN] = MetadataValue.url(tree.admin_url)
        if tree.spec is not None:
            linked = linked_trees(tree.spec.dependent_trees, tree.spec.sibling_trees)
            metadata |= {
                f"proctree/{key}": MetadataValue.json(each) for key, each in linked.items()
            }
        return metadata

    def op_description(self, process: Process) -> str:
        """Return the op's description: the docstring of its function."""
        name = "" if process.name == dagster_name(process.name) else f"{process.name}\n\n"
        return storable(f"{name}{inspect.getdoc(process.func) or ''}")

    def op_tags(self, process: Process) -> dict[str, str]:
        """Return the op's tags, which Dagster shows as its metadata."""
        result = {run_tags.PROCESS: process.name, run_tags.FUNCTION: process.spec.func}
        if not process.required:
            result[run_tags.REQUIRED] = "false"
        if process.spec.metadata:
            result[run_tags.METADATA] = json.dumps(process.spec.metadata, sort_keys=True)
        return result

    def schedule(self, schedule: ProcessTreeSchedule) -> ScheduleDefinition:
        """Return the definition of a schedule.

        It always runs, as far as Dagster is concerned: whether a due time is run is Django's to
        say, at each tick.
        """
        tree, schedule_id = schedule.process_tree, schedule.pk
        try:
            crons, zone = schedule.cover(timezone.now())
            rule = schedule.rule.in_words
        except Exception as error:  # SQL may have put anything there; its ticks say so, too
            logging.getLogger(__name__).exception("The schedule of %r makes no sense.", tree.name)
            crons, zone, rule = [due_times.EVERY_MINUTE], "UTC", explain(error)
        return ScheduleDefinition(
            name=f"{tree.job_name}{run_tags.SCHEDULE_SUFFIX}",
            job_name=tree.job_name,
            cron_schedule=crons[0] if len(crons) == 1 else crons,
            execution_timezone=zone,
            default_status=DefaultScheduleStatus.RUNNING,
            description=f"{tree.name}: {rule}",
            tags={run_tags.TREE: tree.name},
            execution_fn=lambda context: evaluate(context, schedule_id),
        )

    def sensor(
        self,
        trigger: Trigger,
        trees: Sequence[ProcessTree],
        evaluation: Callable[[SensorEvaluationContext], SkipReason],
    ) -> SensorDefinition:
        """Return the sensor that polls a trigger.

        Parameters
        ----------
        trigger:
            The trigger.
        trees:
            Those that subscribe to it.
        evaluation:
            What the sensor does at each tick.
        """
        names = ", ".join(tree.name for tree in trees[:SHOWN_TREES])
        more = f" and {len(trees) - SHOWN_TREES} more" if len(trees) > SHOWN_TREES else ""
        return SensorDefinition(
            name=tagging.sensor_name(trigger.name),
            # Dagster takes one name; a sensor of several trees would need their jobs, all built.
            job_name=trees[0].job_name if len(trees) == 1 else None,
            evaluation_fn=evaluation,
            minimum_interval_seconds=trigger.poll_seconds,
            default_status=DefaultSensorStatus.RUNNING,
            description=f"{trigger.name} ({trigger.trigger_type}), for {names or 'no tree'}{more}"
            + (f"\n\n{trigger.description}" if trigger.description else ""),
            tags={run_tags.TRIGGER: trigger.name},
        )


@logger
def _django_logger(context: InitLoggerContext) -> logging.Logger:
    """Leave what a run in the calling process logs to Django's ``LOGGING``."""
    runs = logging.getLogger("proctree_dagster.runs")
    runs.addFilter(_without_second_trace)
    return runs


def _without_second_trace(record: logging.LogRecord) -> bool:
    """Cut the trace off that a run's failure repeats from its step's."""
    event = getattr(record, "dagster_event", None)
    if isinstance(event, DagsterEvent) and event.is_failure and event.step_key is None:
        data = event.event_specific_data
        if getattr(data, "first_step_failure_event", None) is not None:
            record.msg = str(record.msg).split("\n", 1)[0]
    return True


def _run_resource(local: Local | None) -> ResourceDefinition:
    def create(context: InitResourceContext) -> TreeRun:
        stored = context.resource_config["context"]
        return TreeRun(contexts.decode(stored), stored, local)

    return ResourceDefinition(
        create,
        config_schema={"context": Field(Permissive(), is_required=False, default_value={})},
        description="The run's context.",
    )


_WORKERS_RUN_RESOURCE = _run_resource(None)
"""What every job that a worker executes shares."""


def _retry_policy(process: ProcessSpec) -> RetryPolicy | None:
    if not process.retries:
        return None
    return RetryPolicy(
        max_retries=process.retries,
        delay=process.retry_delay or None,
        backoff=Backoff(process.retry_backoff.upper()) if process.retry_backoff else None,
        jitter=Jitter(process.retry_jitter.upper()) if process.retry_jitter else None,
    )


def _compute(
    process: Process,
) -> Callable[[OpExecutionContext, Mapping[str, Outcome]], Iterator[Output[Outcome]]]:
    """Return what the op does: run the process, and hand its outcome on."""

    def compute(
        context: OpExecutionContext, inputs: Mapping[str, Outcome]
    ) -> Iterator[Output[Outcome]]:
        with remote_steps.elsewhere(context):
            yield from execute(context, inputs)

    def execute(
        context: OpExecutionContext, inputs: Mapping[str, Outcome]
    ) -> Iterator[Output[Outcome]]:
        run: TreeRun = getattr(context.resources, RUN_RESOURCE)
        dependencies = {name: inputs[dagster_name(name)] for name in process.spec.dependencies}
        step_logs.escape(context)
        event_batching.flush(context.instance)
        run.tell(process.name, Outcome("running"))
        started = time.perf_counter()
        listener = step_logs.StepListener(context, partial(run.report, process.name))
        try:
            with reporting.reporting(listener) as report:
                outcome = _run(context, process, run, dependencies)
        except BaseException as raised:
            error = _unless_it_works_on(context, process, raised)
            seconds = time.perf_counter() - started
            outcome = Outcome("failed", error=explain(error), seconds=seconds)
            run.tell(process.name, outcome)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, StillWorking):
                context.log.error(str(error))
            elif context.retry_number < process.spec.retries:
                _raise(error)
            if process.required:
                if run.local is None or run.local.stop_on_error:
                    _raise(error)
                run.local.went_on_after.append(process.name)
            _tell_of_allowed_failure(context, process)
        else:
            run.tell(process.name, outcome)
            if outcome.note:
                context.log.info(f"Process {process.name!r}: {outcome.status}. {outcome.note}")
        metadata = {**step_logs.attachments(report), **outcome_metadata(outcome)}
        yield Output(outcome, OUTPUT, metadata=metadata)

    return compute


def _run(
    context: OpExecutionContext,
    process: Process,
    run: TreeRun,
    dependencies: Mapping[str, Outcome],
) -> Outcome:
    use_cache = run_tags.NO_CACHE not in context.run.tags
    if run.local is not None and process.name in run.local.in_sync:
        return in_sync(process, run.context, use_cache=use_cache)
    return run_process(
        process, run.own_context(), dependencies, use_cache=use_cache, run_id=context.run_id
    )


def _unless_it_works_on(
    context: OpExecutionContext, process: Process, error: BaseException
) -> BaseException:
    """Return the error; another one, if the process must not be tried again for it.

    The next try of a step that is executed elsewhere, as Celery's are, may be another worker's,
    which would not know that the one before, which was abandoned after its timeout, works on.
    """
    is_last = context.retry_number >= process.spec.retries
    if is_last or not isinstance(error, ProcessTimeout) or not remote_steps.is_elsewhere(context):
        return error
    if process.name not in timeouts.still_working(context.run_id):
        return error
    return StillWorking(f"{error} It is not tried again, as it works on in this worker.")


def _raise(error: Exception) -> NoReturn:
    """Raise what a process has raised, as Dagster can store it, and tries it again if that may be.

    Raises
    ------
    Failure
        The process must not be tried again.
    UnstorableError
        The error's message had to be escaped.
    Exception
        The error itself.
    """
    if isinstance(error, StillWorking):
        raise Failure(description=str(error), allow_retries=False) from error
    storable_one = storable_error(error)
    if storable_one is error:
        raise error
    raise storable_one from None


def _tell_of_allowed_failure(context: OpExecutionContext, process: Process) -> None:
    """Mark plainly what failed but was allowed to: an ERROR with its traceback."""
    why = "This run does not stop on errors" if process.required else "It is not required"
    # In the message: Dagster keeps no exception with what is logged.
    context.log.error(
        f"Process {process.name!r} failed. {why}, so the run goes on without its result."
        f"\n\n{traceback.format_exc()}"
    )


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """Return what the UI shows of an outcome."""
    metadata: dict[str, Any] = {
        run_tags.STATUS: outcome.status,
        run_tags.SECONDS: round(outcome.seconds, 3),
    }
    if outcome.has_result:
        metadata[run_tags.RESULT] = shown(outcome.result, write=sensitive.shown)
    if outcome.note or outcome.error:
        metadata[run_tags.REASON] = shorten(storable(outcome.note or outcome.error or ""))
    for name, value in outcome.response_variables.items():
        metadata[storable(f"{run_tags.RESPONSE}/{name}")] = _variable(value)
    return metadata


def _variable(value: Any) -> str | float:
    """Return a response variable as metadata: a number that JSON has, or a text."""
    if type(value) is str:
        return shorten(storable(value))
    if type(value) is int and abs(value) <= contexts.MAX_SAFE_INTEGER:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    return shown(value, write=sensitive.shown)


def _broken_op(tree: TreeRecord) -> OpDefinition:
    def fail(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Output[None]]:
        raise Failure(description=tree.problem, allow_retries=False)
        yield  # a generator, like every op

    return OpDefinition(
        name="broken_tree",
        compute_fn=fail,
        outs={OUTPUT: Out()},
        description=tree.problem,
        required_resource_keys={RUN_RESOURCE},
    )
