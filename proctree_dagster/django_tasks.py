"""A backend of ``django.tasks`` (Django 6), or of ``django_tasks`` before it, on Dagster.

::

    TASKS = {"default": {"BACKEND": "proctree_dagster.django_tasks.DagsterBackend"}}

Each ``@task`` function becomes a tree of one process, named after the function, when it is first
enqueued. To enqueue it is to request a run of that tree; the run's id is the result's.
"""

import importlib
import json
import logging
import re
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.checks import CheckMessage, Error
from django.db import IntegrityError
from django.utils import timezone

from . import context as contexts
from . import functions
from .domain import run_tags
from .domain.runs import ProcessRun, RunDetail
from .domain.submissions import Submission, priority_tag
from .exceptions import (
    ContextError,
    FunctionExited,
    FunctionNotAllowed,
    FunctionNotFound,
    HistoryUnavailable,
    InvalidTree,
    ResultNotStored,
    RunNotFound,
    TreeExists,
)
from .models import OutboxRun, OutboxState, ProcessTree
from .process import reporting
from .process.run import Outcome
from .running import run_history, tree_runs, waiting
from .support import isolation
from .tree_builder import ProcessTreeInstance

if TYPE_CHECKING:
    from django_tasks import signals
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.utils import normalize_json
else:
    try:
        from django.tasks import signals
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
        from django.utils.json import normalize_json
    except ModuleNotFoundError:  # before Django 6
        from django_tasks import signals
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.utils import normalize_json

logger = logging.getLogger(__name__)

FUNCTION = "django.tasks"
"""The key of the function that executes tasks, as rows of their trees name it."""

_RAISED = "Raised as "
"""How the note begins by which an error says where its class is."""

_EXITED = "The task exited.\n"  # before the traceback of one that has called sys.exit()

_NO_ERROR = "proctree_dagster.exceptions.RunError"
"""The class that stands for what ended a run and was no error of its function."""

READY, RUNNING, FAILED, SUCCESSFUL = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.FAILED,
    TaskResultStatus.SUCCESSFUL,
)
_STATUSES = {
    **{"started": RUNNING, "canceling": RUNNING},
    **{"success": SUCCESSFUL, "failure": FAILED, "canceled": FAILED},
}


class DagsterTaskResult(TaskResult):  # type: ignore[type-arg]
    """The result of a task that Dagster executes."""

    @property
    def return_value(self) -> Any:
        """The return value of the task.

        Raises
        ------
        ResultNotStored
            It is not where this process can read it.
        ValueError
            The task has failed, or has not finished.
        """
        value = super().return_value
        if isinstance(value, _Unreadable):
            raise ResultNotStored(f"Task {self.id}: {value.why}")
        return value


class _Unreadable:
    """Stands for a return value that can't be read."""

    def __init__(self, why: str) -> None:
        self.why = why


class DagsterBackend(BaseTaskBackend):
    """Executes tasks as runs of Dagster, by way of the outbox.

    Parameters
    ----------
    alias:
        The backend's name in ``TASKS``.
    params:
        Its settings: ``QUEUES`` as for every backend. It has no ``OPTIONS``.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Request a run of a task, in the caller's transaction, and return its result.

        Raises
        ------
        InvalidTask
            The task can't be executed by this backend.
        TypeError
            An argument is not JSON.
        """
        self.validate_task(task)
        plain = normalize_json({"args": list(args), "kwargs": dict(kwargs)})
        result = _result(
            id=str(uuid.uuid4()),
            task=task,
            status=READY,
            enqueued_at=timezone.now(),
            backend=self.alias,
            **json.loads(json.dumps(plain)),  # as its function gets them: JSON's keys are text
        )
        tree_runs.submit_row(
            _tree_of(task),
            {
                **{"task": task.module_path, "task_id": result.id, "backend": self.alias},
                **_written(result.args, result.kwargs),
            },
            run_tags={**priority_tag(task.priority), run_tags.TASK_QUEUE: task.queue_name},
            submission=Submission(run_after=task.run_after),
            run_id=result.id,
        )
        row = waiting.row_of(result.id)  # none yet, in a transaction on another database
        if row is not None:
            object.__setattr__(result, "enqueued_at", row.created_at)
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task as it is now.

        Raises
        ------
        TaskResultDoesNotExist
            There is none of this id, or its task is gone.
        HistoryUnavailable
            Dagster can't be asked now.
        """
        try:
            row = waiting.row_of(str(uuid.UUID(str(result_id))))
        except ValueError:
            raise TaskResultDoesNotExist(result_id) from None
        if row is not None and row.state in (OutboxState.WAITING, OutboxState.DROPPED):
            return _from_row(self.alias, str(result_id), row)
        try:
            with run_history.opened(wait=waiting.IMPORT_SECONDS) as history:
                return _from_history(history, self.alias, str(result_id), row)
        except RunNotFound:
            raise TaskResultDoesNotExist(result_id) from None

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what is wrong with the backend's settings."""
        if not self.options:
            return []
        told = f"TASKS[{self.alias!r}] has OPTIONS, and the backend of proctree_dagster takes none."
        hint = "Set retries and timeouts on the task's tree, in the admin."
        return [Error(told, hint=hint, id="proctree_dagster.E012")]


# Enqueuing


def _tree_of(task: Any) -> ProcessTree:
    """Return the tree of a task; it is saved if it is not there yet.

    Raises
    ------
    InvalidTask
        Its module is not allowed, another tree has its name, or it can't be saved as a tree.
    """
    name = task.module_path
    if not functions.is_allowed(task.func.__module__):
        raise InvalidTask(functions.to_allow(task.func.__module__))
    row = ProcessTree.objects.with_links().filter(name=name).first() or _saved(name, task)
    if [each.get("func") for each in row.processes] != [FUNCTION]:
        raise InvalidTask(f"There is a process tree called {name!r}, which is not of the task.")
    return row


def _saved(name: str, task: Any) -> ProcessTree:
    said = (task.func.__doc__ or "").strip().partition("\n")[0]
    try:
        with suppress(TreeExists, IntegrityError):  # another process has saved it meanwhile
            tree = ProcessTreeInstance(name, said or f"The task {name}.", cache_enabled=False)
            tree.add_process(task.name, func=run_task)
            tree.save()
    except InvalidTree as error:  # its name is too long, say
        raise InvalidTask(f"The task {name!r} can't be saved as a tree. {error}") from error
    return tree_runs.get_row(name)


def _written(args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task as keys of a context.

    As they are, where a context can say them; else as one text: one of them looks like a row of a
    model, say, and is none.
    """
    plain = {"args": args, "kwargs": kwargs}
    text = json.dumps(plain)
    if any(f'"{key}"' in text for key in contexts.RESERVED):
        return {"arguments": text}
    try:
        is_same = json.dumps(contexts.encode(plain)) == text
    except ContextError:
        is_same = False
    return plain if is_same else {"arguments": text}


# Executing


@functions.process_function(FUNCTION)
def run_task(
    task: str,
    task_id: str,
    backend: str,
    args: list[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    arguments: str = "",
) -> Any:
    """Execute a task in a run.

    Parameters
    ----------
    task:
        The path of the task.
    task_id:
        The id of its result.
    backend:
        The name of the backend in ``TASKS``.
    args, kwargs:
        Its arguments.
    arguments:
        The same as JSON, where a context can't say them.
    """
    given = json.loads(arguments) if arguments else {"args": args or [], "kwargs": kwargs or {}}
    found = _task_at(task, backend)
    before, now = _before(found.get_backend(), task_id), timezone.now()
    result = _result(
        id=task_id,
        task=found,
        status=RUNNING,
        enqueued_at=before and before.enqueued_at,
        started_at=(before and before.started_at) or now,
        last_attempted_at=now,
        args=given["args"],
        kwargs=given["kwargs"],
        backend=backend,
        errors=before.errors if before else [],
        worker_ids=(before and before.worker_ids) or [task_id] * reporting.attempt(),
    )
    sender = type(found.get_backend())
    signals.task_started.send(sender, task_result=result)
    first = [TaskContext(task_result=result)] if found.takes_context else []
    try:
        value = normalize_json(found.call(*first, *result.args, **result.kwargs))
    except BaseException as error:
        _end(result, FAILED)
        said = "".join(traceback.format_exception(error))
        result.errors.append(TaskError(exception_class_path=_path(type(error)), traceback=said))
        signals.task_finished.send(sender, task_result=result)
        raised = f"{_RAISED}{_path(type(error))}"  # Dagster keeps the text of an error only
        if isinstance(error, SystemExit):  # which is no reason to end the worker
            raise FunctionExited(f"{_EXITED}{said}{raised}") from None
        error.add_note(raised)
        raise
    object.__setattr__(result, "_return_value", value)
    _end(result, SUCCESSFUL)
    signals.task_finished.send(sender, task_result=result)
    return value


def _before(backend: Any, task_id: str) -> Any:
    """Return the result of a task as it is stored; ``None`` if this is its first attempt."""
    if reporting.attempt() == 1 and reporting.run_id() in ("", task_id):
        return None
    try:
        return backend.get_result(task_id)
    except (TaskResultDoesNotExist, HistoryUnavailable):  # the task needs none of them
        logger.warning("Earlier attempts of the task %s can't be read.", task_id, exc_info=True)
        return None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _end(result: Any, status: Any) -> None:
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", status)


def _task_at(path: str, backend: str) -> Any:
    """Return the task of a path, for a backend of this class.

    Raises
    ------
    FunctionNotAllowed
        Its module is not allowed: nothing was imported.
    FunctionNotFound
        There is no such task, or it is another backend's.
    """
    module, _, name = path.rpartition(".")
    if not functions.is_allowed(module):
        raise FunctionNotAllowed(f"The task {path!r}: {functions.to_allow(module)}")
    try:
        found = getattr(importlib.import_module(module), name)
        chosen = found.using(backend=backend) if isinstance(found, Task) else None
    except Exception as error:  # the import of a module may raise anything
        raise FunctionNotFound(f"The task {path!r} can't be found: {error}") from error
    if chosen is None or not isinstance(chosen.get_backend(), DagsterBackend):
        raise FunctionNotFound(f"{path!r} is no task of the backend {backend!r}.")
    return chosen


# Results


def _result(**given: Any) -> Any:
    """Return a result with what is not said left blank."""
    blank = dict.fromkeys(("enqueued_at", "started_at", "finished_at", "last_attempted_at"))
    return DagsterTaskResult(**{**blank, "errors": [], "worker_ids": [], **given})


def _asked(alias: str, result_id: str, context: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return what a run's context says of a task that was enqueued by a backend.

    Raises
    ------
    TaskResultDoesNotExist
        It is no run of such a task, or the task is gone.
    """
    if context.get("task_id") != result_id or context.get("backend") != alias:
        raise TaskResultDoesNotExist(result_id)
    try:
        task = _task_at(str(context.get("task")), alias).using(**more)
    except (FunctionNotAllowed, FunctionNotFound) as error:
        raise TaskResultDoesNotExist(f"{result_id}: {error}") from error
    written = context.get("arguments")
    given = json.loads(written) if written else contexts.decode(context)
    return {
        "id": result_id,
        "task": task,
        "args": given["args"],
        "kwargs": given["kwargs"],
        "backend": alias,
    }


def _options(tags: Mapping[str, str], row: OutboxRun | None) -> dict[str, Any]:
    return {
        "priority": int(tags.get("dagster/priority", "0")),
        "queue_name": tags.get(run_tags.TASK_QUEUE),
        "run_after": None if row is None else row.run_after,
    }


def _from_row(alias: str, result_id: str, row: OutboxRun) -> Any:
    """Return the result of a task that Dagster does not have: not yet, or never."""
    asked = _asked(alias, result_id, row.context, **_options(row.tags, row))
    is_dropped = row.state == OutboxState.DROPPED and row.reason != isolation.RECORDED
    errors = [TaskError(exception_class_path=_NO_ERROR, traceback=row.reason)] if is_dropped else []
    return _result(
        **asked,
        enqueued_at=row.created_at,
        status=FAILED if is_dropped else READY,
        errors=errors,
    )


def _from_history(
    history: run_history.History, alias: str, result_id: str, row: OutboxRun | None
) -> Any:
    run_ids, has_ended = history.attempts(result_id if row is None else str(row.run_id))
    details = [history.detail(each) for each in run_ids]
    run_id, first, last = run_ids[-1], details[0].summary, details[-1].summary
    asked = _asked(
        alias, result_id, history.context_of(run_id), **_options(history.tags_of(run_id), row)
    )
    process = _process(details[-1])
    status = _STATUSES.get(last.status, READY)
    if (status == FAILED and not has_ended) or (status == RUNNING and _waits(process)):
        status = READY  # it will be tried again
    started = [each.started_at for detail in details for each in _process(detail).tries]
    result = _result(
        **asked,
        enqueued_at=first.created_at if row is None else row.created_at,
        started_at=started[0] if started else first.started_at,
        last_attempted_at=started[-1] if started else last.started_at,
        finished_at=last.ended_at if status in (FAILED, SUCCESSFUL) else None,
        status=status,
        errors=[error for detail in details for error in _errors(detail)],
        worker_ids=[
            each
            for each, detail in zip(run_ids, details, strict=True)
            for _ in _process(detail).tries
        ],
    )
    if status == SUCCESSFUL:
        stored = history.outcomes(run_id, [process.step]).get(process.step, "")
        value = stored.result if isinstance(stored, Outcome) else _Unreadable(stored)
        object.__setattr__(result, "_return_value", value)
    return result


def _process(detail: RunDetail) -> ProcessRun:
    """Return the process of a task's run; one that was not begun, if its log was removed."""
    [process] = detail.processes or [ProcessRun("", "", "pending")]
    return process


def _waits(process: ProcessRun) -> bool:
    """Return whether a process has failed, and will be tried again in the same run."""
    return process.status == "running" and bool(process.tries[-1].error)


def _errors(detail: RunDetail) -> Iterator[Any]:
    """Yield the error of each try in a run; at last why it ended, if that was none of these."""
    process = _process(detail)
    for each in process.tries:
        if each.error:
            yield _error(each.trace or each.error)
    is_told = bool(process.tries and process.tries[-1].error)
    if _STATUSES.get(detail.summary.status) == FAILED and not is_told:
        yield _error(detail.fault or process.trace or process.error)


def _error(said: str) -> Any:
    """Return an error of a task from what Dagster keeps of it."""
    said = said.rpartition(_EXITED)[2]
    found = re.search(rf"\s*{_RAISED}([\w.<>]+)\s*$", said)
    path = found[1] if found else _NO_ERROR
    return TaskError(
        exception_class_path=path, traceback=f"{said[: found.start()]}\n" if found else said
    )
