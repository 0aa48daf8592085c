"""Calling functions: the arguments that one takes, and its result, awaited or iterated."""

import inspect
import itertools
import re
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MethodType
from typing import Any, NamedTuple
from uuid import UUID

from asgiref.sync import AsyncToSync, async_to_sync

from ..exceptions import ArgumentError, FunctionError
from ..support import forks
from . import cancellation

Function = Callable[..., Any]

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WRAPPERS = 100
"""How many decorators are unwrapped at most; ends the loop of a function that wraps itself."""

_LAZY = (GeneratorType, map, filter, zip, enumerate, reversed, type(iter(int, 1)))
"""Iterators that do their work only when they are iterated over; see also ``_is_lazy``."""

_ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)
"""Iterators that do no work and may be infinite."""

_VALUES = frozenset({str, int, float, bool, bytes, Decimal, date, datetime, UUID, type(None)})
"""Types of which no instance holds others."""

_UNFINISHED = (*_LAZY, CoroutineType, AsyncGeneratorType, Future)
"""Unfinished work that a function may return as part of its result."""


class Takes(NamedTuple):
    """The keyword arguments that a callable accepts and requires."""

    names: frozenset[str]
    """The keywords that it accepts."""

    everything: bool
    """Whether it accepts any other keyword, too (``**kwargs``)."""

    required: tuple[str, ...] = ()
    """Its required parameters; positional-only ones included."""

    left_to_decorators: tuple[str, ...] = ()
    """Required parameters of the decorated function, which a decorator may supply."""


def takes(func: Function, wrappers: int = _WRAPPERS) -> Takes:
    """Return the arguments that ``func`` takes, by the signature of the outermost callable.

    A decorator whose wrapper has ``**kwargs`` (and ``__wrapped__``, as ``functools.wraps`` sets it)
    takes its own parameters and those of the decorated function. Required parameters of the
    decorated function are not checked, as the decorator may supply them.
    """
    own = _own_signature(func)
    seen = _parameters_of(own)
    if own is not None and not seen.everything:
        return seen
    inner = _taken_inside(func, wrappers)
    if inner is None:
        return seen
    left = (*inner.required, *inner.left_to_decorators)
    return Takes(
        seen.names | inner.names,
        inner.everything,
        seen.required,
        tuple(name for name in left if name not in seen.names),
    )


def _parameters_of(signature: inspect.Signature | None) -> Takes:
    """Return what a signature takes; without one, everything."""
    if signature is None:
        return Takes(frozenset(), True)
    parameters = signature.parameters.values()
    return Takes(
        frozenset(each.name for each in parameters if each.kind in _BY_KEYWORD),
        any(each.kind is each.VAR_KEYWORD for each in parameters),
        tuple(
            each.name
            for each in parameters
            if each.default is each.empty and each.kind not in _VARIABLE
        ),
    )


def _own_signature(func: Function) -> inspect.Signature | None:
    """Return the signature of the outermost callable; ``None`` for one that has none."""
    disguised = type(func) is not getattr(func, "__class__", None)  # a proxy, such as wrapt's
    try:
        if disguised and not hasattr(func, "__signature__"):
            bound = partial(type(func).__call__, func)
            return inspect.signature(bound, follow_wrapped=False)
        return inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins have none
        return None


def _taken_inside(func: Function, wrappers: int) -> Takes | None:
    """Return what the decorated function takes; ``None`` if ``func`` decorates none."""
    if wrappers == 0:
        return None
    if isinstance(func, partial):
        return _left_by_partial(func)
    if isinstance(func, AsyncToSync):
        return takes(func.awaitable, wrappers - 1)
    inner = getattr(func, "__wrapped__", None)
    if not callable(inner):
        return None
    if type(func) is MethodType and hasattr(inner, "__get__"):
        inner = inner.__get__(func.__self__)  # its wrapped function lacks the bound ``self``
    return takes(inner, wrappers - 1)


def _left_by_partial(func: "partial[Any]") -> Takes | None:
    """Return the arguments that a partial's function takes, less those that the partial binds."""
    if _taken_inside(func.func, _WRAPPERS) is None:
        return None
    try:
        return _parameters_of(inspect.signature(func))
    except (TypeError, ValueError):
        return None


def bind_arguments(what: str, func: Function, available: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that ``func`` takes out of those that are ``available``.

    A function with ``**kwargs`` gets them all, unless it decorates another; see ``takes``.

    Parameters
    ----------
    what:
        The function's owner, for messages, such as ``Process 'sum'``.
    func:
        The function.
    available:
        Values by name.

    Raises
    ------
    ArgumentError
        A required argument is not available; names ``what``, the argument and what is available.
    """
    taken = takes(func)
    missing = [name for name in taken.required if name not in taken.names or name not in available]
    if missing:
        raise _missing(what, func, missing, available)
    if taken.everything:
        return dict(available)
    return {key: value for key, value in available.items() if key in taken.names}


@contextmanager
def missing_arguments_named(
    what: str, func: Function, available: Mapping[str, Any]
) -> Iterator[None]:
    """Raise an error that names a missing argument, for a call in the block.

    Raises
    ------
    ArgumentError
        As for ``bind_arguments``; or a decorator supplies an argument that is available, too.
    """
    try:
        yield
    except TypeError as error:
        if isinstance(error, ArgumentError):
            raise
        twice = re.search(r"got multiple values for (?:keyword )?argument '([^']*)'", str(error))
        if twice and twice[1] in available and _is_of_decorated(func, twice[1]):
            raise _given_twice(what, func, twice[1]) from error
        said = re.search(r"missing \d+ required .*arguments?: (.*)", str(error))
        named = re.findall(r"'([^']*)'", said[1]) if said else []
        left = set(takes(func).left_to_decorators) - available.keys()
        missing = [name for name in named if name in left]
        if not missing:
            raise
        raise _missing(what, func, missing, available) from error


def _is_of_decorated(func: Function, name: str) -> bool:
    """Return whether a parameter is one of the decorated function's only."""
    return name in takes(func).names - _parameters_of(_own_signature(func)).names


def _given_twice(what: str, func: Function, name: str) -> ArgumentError:
    return ArgumentError(
        f"{what}: a decorator of its function {getattr(func, '__qualname__', func)!r} supplies "
        f"{name!r}, which context or dependencies gave, too. Rename one of the two, or let the "
        f"decorator supply it only where it is not given."
    )


def _missing(
    what: str, func: Function, missing: list[str], available: Mapping[str, Any]
) -> ArgumentError:
    there = ", ".join(map(repr, sorted(available))) or "nothing"
    if unnamed := [name for name in missing if name in available]:
        return ArgumentError(
            f"{what}: its function {getattr(func, '__qualname__', func)!r} needs "
            f"{', '.join(map(repr, unnamed))}, but by position only, and arguments are given by "
            "name. Leave out the '/' in its signature."
        )
    return ArgumentError(
        f"{what}: its function {getattr(func, '__qualname__', func)!r} needs "
        f"{', '.join(map(repr, missing))}, but context and dependencies gave {there}. Add it "
        "to the context, name the process that returns it as a dependency, or give the "
        "argument a default."
    )


def run_to_end(result: Any) -> Any:
    """Return a function's result with all of its work done.

    An awaitable is awaited, a ``Future`` of ``concurrent.futures`` waited for. A generator, also an
    async one, and the iterators of ``map``, ``filter``, ``zip``, ``enumerate``, ``reversed``,
    ``iter`` with a function, and ``itertools`` become the list of what they yield. So do those that
    a list, a tuple, a named tuple or a dictionary holds, at any depth. Anything else is returned as
    it is.

    Raises
    ------
    FunctionError
        It is a context manager that nobody has entered; or a set, a deque, a dataclass or a kind of
        list or dictionary of one's own holds unfinished work.
    """
    result = _finished(result)
    if not _holds_unfinished(result):
        return result
    kind = type(result)
    if kind in (list, tuple):
        return kind(map(run_to_end, result))
    if isinstance(result, tuple) and hasattr(kind, "_make"):  # a named tuple
        return kind._make(map(run_to_end, result))
    if kind in (dict, OrderedDict):
        return kind((key, run_to_end(each)) for key, each in result.items())
    raise FunctionError(
        f"It returns unfinished work in a {kind.__name__}, such as a generator or a coroutine, and "
        "nothing of that was run. Return it in a list, a tuple or a dictionary, or run it to its "
        "end before (list(…), await)."
    )


def _holds_unfinished(result: Any) -> bool:
    """Return whether a container holds unfinished work, at any depth."""
    seen, left = set[int](), [result]
    while left:
        container = left.pop()
        parts = _parts(container)
        # Most hold nothing but values, which their types say.
        if _VALUES.issuperset(map(type, parts)) or id(container) in seen:
            continue
        seen.add(id(container))
        if any(map(_is_unfinished, parts)):
            return True
        left += parts
    return False


def _parts(value: Any) -> Collection[Any]:
    """Return what a container holds, without running code of its own; of anything else nothing."""
    kind = type(value)
    if kind in _VALUES:
        return ()
    for base in (dict, list, tuple, set, frozenset, deque):
        if kind is base or issubclass(kind, base):
            return dict.values(value) if base is dict else list(base.__iter__(value))
    found: list[Any] = []
    if is_dataclass(kind):
        for each in fields(kind):
            with suppress(AttributeError):
                found.append(object.__getattribute__(value, each.name))
    return found


def _finished(result: Any) -> Any:
    result = _awaited(result)
    if isinstance(result, Future):
        return _finished(result.result())
    if isinstance(result, AsyncGeneratorType):
        return async_to_sync(_await)(_collect(result))
    if isinstance(result, itertools.groupby):  # a group is invalid once the next one is read
        return [(key, list(group)) for key, group in result]
    if isinstance(result, _CONTEXT_MANAGERS):
        raise FunctionError(
            "It returns a context manager (@contextmanager), and nothing of it was run. Leave the "
            "decorator out, or enter it in a function."
        )
    return list(result) if _is_lazy(result) else result


def answer_of(check: str, result: Any) -> Any:
    """Return the answer of a check or a validation; an awaitable is awaited.

    Raises
    ------
    FunctionError
        It is a generator: a list of answers would count as True.
    """
    result = _awaited(result)
    if isinstance(result, AsyncGeneratorType) or _is_lazy(result):
        raise FunctionError(
            f"{check} yields, or returns {type(result).__name__}: nothing of it was run. It must "
            "return its answer."
        )
    return result


def _awaited(result: Any) -> Any:
    # Check the result, not the function, so that a decorated ``async def`` works, too.
    while inspect.isawaitable(result):
        result = async_to_sync(_await)(result)
    return result


async def _await(awaitable: Awaitable[Any]) -> Any:
    with forks.contained():  # in this thread, too: the event loop may wait for other threads
        return await cancellation.stoppable_await(awaitable)


async def _collect(generator: AsyncGenerator[Any, None]) -> list[Any]:
    return [each async for each in generator]


def _is_unfinished(part: Any) -> bool:
    kind = type(part)  # reading its __class__ may run its own code
    return issubclass(kind, (*_UNFINISHED, *_CONTEXT_MANAGERS)) or _is_of_itertools(kind)


def _is_lazy(result: Any) -> bool:
    return isinstance(result, _LAZY) or _is_of_itertools(type(result))


def _is_of_itertools(kind: type) -> bool:
    return kind.__module__ == "itertools" and not issubclass(kind, _ENDLESS)


async def _yields_nothing() -> AsyncGenerator[None, None]:
    return
    yield


_CONTEXT_MANAGERS = (
    type(contextmanager(lambda: iter(()))()),
    type(asynccontextmanager(_yields_nothing)()),
)
