"""The functions of ops: each runs one process, and reports its outcome to Dagster."""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, NoReturn

from dagster import (
    Failure,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
)

from ... import context as contexts
from ...context import sensitive
from ...domain import run_tags
from ...domain.names import dagster_name
from ...domain.texts import explain, shorten, shown, storable, storable_error
from ...exceptions import ProcessTimeout, StillWorking
from ...process import error_reports, masking, reporting, timeouts, tracing
from ...process.run import Outcome, Process, in_sync, run_process
from ..tree_records import TreeRecord
from . import event_batching, remote_steps, step_logs
from .tree_run import RUN_RESOURCE, TreeRun

OUTPUT = "result"


def compute_function(
    process: Process,
) -> Callable[[OpExecutionContext, Mapping[str, Outcome]], Iterator[Output[Outcome]]]:
    """Return the function of an op: it runs the process, and passes its outcome on."""

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
            attempt = context.retry_number + 1
            reports = reporting.reporting(listener, attempt, context.run_id)
            with reports as report, _span(context, process):
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
            elif _is_tried_again(context, process):
                _raise(error)
            about = _what_runs(context, process)
            error_reports.report(error, about, handled=not process.required)
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


def _what_runs(context: OpExecutionContext, process: Process) -> dict[str, str]:
    """Return what a report or a span says of where it belongs."""
    return {
        "tree": context.run.tags.get(run_tags.TREE, context.run.job_name),
        "run_id": context.run_id,
        "process": process.name,
    }


def _span(context: OpExecutionContext, process: Process) -> AbstractContextManager[None]:
    tags = context.run.tags
    attributes: tracing.Attributes = {
        **_what_runs(context, process),
        "try": context.retry_number + 1,
    }
    parent = tags.get(run_tags.SPAN) or tags.get(run_tags.SUBMITTED_IN, "")
    return tracing.of_process(context.run_id, f"process {process.name}", parent, attributes)


def _run(
    context: OpExecutionContext,
    process: Process,
    run: TreeRun,
    dependencies: Mapping[str, Outcome],
) -> Outcome:
    use_cache = run_tags.NO_CACHE not in context.run.tags
    if run.local is not None and process.name in run.local.in_sync:
        return in_sync(process, run.context)
    return run_process(
        process, run.own_context(), dependencies, use_cache=use_cache, run_id=context.run_id
    )


def _unless_it_works_on(
    context: OpExecutionContext, process: Process, error: BaseException
) -> BaseException:
    """Return the error; another one, if the process must not be retried after it.

    The next try of a step that is executed elsewhere, as Celery's are, may be another worker's,
    which would not know that the previous try, abandoned after its timeout, still runs.
    """
    is_last = not _is_tried_again(context, process)
    if is_last or not isinstance(error, ProcessTimeout) or not remote_steps.is_elsewhere(context):
        return error
    if process.name not in timeouts.still_working(context.run_id):
        return error
    return StillWorking(f"{error} It is not tried again, as it works on in this worker.")


def _is_tried_again(context: OpExecutionContext, process: Process) -> bool:
    """Return whether a try is left; none is where the Launchpad has switched retries off."""
    are_off = context.get_step_execution_context().retry_mode.disabled
    return not are_off and context.retry_number < process.spec.retries


def _raise(error: Exception) -> NoReturn:
    """Raise the error of a process in a form that Dagster can store, and retries where allowed.

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
    """Log the failure of an optional process as an ERROR with its traceback."""
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
        metadata[run_tags.RESULT] = shown(outcome.result, write=_without_secrets)
    if outcome.note or outcome.error:
        metadata[run_tags.REASON] = shorten(storable(outcome.note or outcome.error or ""))
    for name, value in outcome.response_variables.items():
        is_secret = sensitive.is_sensitive_name(name)
        shown_value = sensitive.HIDDEN if is_secret else _variable(value)
        metadata[storable(f"{run_tags.RESPONSE}/{name}")] = shown_value
    return metadata


def _without_secrets(value: Any) -> str:
    """Return a value as text without secrets: those of rows, and what is called like one."""
    with suppress(RecursionError):  # it holds itself, which its text can show
        value = sensitive.masked(value)
    return masking.text(sensitive.shown(value))


def _variable(value: Any) -> str | float:
    """Return a response variable as metadata: a number that JSON has, or a text."""
    if type(value) is str:
        return shorten(storable(value))
    if type(value) is int and abs(value) <= contexts.MAX_SAFE_INTEGER:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    return shown(value, write=_without_secrets)


def broken_op(tree: TreeRecord) -> OpDefinition:
    """Return the one op of a broken tree: it fails with the tree's problems."""

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
