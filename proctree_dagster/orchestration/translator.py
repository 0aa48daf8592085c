"""Tree -> job, process -> op, schedule -> schedule.

Subclass ``ProcessTreeTranslator`` and name the subclass in ``PROCTREE["TRANSLATOR"]`` to change
what your trees look like in Dagster: call ``super()`` and change what it returns.
"""

import inspect
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dagster import (
    ConfigMapping,
    DefaultScheduleStatus,
    DependencyDefinition,
    Failure,
    Field,
    GraphDefinition,
    In,
    InitLoggerContext,
    InitResourceContext,
    JobDefinition,
    MetadataValue,
    Noneable,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    Permissive,
    ResourceDefinition,
    RetryPolicy,
    ScheduleDefinition,
    Shape,
    logger,
)
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from .. import conf, intervals, tags
from .. import context as contexts
from ..exceptions import ScheduleError
from ..models import ProcessTreeSchedule
from ..names import dagster_name
from ..process import Outcome, explain, run_process
from ..spec import ProcessSpec
from .executors import RUN_RESOURCE, tree_executor
from .records import TreeRecord
from .ticks import evaluate

OUTPUT = "result"
SCHEDULE_SUFFIX = "_schedule"

Collect = Callable[[str, Outcome], None]
"""Takes a process's name and its outcome, in the process that runs it."""


class TreeRun:
    """What the ops of one run share: its context, decoded once a process."""

    def __init__(self, context: Mapping[str, Any], collect: Collect | None = None) -> None:
        self.context = context
        self.collect = collect or (lambda name, outcome: None)


class ProcessTreeTranslator:
    """Turns records into Dagster's definitions; every method may be overridden."""

    def job(
        self, tree: TreeRecord, *, local: bool = False, collect: Collect | None = None
    ) -> JobDefinition:
        """Return the job of a tree; of a broken one, a job whose one op fails with the reason.

        Parameters
        ----------
        tree:
            The tree.
        local:
            Whether the job runs in the calling process, whatever ``PROCTREE["EXECUTOR"]`` says.
        collect:
            Called with the outcome of each process.
        """
        executor = tree_executor(tree.revision, local=local)
        loggers = {"django": _django_logger} if local else {}
        return self.graph(tree).to_job(
            name=tree.job_name,
            description=self.job_description(tree),
            config=context_mapping(tree.default_context, loggers),
            tags=self.job_tags(tree),
            metadata=self.job_metadata(tree),
            resource_defs={RUN_RESOURCE: _run_resource(collect)},
            executor_def=executor,
            logger_defs=loggers or None,
        )

    def graph(self, tree: TreeRecord) -> GraphDefinition:
        """Return the graph of a tree: an op for each process, wired by its dependencies."""
        if tree.spec is None:
            return GraphDefinition(name=tree.job_name, node_defs=[_broken_op(tree)])
        return GraphDefinition(
            name=tree.job_name,
            node_defs=[
                self.op(tree, process, tree.functions[process.name])
                for process in tree.spec.processes
            ],
            dependencies={
                dagster_name(process.name): {
                    dagster_name(name): DependencyDefinition(dagster_name(name), OUTPUT)
                    for name in process.dependencies
                }
                for process in tree.spec.processes
            },
        )

    def op(self, tree: TreeRecord, process: ProcessSpec, func: Callable[..., Any]) -> OpDefinition:
        """Return the op of a process."""
        return OpDefinition(
            name=dagster_name(process.name),
            compute_fn=_compute(process, func),
            ins={dagster_name(name): In() for name in process.dependencies},
            outs={OUTPUT: Out()},
            description=self.op_description(process, func),
            tags=self.op_tags(process),
            required_resource_keys={RUN_RESOURCE},
            retry_policy=_retry_policy(process),
        )

    def job_description(self, tree: TreeRecord) -> str:
        """Return the job's description: the tree's, below its name if Dagster can't show that."""
        name = "" if tree.name == tree.job_name else f"{tree.name}\n\n"
        return f"{name}{tree.problem or tree.description}"

    def job_tags(self, tree: TreeRecord) -> dict[str, str]:
        """Return the tags of the job and of its runs."""
        return {tags.TREE: tree.name, tags.REVISION: tree.revision}

    def job_metadata(self, tree: TreeRecord) -> dict[str, Any]:
        """Return the job's metadata."""
        metadata: dict[str, Any] = {tags.TREE: tree.name, tags.REVISION: tree.revision}
        if tree.admin_url is not None:
            metadata[tags.ADMIN] = MetadataValue.url(tree.admin_url)
        return metadata

    def op_description(self, process: ProcessSpec, func: Callable[..., Any]) -> str:
        """Return the op's description: the docstring of its function."""
        name = "" if process.name == dagster_name(process.name) else f"{process.name}\n\n"
        return f"{name}{inspect.getdoc(func) or ''}"

    def op_tags(self, process: ProcessSpec) -> dict[str, str]:
        """Return the op's tags, which Dagster shows as its metadata."""
        result = {tags.PROCESS: process.name, tags.FUNCTION: process.func}
        if process.metadata:
            result[tags.METADATA] = json.dumps(process.metadata, sort_keys=True)
        return result

    def schedule(self, schedule: ProcessTreeSchedule) -> ScheduleDefinition:
        """Return the definition of a schedule.

        It always runs, as far as Dagster is concerned: whether a due time is run is Django's to
        say, at each tick.
        """
        tree, schedule_id = schedule.process_tree, schedule.pk
        try:
            crons, zone = schedule.cron(timezone.now())
            rule = str(schedule.rule)
        except ScheduleError as error:  # an unknown zone, set in SQL
            crons, zone, rule = [intervals.EVERY_MINUTE], "UTC", str(error)
        return ScheduleDefinition(
            name=f"{tree.job_name}{SCHEDULE_SUFFIX}",
            job_name=tree.job_name,
            cron_schedule=crons[0] if len(crons) == 1 else crons,
            execution_timezone=zone,
            default_status=DefaultScheduleStatus.RUNNING,
            description=f"{tree.name}: {rule}",
            tags={tags.TREE: tree.name},
            execution_fn=lambda context: evaluate(context, schedule_id),
        )


def translator() -> ProcessTreeTranslator:
    """Return the translator that ``PROCTREE["TRANSLATOR"]`` names."""
    path = conf.current().TRANSLATOR
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'PROCTREE["TRANSLATOR"] can\'t be imported: {error}.'
        ) from error
    if not (isinstance(found, type) and issubclass(found, ProcessTreeTranslator)):
        raise ImproperlyConfigured(
            f'PROCTREE["TRANSLATOR"] must name a subclass of ProcessTreeTranslator, not {path!r}.'
        )
    return found()


def context_mapping(
    default_context: Mapping[str, Any], loggers: Iterable[str] = ()
) -> ConfigMapping:
    """Return the mapping that makes the context plain YAML in the Launchpad.

    The Launchpad shows ``context:`` with the schedule's default context, and ``execution:``; what
    is launched becomes the configuration of the resource that hands the context to the ops.
    """
    schema = Shape(
        {
            "context": Field(
                Permissive(),
                is_required=False,
                default_value=dict(default_context),
                description="The keyword arguments of the run.",
            ),
            "execution": Field(
                # Dagster checks it with the rest; said more exactly here, it would be filled in.
                Noneable(Permissive()),
                is_required=False,
                description="The configuration of the executor.",
            ),
        }
    )

    def to_run_config(value: Mapping[str, Any]) -> dict[str, Any]:
        context = contexts.restore_empty(value.get("context") or {}, default_context)
        config = {"context": context}
        result: dict[str, Any] = {"resources": {RUN_RESOURCE: {"config": config}}}
        if loggers:
            result["loggers"] = {name: {} for name in loggers}  # a logger not named is not used
        if value.get("execution"):
            result["execution"] = value["execution"]
        return result

    return ConfigMapping(config_fn=to_run_config, config_schema=schema)


@logger
def _django_logger(context: InitLoggerContext) -> logging.Logger:
    """Leave what a run in the calling process logs to Django's ``LOGGING``."""
    return logging.getLogger("proctree_dagster.runs")


def _run_resource(collect: Collect | None) -> ResourceDefinition:
    def create(context: InitResourceContext) -> TreeRun:
        return TreeRun(contexts.decode(context.resource_config["context"]), collect)

    return ResourceDefinition(
        create,
        config_schema={"context": Field(Permissive(), is_required=False, default_value={})},
        description="The run's context.",
    )


def _retry_policy(process: ProcessSpec) -> RetryPolicy | None:
    if not process.retries:
        return None
    return RetryPolicy(max_retries=process.retries, delay=process.retry_delay or None)


def _compute(
    process: ProcessSpec, func: Callable[..., Any]
) -> Callable[[OpExecutionContext, Mapping[str, Outcome]], Iterator[Output[Outcome]]]:
    """Return what the op does: run the process, and hand its outcome on."""

    def compute(
        context: OpExecutionContext, inputs: Mapping[str, Outcome]
    ) -> Iterator[Output[Outcome]]:
        run: TreeRun = getattr(context.resources, RUN_RESOURCE)
        dependencies = {name: inputs[dagster_name(name)] for name in process.dependencies}
        run.collect(process.name, Outcome("running"))
        started = time.perf_counter()
        try:
            outcome = run_process(process.name, func, run.context, dependencies)
        except BaseException as error:
            seconds = time.perf_counter() - started
            run.collect(process.name, Outcome("failed", error=explain(error), seconds=seconds))
            raise
        run.collect(process.name, outcome)
        yield Output(outcome, OUTPUT, metadata=outcome_metadata(outcome))

    return compute


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """Return what the UI shows of an outcome."""
    text = repr(outcome.result)
    return {
        tags.STATUS: outcome.status,
        tags.SECONDS: round(outcome.seconds, 3),
        tags.RESULT: text if len(text) <= 1000 else f"{text[:1000]}… ({len(text)} characters)",
    }


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
