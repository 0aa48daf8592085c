"""Run ONE process: arguments, cache, trigger, up to date?, call, checks, variables -> Outcome."""

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from django.utils import timezone

from . import caching, calling, stopping, timeouts
from .calling import bind_arguments as bind_arguments
from .connections import fresh_connections
from .exceptions import ResultNotStored, ValidationFailed
from .response_variables import extract
from .spec import ProcessSpec

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
Status = Literal["pending", "running", "completed", "failed", "skipped", "cached"]


class Gate(Protocol):
    """What a process waits for; see ``firing.Gate``."""

    def why_not(self, available: Mapping[str, Any]) -> str | None:
        """Say why the process is skipped; ``None`` if it runs."""

    def passed(self, asked_at: dt.datetime) -> None:
        """Remember that the process has run to its end."""


@dataclass(frozen=True)
class Process:
    """One process, ready to be run: what its spec says, and the callables that it names."""

    spec: ProcessSpec
    func: Function
    validations: tuple[Function, ...] = ()
    outdated_check: Function | None = None
    gate: Gate | None = None
    required: bool = True
    """Required in effect: it is, or one that depends on it is."""

    cache_enabled: bool = True
    """Whether the tree allows results to be cached."""

    @property
    def name(self) -> str:
        """The process's name as written."""
        return self.spec.name


@dataclass(frozen=True)
class NotStored:
    """Stands for a result that could not be pickled, where it was to be passed on."""

    process: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What one process came to."""

    status: Status
    """One of the predecessor's statuses."""

    result: Any = None
    """What the function returned."""

    error: str | None = None
    """Why it failed, or was skipped because something else did, for people to read."""

    seconds: float = 0.0
    """Seconds that it took."""

    cached: bool = False
    """Whether the result came from the cache."""

    note: str | None = None
    """Why it was skipped though nothing failed."""

    response_variables: Mapping[str, Any] = field(default_factory=dict)
    """What was extracted from the result, by name."""

    @property
    def has_result(self) -> bool:
        """Whether the result is passed on to what depends on the process."""
        return self.status in ("completed", "cached")


def run_process(
    process: Process, context: Mapping[str, Any], outcomes: Mapping[str, Outcome]
) -> Outcome:
    """Run a process and return its outcome.

    Parameters
    ----------
    process:
        The process. An ``async def`` function works; the result of one that yields is a list.
    context:
        The run's keyword arguments, decoded.
    outcomes:
        The outcome of each dependency, by the dependency's name as written.

    Returns
    -------
    Outcome
        ``completed``, ``cached``, or ``skipped`` if its trigger is silent, or its outdated check
        says that it is up to date.

    Raises
    ------
    ArgumentError
        The function lacks a required argument.
    CacheKeyError
        The cache key names a field that the context lacks.
    ProcessTimeout
        It took longer than it may.
    ValidationFailed
        The result did not pass its checks.
    ResultNotStored
        A dependency's result could not be pickled.
    ResponseVariableError
        A response variable can't be extracted.
    Exception
        Whatever the function raises.
    """
    for lost in (outcome.result for outcome in outcomes.values()):
        if isinstance(lost, NotStored):
            raise ResultNotStored(
                f"The result of process {lost.process!r} was not stored, because it can't be "
                f"pickled ({lost.reason}), so it can't be passed on. Return something that can, "
                "such as a primary key, a dictionary or a list."
            )
    available = {key: value for key, value in context.items() if key not in outcomes}
    available |= {key: outcome.result for key, outcome in outcomes.items() if outcome.has_result}
    started = time.perf_counter()
    with fresh_connections():
        what = f"Process {process.name!r}"
        arguments = bind_arguments(what, process.func, available)
        key = _cache_key(process, context)
        hit = None if key is None else caching.get(key)
        asked_at = timezone.now()
        silent = process.gate.why_not(available) if process.gate and hit is None else None
        if silent is not None:
            return Outcome("skipped", note=silent)
        if not _is_outdated(process, available):
            return Outcome("skipped", note="Up to date")
        if hit is not None:
            [result] = hit
        else:
            with calling.missing_arguments_named(what, process.func, available):
                result = timeouts.call(
                    lambda: _call(process.func, arguments), process.spec.timeout, process.name
                )
            _check(process, result)
        variables = extract(process.name, process.spec.response_vars, result)
        if hit is None and key is not None:
            caching.put(key, result, process.spec.cache_ttl)
        if hit is None and process.gate is not None:
            process.gate.passed(asked_at)
    return Outcome(
        "completed" if hit is None else "cached",
        result,
        seconds=time.perf_counter() - started,
        cached=hit is not None,
        response_variables=variables,
    )


def in_sync(process: Process, context: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a process that need not run: its cached result, if it has one."""
    key = _cache_key(process, context)
    hit = None if key is None else caching.get(key)
    if hit is None:
        return Outcome("skipped", note="In sync")
    return Outcome("cached", hit[0], cached=True, note="In sync")


def _is_outdated(process: Process, available: Mapping[str, Any]) -> bool:
    """Ask the process's outdated check; without one, or if it raises, the process runs."""
    check = process.outdated_check
    if check is None:
        return True
    try:
        answer = call_with(f"Process {process.name!r}", check, available)
    except Exception:  # a check that fails must not keep the work from being done
        logger.exception("The outdated check of process %r raised; the process runs.", process.name)
        return True
    return answer is None or bool(answer)


def _cache_key(process: Process, context: Mapping[str, Any]) -> str | None:
    if process.spec.cache_key is None or not process.cache_enabled:
        return None
    return caching.render_key(process.name, process.spec.cache_key, context)


def _check(process: Process, result: Any) -> None:
    """Raise one error that holds what every failed validation says."""
    problems = [
        problem for check in process.validations if (problem := _problem(check, result)) is not None
    ]
    if problems:
        raise ValidationFailed(
            f"Process {process.name!r}: its result did not pass: {'; '.join(problems)}"
        )


def _problem(check: Function, result: Any) -> str | None:
    name = _name(check)
    try:
        answer = _call(check, {}, result, finish=partial(calling.answer_of, name))
    except Exception as error:  # a check that raises has not passed, whatever it raises
        logger.exception("The validation %s raised.", name)
        return f"{name} raised {explain(error)}"
    passed, message = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    return None if passed else f"{name}: {message}" if message else f"{name} said no"


def call_with(what: str, func: Function, available: Mapping[str, Any]) -> Any:
    """Ask ``func``, with what it takes out of what is ``available``; see ``bind_arguments``."""
    arguments = bind_arguments(what, func, available)
    with calling.missing_arguments_named(what, func, available):
        return _call(func, arguments, finish=partial(calling.answer_of, _name(func)))


def _name(func: Function) -> str:
    return str(getattr(func, "__qualname__", repr(func)))


def _call(
    func: Function,
    arguments: Mapping[str, Any],
    *positional: Any,
    finish: Callable[[Any], Any] = calling.run_to_end,
) -> Any:
    with stopping.stoppable():
        return finish(func(*positional, **arguments))


def explain(error: BaseException) -> str:
    """Return an exception as one line that a person reads: its type and its message."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an exception's own code may fail, too
        text = "(its message can't be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
