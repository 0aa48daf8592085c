"""Run ONE process: bind its arguments, call its function, say what it came to."""

import inspect
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgiref.sync import async_to_sync

from .connections import fresh_connections
from .exceptions import ArgumentError

Status = Literal["pending", "running", "completed", "failed", "skipped", "cached"]


@dataclass(frozen=True)
class Outcome:
    """What one process came to."""

    status: Status
    """One of the predecessor's statuses."""

    result: Any = None
    """What the function returned."""

    error: str | None = None
    """Why it failed or was skipped, for people to read."""

    seconds: float = 0.0
    """Seconds that the call took."""

    cached: bool = False
    """Whether the result came from the cache."""

    @property
    def has_result(self) -> bool:
        """Whether the result is passed on to what depends on the process."""
        return self.status in ("completed", "cached")


def run_process(
    name: str,
    func: Callable[..., Any],
    context: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
) -> Outcome:
    """Call a process's function and return its outcome.

    Parameters
    ----------
    name:
        The process's name, for messages.
    func:
        Its function; ``async def`` works.
    context:
        The run's keyword arguments, decoded.
    outcomes:
        The outcome of each dependency, by the dependency's name as written.

    Returns
    -------
    Outcome
        With the status ``completed``.

    Raises
    ------
    ArgumentError
        The function lacks a required argument.
    Exception
        Whatever the function raises.
    """
    available = {key: value for key, value in context.items() if key not in outcomes}
    available |= {key: outcome.result for key, outcome in outcomes.items() if outcome.has_result}
    arguments = bind_arguments(name, func, available)
    started = time.perf_counter()
    with fresh_connections():
        result = _call(func, arguments)
    return Outcome("completed", result, seconds=time.perf_counter() - started)


def bind_arguments(
    name: str, func: Callable[..., Any], available: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments that ``func`` takes out of those that are ``available``.

    A function with ``**kwargs`` gets them all.

    Raises
    ------
    ArgumentError
        A required argument is not available; names the process, the argument and what was there.
    """
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return dict(available)
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = {each.name for each in parameters if each.kind in by_keyword}
    missing = [
        each.name
        for each in parameters
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and not (each.name in accepted and each.name in available)
    ]
    if missing:
        there = ", ".join(map(repr, sorted(available))) or "nothing"
        raise ArgumentError(
            f"Process {name!r}: its function {getattr(func, '__qualname__', func)!r} needs "
            f"{', '.join(map(repr, missing))}, but context and dependencies gave {there}. Add it "
            "to the context, name the process that returns it as a dependency, or give the "
            "argument a default."
        )
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(available)
    return {key: value for key, value in available.items() if key in accepted}


def _call(func: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    result = func(**arguments)
    # Asked of the result, not of the function: a decorated ``async def`` works too.
    return async_to_sync(_await)(result) if inspect.iscoroutine(result) else result


async def _await(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def explain(error: BaseException) -> str:
    """Return an exception as one line that a person reads: its type and its message."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
