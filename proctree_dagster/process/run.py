"""Run one process: arguments, cache, trigger, outdated check, call, validations, variables."""

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

from django.utils import timezone

from ..context import sensitive
from ..domain.texts import explain, shown
from ..domain.tree_spec import ProcessSpec
from ..exceptions import FunctionExited, ResultNotStored, SecretError, ValidationFailed
from ..support import forks
from ..support.call_context import isolated
from ..support.connections import fresh_connections
from . import caching, calling, cancellation, masking, response_variables, secrets, timeouts
from .calling import bind_arguments as bind_arguments

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
Status = Literal["pending", "running", "completed", "failed", "skipped", "cached"]


class Gate(Protocol):
    """Decides whether a process that waits for a trigger runs; see ``process_gate.Gate``."""

    def skip_reason(
        self, available: Mapping[str, Any], context: Mapping[str, Any] | None = None
    ) -> str | None:
        """Return why the process is skipped; ``None`` if it runs."""

    def record_completion(self, asked_at: dt.datetime) -> None:
        """Record that the process has completed."""


@dataclass(frozen=True)
class Process:
    """One process, ready to be run: what its spec says, and the callables that it names."""

    spec: ProcessSpec
    func: Function
    validations: tuple[Function, ...] = ()
    outdated_check: Function | None = None
    gate: Gate | None = None
    required: bool = True
    """Required in effect: it is required, or a process downstream of it is."""

    cache_enabled: bool = True
    """Whether the tree allows results to be cached."""

    job_name: str = ""
    """The tree's job."""

    made_by: caching.MadeBy = caching.UNSAID
    """The functions that its results depend on (see ``caching.MadeBy``)."""

    @property
    def name(self) -> str:
        """The process's name as written."""
        return self.spec.name


@dataclass(frozen=True)
class NotStored:
    """Placeholder for a result that could not be pickled, for the processes downstream."""

    __module__ = "proctree_dagster.process"  # as releases before and after pickle it

    process: str
    reason: str

    @property
    def why(self) -> str:
        """Why a process downstream can't have it, in sentences."""
        return (
            f"The result of process {self.process!r} was not stored, because it can't be pickled "
            f"({self.reason}), so it can't be passed on. Return something that can, such as a "
            "primary key, a dictionary or a list."
        )


@dataclass(frozen=True)
class NotRead(NotStored):
    """Placeholder for a result that was stored and can't be read."""

    @property
    def why(self) -> str:
        """Why a process downstream can't have it, in sentences."""
        return f"The result of process {self.process!r} can't be read: {self.reason}"


@dataclass(frozen=True)
class Outcome:
    """How one process ended."""

    __module__ = "proctree_dagster.process"  # as releases before and after pickle it

    status: Status
    """One of the predecessor's statuses."""

    result: Any = None
    """What the function returned."""

    error: str | None = None
    """Why it failed, or was skipped because another process failed; for people to read."""

    seconds: float = 0.0
    """How long it took, in seconds."""

    cached: bool = False
    """Whether the result came from the cache."""

    note: str | None = None
    """Why it was skipped though nothing failed, or another remark."""

    response_variables: Mapping[str, Any] = field(default_factory=dict)
    """The response variables, by name."""

    @property
    def has_result(self) -> bool:
        """Whether the result is passed on downstream."""
        return self.status in ("completed", "cached")


def run_process(
    process: Process,
    context: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    *,
    use_cache: bool = True,
    run_id: str = "",
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
    use_cache:
        Whether to use a cached result. Otherwise the process runs, and its result replaces the
        cached one, which its outdated check is not asked of.
    run_id:
        The run's id; retries of the process have the same.

    Returns
    -------
    Outcome
        ``completed``, ``cached``, or ``skipped`` if its trigger has not fired, or its outdated
        check returns that it is up to date. A cached result is passed on without checking either.

    Raises
    ------
    ArgumentError
        The function lacks a required argument.
    CacheKeyError
        The cache key names a field that the context lacks.
    ProcessTimeout
        It took longer than its timeout.
    ValidationFailed
        The result did not pass its validations.
    ResultNotStored
        A dependency's result could not be pickled.
    ResponseVariableError
        A response variable can't be extracted.
    SecretError
        A secret of the context is not known, or can't be masked in the result.
    Exception
        Whatever the function raises, without secrets.
    """
    with masking.in_errors():
        outcome = _run(process, context, outcomes, use_cache, run_id)
        note = None if outcome.note is None else masking.text(outcome.note)
        return outcome if note == outcome.note else replace(outcome, note=note)


def _run(
    process: Process,
    context: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    use_cache: bool,
    run_id: str,
) -> Outcome:
    _require_stored(outcomes)
    available = {key: value for key, value in context.items() if key not in outcomes}
    available |= {key: outcome.result for key, outcome in outcomes.items() if outcome.has_result}
    started = time.perf_counter()
    with fresh_connections():
        what = f"Process {process.name!r}"
        arguments = bind_arguments(what, process.func, available)
        entry = _cache_entry(process, context)
        hit = entry.get() if entry is not None else None
        if hit is not None and use_cache:
            return _cached(process, hit[0], started)
        asked_at = timezone.now()
        silent = process.gate.skip_reason(available, context) if process.gate else None
        if silent is not None:
            return _skipped(process, silent)
        outdated, note = True, None
        if hit is None:  # else it is not to be used, and only a run gives what follows another
            outdated, note = _is_outdated(process, available, context)
        if not outdated:
            return _skipped(process, "Up to date")
        with calling.missing_arguments_named(what, process.func, available):
            result = timeouts.call(
                lambda: _call(process.func, secrets.resolved(what, arguments)),
                *(process.spec.timeout, process.name, run_id),
            )
        result = _masked(process, result)
        _check(process, result)
        variables = response_variables.extract(process.name, process.spec.response_vars, result)
        if entry is not None:
            entry.put(result, process.spec.cache_ttl)
        if process.gate is not None:
            process.gate.record_completion(asked_at)
    return Outcome(
        "completed",
        result,
        seconds=time.perf_counter() - started,
        note=note,
        response_variables=variables,
    )


def _masked(process: Process, result: Any) -> Any:
    try:
        return masking.masked(result)
    except SecretError as error:
        raise SecretError(
            f"The result of process {process.name!r} can't be kept. {error}"
        ) from None


def in_sync(process: Process, context: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a process that need not run: its cached result, if it has one.

    Those that follow need it, whether or not the run uses cached results of those that run.
    """
    started = time.perf_counter()
    entry = _cache_entry(process, context)
    hit = entry.get() if entry is not None else None
    if hit is None:
        return _skipped(process, "In sync")
    return _cached(process, hit[0], started, "In sync")


def _require_stored(outcomes: Mapping[str, Outcome]) -> None:
    for lost in (outcome.result for outcome in outcomes.values()):
        if isinstance(lost, NotStored):
            raise ResultNotStored(lost.why)


def _cached(process: Process, result: Any, started: float, note: str | None = None) -> Outcome:
    return Outcome(
        "cached",
        result,
        seconds=time.perf_counter() - started,
        cached=True,
        note=note,
        response_variables=response_variables.extract(
            process.name, process.spec.response_vars, result
        ),
    )


def _skipped(process: Process, why: str) -> Outcome:
    defaults = response_variables.defaults(process.name, process.spec.response_vars)
    return Outcome("skipped", note=why, response_variables=defaults)


def _is_outdated(
    process: Process, available: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[bool, str | None]:
    """Call the outdated check; without one, or without an answer, the process runs.

    Returns
    -------
    tuple
        Whether the process runs, and why if the check gave no answer.
    """
    check = process.outdated_check
    if check is None:
        return True, None
    what = f"The outdated check of process {process.name!r}"
    try:
        answer = call_with(what, check, available, context)
    except Exception as error:  # a failing check must not prevent the work
        logger.exception("%s raised; the process runs.", what)
        return True, f"Its outdated check raised {explain(error)}"
    if answer is None:
        return True, None
    outdated = truth(answer)
    if outdated is None:
        given = shown(answer, 100, write=sensitive.shown)
        logger.error("%s must return a bool, not %s; the process runs.", what, given)
        return True, f"Its outdated check must return a bool, not {given}"
    return outdated, None


def truth(answer: Any) -> bool | None:
    """Return an answer as a bool, numpy's included; ``None`` if it is something else."""
    if not isinstance(answer, bool) and callable(item := getattr(answer, "item", None)):
        try:
            answer = item()
        except Exception:  # noqa: BLE001  # an array, or an unrelated method: no bool
            return None
    return answer if isinstance(answer, bool) else None


def _cache_entry(process: Process, context: Mapping[str, Any]) -> caching.Entry | None:
    spec = process.spec
    if spec.cache_key is None or not process.cache_enabled:
        return None
    made_by = process.made_by
    whoever = spec.shared_cache_key and not made_by.only_here
    owner = caching.Owner(
        process.job_name, process.name, "" if whoever else made_by.key, spec.shared_cache_key
    )
    return caching.Entry(owner, spec.cache_key, context)


def _check(process: Process, result: Any) -> None:
    """Raise one error with the message of every failed validation."""
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
    verdict, message = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    passed = truth(verdict)
    if passed is None:
        given = shown(answer, 100, write=sensitive.shown)
        return f"{name} must return a bool or (bool, message), not {given}"
    return None if passed else f"{name}: {message}" if message else f"{name} said no"


def call_with(
    what: str,
    func: Function,
    available: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> Any:
    """Call a check with what it takes from ``available``; see ``bind_arguments``.

    A parameter called ``context`` gets the run's whole context (``{}`` if there is none), unless
    the context itself has a key of that name.
    """
    if "context" not in available and "context" in calling.takes(func).names:
        available = {**available, "context": dict(context or {})}
    arguments = secrets.resolved(what, bind_arguments(what, func, available))
    with masking.in_errors(), calling.missing_arguments_named(what, func, available):
        return _call(func, arguments, finish=partial(calling.answer_of, _name(func)))


def _name(func: Function) -> str:
    return str(getattr(func, "__qualname__", repr(func)))


def _call(
    func: Function,
    arguments: Mapping[str, Any],
    *positional: Any,
    finish: Callable[[Any], Any] = calling.run_to_end,
) -> Any:
    def call() -> Any:
        try:
            with cancellation.stoppable(), forks.contained():
                return finish(func(*positional, **arguments))
        except SystemExit as error:  # of a program's main(): no reason to end the worker
            raise FunctionExited(f"{_name(func)} called sys.exit({error.code!r}).") from error

    return isolated(call)
