"""Tasks of ``django.tasks``, or of what there was before it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_tasks import TaskContext, signals, task
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
else:
    try:
        from django.tasks import TaskContext, signals, task
        from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    except ModuleNotFoundError:  # before Django 6
        from django_tasks import TaskContext, signals, task
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist

__all__ = ["InvalidTask", "TaskResultDoesNotExist", "signals", "task"]

calls: list[Any] = []
"""What the tasks were called with, in this process."""


class Refused(Exception):
    """A task's own error."""


@task
def add(first: int, second: int = 1) -> int:
    """Add two numbers.

    This is not its first line.
    """
    calls.append((first, second))
    return first + second


@task
def echo(*args: Any, **kwargs: Any) -> Any:
    """Return what it is called with."""
    return {"args": args, "kwargs": kwargs}


@task
async def later(number: int) -> int:
    """Return a number, sooner or later."""
    return number


@task
def refuse(why: str) -> None:
    """Raise an error."""
    raise Refused(why)


@task(takes_context=True)
def tells_id(context: TaskContext, name: str) -> list[Any]:
    """Return what it knows of itself."""
    return [context.task_result.id, context.attempt, name]


@task(takes_context=True)
def succeeds_at(context: TaskContext, attempt: int) -> list[Any]:
    """Raise an error before an attempt; then return what it knows of the earlier ones."""
    result = context.task_result
    if context.attempt < attempt:
        raise Refused(f"attempt {context.attempt}")
    assert result.started_at is not None
    assert result.last_attempted_at is not None
    first = result.started_at < result.last_attempted_at
    return [context.attempt, [each.exception_class_path for each in result.errors], first]


@task
def returns_a_set() -> Any:
    """Return what is no JSON."""
    return {1, 2}


@task
def leave() -> None:
    """Exit, as a script does."""
    raise SystemExit("This task exits.")
