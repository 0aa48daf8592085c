"""The operators of conditions, and the look-up of a dotted path in a process's arguments."""

import datetime as dt
import functools
import logging
import os
import types
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

logger = logging.getLogger(__name__)

MISSING: Any = object()
"""The value of a field that is not there."""


# Values


Step = Callable[[Any, str], Any]
"""Takes a value and one part of a path; returns what that leads to, or ``MISSING``."""


def step(
    value: Any, part: str, hides: Callable[[Any, str], bool] = lambda owner, name: False
) -> Any:
    """Return what one part of a path leads to; see ``look_up``.

    Parameters
    ----------
    value, part:
        Where it starts, and the part.
    hides:
        Takes an object and the name of an attribute; returns whether it may not be read.
    """
    if isinstance(value, Mapping):
        return MISSING if isinstance(value, _CODE) else value.get(part, MISSING)
    if isinstance(value, (list, tuple)) and part not in getattr(value, "_fields", ()):
        is_position = part.isdecimal() and len(part) < 10
        return value[int(part)] if is_position and int(part) < len(value) else MISSING
    if part.startswith("_") or isinstance(value, _CODE) or hides(value, part):
        return MISSING
    try:
        found = getattr(value, part, MISSING)
    except (Exception, SystemExit):  # a property may raise anything; it counts as missing
        logger.exception("The attribute %r can't be read.", part)
        return MISSING
    return MISSING if isinstance(found, _CODE) else found


def look_up(available: Any, field: str, take: Step = step) -> Any:
    """Return what a dotted path leads to; ``MISSING`` if it leads nowhere.

    Rows of the database use it (see ``lookups``), so it reads data and nothing else: it calls
    nothing, and reads no attribute whose name begins with ``_`` and none of a module, a class, a
    function or their parts. Keys of dictionaries are data.

    Parameters
    ----------
    available:
        A dictionary, such as a context with results.
    field:
        Keys, positions in lists and attributes, parted by dots: ``fetch.lines.0.total``. A key that
        holds dots itself is found, too.
    take:
        Takes each step.
    """
    if isinstance(available, Mapping) and field in available:
        return available[field]
    return follow(available, field.split("."), take)


def follow(value: Any, parts: Iterable[str], take: Step) -> Any:
    """Return what the parts of a path lead to, one after the other; see ``look_up``."""
    for part in parts:
        value = take(value, part)
        if value is MISSING:
            break
    return value


_CODE = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(types.MethodWrapperType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    *(types.FrameType, types.CodeType, types.TracebackType, functools.partial),
    type(os.environ),
)
"""What leads to code: a function refers to its module's globals, a generator to its frame.

The environment, too: nobody can say which of its variables are secrets.
"""


def equal(one: Any, other: Any) -> bool | None:
    """Return whether two values are equal as JSON: ``true`` is not ``1``.

    ``None`` if they can't be compared: a text that is no date with a date, a date with a datetime,
    times of which one has a zone. Values of other types differ: ``1`` is not ``"1"``.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return False
        return _all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and _all(map(equal, one, other))
    try:
        one, other = _alike(one, other)
        if isinstance(one, TIMES) and isinstance(other, TIMES) and not _same_kind(one, other):
            return None
        return bool(one == other)
    except (ValueError, TypeError, ArithmeticError):  # a text that is no date; NaN
        return None


def _all(answers: Iterable[bool | None]) -> bool | None:
    """Return False if any answer is False, else ``None`` if any is ``None``, else True."""
    given = list(answers)
    if False in given:
        return False
    return None if None in given else True


def _same_kind(one: Any, other: Any) -> bool:
    """Return whether both of two dates or times have a zone, or neither."""
    kinds = [next(kind for kind in TIMES if isinstance(each, kind)) for each in (one, other)]
    if kinds[0] is not kinds[1]:
        return False
    return kinds[0] is dt.date or (one.utcoffset() is None) is (other.utcoffset() is None)


def _compared(one: Any, other: Any) -> bool | None:
    try:
        return equal(one, other)
    except Exception:  # an object's own code may raise anything; then it can't be compared
        logger.exception("A value can't be compared with another.")
        return None


def _is_among(value: Any, parts: Iterable[Any]) -> bool | None:
    """Return whether a list holds a value; ``None`` if it can be compared with no part of it.

    A part that can't be compared is left out of account.
    """
    answers = [_compared(value, part) for part in parts]
    known = [answer for answer in answers if answer is not None]
    return any(known) if known or not answers else None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return ``compare`` limited to ordered types (numbers, texts, dates, times); else False."""

    def answer(value: Any, expected: Any) -> bool:
        value, expected = _alike(value, expected)
        comparable = any(
            isinstance(value, kind) and isinstance(expected, kind) for kind in _ORDERED
        )
        neither_is_bool = not isinstance(value, bool) and not isinstance(expected, bool)
        return comparable and neither_is_bool and compare(value, expected)

    return answer


_ORDERED: tuple[Any, ...] = ((int, float, Decimal), str, dt.datetime, dt.date, dt.time)
TIMES = (dt.datetime, dt.date, dt.time)


def _alike(value: Any, expected: Any) -> tuple[Any, Any]:
    """Read a text as a date or a time where it is compared with one, and JSON's 0.1 as written."""
    if isinstance(value, Decimal) and type(expected) is float:
        return value, Decimal(str(expected))
    if isinstance(expected, Decimal) and type(value) is float:
        return Decimal(str(value)), expected
    for kind in TIMES:
        if type(value) is kind and isinstance(expected, str):
            return value, kind.fromisoformat(expected)
        if type(expected) is kind and isinstance(value, str):
            return kind.fromisoformat(value), expected
    return value, expected


def _contains(value: Any, expected: Any) -> bool | None:
    if isinstance(value, (str, Mapping)):
        return expected in value if isinstance(expected, str) else None
    return _is_in(expected, value)


def _is_in(value: Any, expected: Any) -> bool | None:
    return _is_among(value, expected) if isinstance(expected, (list, tuple)) else None


def _begins(value: Any, expected: Any) -> bool:
    return isinstance(value, str) and isinstance(expected, str) and value.startswith(expected)


def _ends(value: Any, expected: Any) -> bool:
    return isinstance(value, str) and isinstance(expected, str) and value.endswith(expected)


WITH_VALUE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, expected: equal(value, expected) is True,
    "ne": lambda value, expected: equal(value, expected) is False,
    "gt": _ordered(lambda value, expected: bool(value > expected)),
    "gte": _ordered(lambda value, expected: bool(value >= expected)),
    "lt": _ordered(lambda value, expected: bool(value < expected)),
    "lte": _ordered(lambda value, expected: bool(value <= expected)),
    "in": lambda value, expected: _is_in(value, expected) is True,
    "not_in": lambda value, expected: _is_in(value, expected) is False,
    "contains": lambda value, expected: _contains(value, expected) is True,
    "not_contains": lambda value, expected: _contains(value, expected) is False,
    "starts_with": _begins,
    "ends_with": _ends,
}
"""Operators that compare with a value."""

WITHOUT_VALUE: Mapping[str, Callable[[Any], bool]] = {
    "exists": lambda value: True,
    "missing": lambda value: False,  # the value is never MISSING here; see ``holds``
    "truthy": bool,
    "falsy": lambda value: not value,
}
"""Operators that ask about a value alone."""

OPERATORS = (*WITH_VALUE, *WITHOUT_VALUE)
ORDERING = ("gt", "gte", "lt", "lte")


def holds(operator: str, value: Any, expected: Any = None) -> bool:
    """Return whether a comparison holds: False if the value is missing or can't be compared.

    Parameters
    ----------
    operator:
        One of ``OPERATORS``.
    value:
        What was found; ``MISSING`` if nothing was, for which only the operator ``missing`` holds.
    expected:
        What it is compared with.
    """
    if value is MISSING:
        return operator == "missing"
    try:
        if operator in WITHOUT_VALUE:
            return bool(WITHOUT_VALUE[operator](value))
        return WITH_VALUE[operator](value, expected)
    except (ValueError, TypeError, ArithmeticError):  # a text that is no date, a zone on one side
        return False
    except (Exception, SystemExit):  # an object's own code may raise anything
        logger.exception("A value can't be compared by %r.", operator)
        return False
