"""Tree -> job, process -> op, schedule -> schedule.

Subclass ``ProcessTreeTranslator`` and name the subclass in ``PROCTREE["TRANSLATOR"]`` to change
what your trees look like in Dagster: call ``super()`` and change what it returns.
"""

import inspect
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from dagster import (
    Backoff,
    DagsterEvent,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    DependencyDefinition,
    GraphDefinition,
    In,
    InitLoggerContext,
    Jitter,
    JobDefinition,
    MetadataValue,
    OpDefinition,
    Out,
    RetryPolicy,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    logger,
)
from django.utils import timezone

from ..context import tagging
from ..domain import due_times, run_tags
from ..domain.names import dagster_name
from ..domain.texts import explain, storable
from ..domain.tree_spec import ProcessSpec, linked_trees
from ..models import ProcessTree, ProcessTreeSchedule, Trigger
from ..process.run import Process
from .execution.op_functions import OUTPUT, broken_op, compute_function
from .execution.result_io_manager import result_io_manager
from .execution.tree_run import RUN_RESOURCE, WORKERS_RUN_RESOURCE, Local, run_resource
from .executors import tree_executor
from .runs.schedule_ticks import evaluate
from .serving.launchpad import context_mapping
from .serving.port_types import RETURN, port_type
from .tree_records import TreeRecord

SHOWN_TREES = 20
"""Most subscribers that the description of a trigger's sensor names."""


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
                RUN_RESOURCE: run_resource(local) if local else WORKERS_RUN_RESOURCE,
                "io_manager": result_io_manager,
            },
            executor_def=executor,
            logger_defs=loggers or None,
        )

    def graph(self, tree: TreeRecord) -> GraphDefinition:
        """Return the graph of a tree: an op for each process, wired by its dependencies."""
        if tree.spec is None:
            return GraphDefinition(name=tree.job_name, node_defs=[broken_op(tree)])
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
            compute_fn=compute_function(process),
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
            **_limit(tree),
            **_reuse(tree),
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

        In Dagster it is always running: at each tick Django decides whether a due time is run.
        """
        tree, schedule_id = schedule.process_tree, schedule.pk
        try:
            crons, zone = schedule.cover(timezone.now())
            rule = schedule.rule.in_words
        except Exception as error:  # SQL may have written anything; its ticks report it, too
            title = schedule.title
            logging.getLogger(__name__).exception("The schedule of %r makes no sense.", title)
            crons, zone, rule = [due_times.EVERY_MINUTE], "UTC", explain(error)
        return ScheduleDefinition(
            name=schedule.name_in_dagster(),
            job_name=tree.job_name,
            cron_schedule=crons[0] if len(crons) == 1 else crons,
            execution_timezone=zone,
            default_status=DefaultScheduleStatus.RUNNING,
            description=f"{schedule.title}: {rule}",
            tags={run_tags.TREE: tree.name, **run_tags.of_schedule(schedule.name)},
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
            The trees that subscribe to it.
        evaluation:
            The function of each tick.
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
    """Leave the logging of a run in the calling process to Django's ``LOGGING``."""
    runs = logging.getLogger(run_tags.RUN_LOGGER)
    runs.addFilter(_without_second_trace)
    return runs


def _without_second_trace(record: logging.LogRecord) -> bool:
    """Remove the traceback that a run's failure repeats from its step's."""
    event = getattr(record, "dagster_event", None)
    if isinstance(event, DagsterEvent) and event.is_failure and event.step_key is None:
        data = event.event_specific_data
        if getattr(data, "first_step_failure_event", None) is not None:
            record.msg = str(record.msg).split("\n", 1)[0]
    return True


def _limit(tree: TreeRecord) -> dict[str, str]:
    """Return the tags of the limit of a tree's runs: the rule, and what it is by default."""
    if tree.spec is None or not tree.spec.one_at_a_time_per:
        return {}
    per, number = tree.spec.one_at_a_time_per, tree.spec.limit_per_key
    limit = run_tags.limit(number, tree.job_name, per)
    return {run_tags.LIMIT: limit, **tagging.of_limit(limit, tree.default_context)}


def _reuse(tree: TreeRecord) -> dict[str, str]:
    is_wanted = tree.spec is not None and tree.spec.reuse_worker
    return {run_tags.REUSE_WORKER: "true"} if is_wanted else {}


def _retry_policy(process: ProcessSpec) -> RetryPolicy | None:
    if not process.retries:
        return None
    return RetryPolicy(
        max_retries=process.retries,
        delay=process.retry_delay or None,
        backoff=Backoff(process.retry_backoff.upper()) if process.retry_backoff else None,
        jitter=Jitter(process.retry_jitter.upper()) if process.retry_jitter else None,
    )
