"""What a trigger's configuration says: validated, and its operators. Pure (no Django, no Dagster).

Whether the models, fields and functions that it names exist is not its business: see ``questions``.
"""

import datetime as dt
import functools
import logging
import os
import types
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from ..exceptions import ScheduleError
from .schedule_rules import MAX_INTERVAL, CronRule, IntervalRule, Rule

logger = logging.getLogger(__name__)

CONDITION, SCHEDULE, EVENT = "condition", "schedule", "event"
CUSTOM, OUTDATED_CHECK = "custom", "outdated_check"
TYPES = (CONDITION, SCHEDULE, EVENT, CUSTOM, OUTDATED_CHECK)
"""The types of triggers."""

POLL_SECONDS = 60
"""Seconds between two polls of a trigger that says nothing else."""

MAX_POLL_SECONDS = 24 * 3600
MAX_AGE = 100 * MAX_INTERVAL
"""The highest ``max_age_minutes``: a hundred years."""

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
    except (Exception, SystemExit):  # an attribute's own code may raise anything: it is not there
        logger.exception("The attribute %r can't be read.", part)
        return MISSING
    return MISSING if isinstance(found, _CODE) else found


def look_up(available: Any, field: str, take: Step = step) -> Any:
    """Return what a dotted path leads to; ``MISSING`` if it leads nowhere.

    What a row of the database asks for goes through here (see ``lookups``), so this reads data and
    nothing else: nothing is called, no attribute is read whose name begins with ``_``, and none of
    a module, a class, a function or what they consist of. Keys of dictionaries are data.

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
"""What leads to code: a function knows its module's globals, a generator its frame.

And the environment, which is a mapping: of its variables nobody can say which are secrets.
"""


def equal(one: Any, other: Any) -> bool | None:
    """Say whether two values are the same, as JSON sees it: ``true`` is not ``1``.

    ``None`` if they can't be compared: a text that is no date with a date, a date with a datetime,
    times of which one has a zone. Values of other types can be told apart: ``1`` is not ``"1"``.
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
        if isinstance(one, _TIMES) and isinstance(other, _TIMES) and not _same_kind(one, other):
            return None
        return bool(one == other)
    except (ValueError, TypeError, ArithmeticError):  # a text that is no date; no number at all
        return None


def _all(answers: Iterable[bool | None]) -> bool | None:
    """Say "no" if any answer is that, else nothing if any says nothing; in whatever order."""
    given = list(answers)
    if False in given:
        return False
    return None if None in given else True


def _same_kind(one: Any, other: Any) -> bool:
    """Say whether two dates or times are of one kind: either has a zone, or neither."""
    kinds = [next(kind for kind in _TIMES if isinstance(each, kind)) for each in (one, other)]
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
    """Say whether a list holds a value; ``None`` if it can be compared with no part of it.

    A part that it can't be compared with does not decide for the others.
    """
    answers = [_compared(value, part) for part in parts]
    known = [answer for answer in answers if answer is not None]
    return any(known) if known or not answers else None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return ``compare`` for what has an order: numbers, texts, dates, times; else "no"."""

    def answer(value: Any, expected: Any) -> bool:
        value, expected = _alike(value, expected)
        comparable = any(
            isinstance(value, kind) and isinstance(expected, kind) for kind in _ORDERED
        )
        neither_is_bool = not isinstance(value, bool) and not isinstance(expected, bool)
        return comparable and neither_is_bool and compare(value, expected)

    return answer


_ORDERED: tuple[Any, ...] = ((int, float, Decimal), str, dt.datetime, dt.date, dt.time)
_TIMES = (dt.datetime, dt.date, dt.time)


def _alike(value: Any, expected: Any) -> tuple[Any, Any]:
    """Read a text as a date or a time where it is compared with one."""
    for kind in _TIMES:
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
    "missing": lambda value: False,  # of a value that is there; see ``holds``
    "truthy": bool,
    "falsy": lambda value: not value,
}
"""Operators that ask about a value alone."""

OPERATORS = (*WITH_VALUE, *WITHOUT_VALUE)
_ORDERING = ("gt", "gte", "lt", "lte")


def holds(operator: str, value: Any, expected: Any = None) -> bool:
    """Say whether a comparison holds; what is missing or can't be compared means "no".

    Parameters
    ----------
    operator:
        One of ``OPERATORS``.
    value:
        What was found; ``MISSING`` if nothing was. Only the operator ``missing`` says yes to that.
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
    except (Exception, SystemExit):  # an object's own code may raise anything; that is no "yes"
        logger.exception("A value can't be compared by %r.", operator)
        return False


# Configurations


def is_polled(trigger_type: str, configuration: Any) -> bool:
    """Say whether a trigger can be asked without a run: a condition only if it counts rows."""
    if trigger_type == CONDITION:
        return isinstance(configuration, Mapping) and "model" in configuration
    return trigger_type in (SCHEDULE, CUSTOM, OUTDATED_CHECK)


def poll_seconds(configuration: Any) -> int:
    """Return the seconds between two polls, of a configuration that makes no sense, too."""
    found = configuration.get("poll_seconds") if isinstance(configuration, Mapping) else None
    if isinstance(found, int) and _whole(found, 1, MAX_POLL_SECONDS):
        return found
    return POLL_SECONDS


def schedule_rule(configuration: Mapping[str, Any], default_zone: str) -> Rule:
    """Return the rule of a ``schedule`` trigger.

    Parameters
    ----------
    configuration:
        The trigger's.
    default_zone:
        IANA zone of a configuration that names none.

    Raises
    ------
    ScheduleError
        It makes no sense.
    """
    found = problems(SCHEDULE, configuration)
    if found:
        raise ScheduleError(" ".join(found))
    zone = configuration.get("timezone") or default_zone
    if "cron" in configuration:
        rule: Rule = CronRule(configuration["cron"], zone)
    else:
        start = configuration.get("start_time")
        start_time = None if start is None else dt.time.fromisoformat(start)
        rule = IntervalRule(configuration["interval_minutes"], start_time, zone)
    return rule


def problems(trigger_type: Any, configuration: Any) -> list[str]:
    """Return a sentence for everything that is wrong with a trigger's type and configuration."""
    if trigger_type not in TYPES:
        return [f"A trigger's type must be one of {', '.join(TYPES)}, not {trigger_type!r}."]
    if not isinstance(configuration, Mapping):
        return [f"The configuration must be a dictionary, not {configuration!r}."]
    found = list(_unknown_keys(trigger_type, configuration))
    found += _CHECKS[trigger_type](configuration)
    if "poll_seconds" in configuration and "poll_seconds" in _KEYS[trigger_type]:
        if not is_polled(trigger_type, configuration):
            found.append("poll_seconds: a condition without a model is not polled; leave it out.")
        elif not _whole(configuration["poll_seconds"], 1, MAX_POLL_SECONDS):
            found.append(
                f"poll_seconds must be whole seconds from 1 to {MAX_POLL_SECONDS}, not "
                f"{configuration['poll_seconds']!r}."
            )
    return found


_KEYS: Mapping[str, tuple[str, ...]] = {
    CONDITION: ("field", "model", "filter", "operator", "value", "poll_seconds"),
    SCHEDULE: ("interval_minutes", "cron", "start_time", "timezone", "poll_seconds"),
    EVENT: (),
    CUSTOM: ("function", "poll_seconds"),
    OUTDATED_CHECK: ("model", "date_field", "filter", "max_age_minutes", "poll_seconds"),
}


def _unknown_keys(trigger_type: str, configuration: Mapping[Any, Any]) -> Iterable[str]:
    known = _KEYS[trigger_type]
    for key in configuration:
        if key not in known:
            yield (
                f"The configuration of type {trigger_type!r} has no key {key!r}; "
                f"known: {', '.join(known) or 'none'}."
            )


def _condition(configuration: Mapping[str, Any]) -> Iterable[str]:
    if "model" in configuration:
        yield from _rows(configuration)
        if "field" in configuration:
            yield "Give a field, or a model whose rows are counted; not both."
    else:
        if not _text(configuration.get("field")):
            yield "A condition needs a field such as 'fetch.total', or a model to count rows of."
        if "filter" in configuration:
            yield "filter: it needs a model."
    operator = configuration.get("operator")
    if not isinstance(operator, str) or operator not in OPERATORS:
        yield f"operator must be one of {', '.join(OPERATORS)}, not {operator!r}."
    elif operator in WITHOUT_VALUE:
        if "value" in configuration:
            yield f"The operator {operator!r} takes no value; leave it out."
    elif "value" not in configuration:
        yield f"The operator {operator!r} needs a value to compare with."
    else:
        yield from _expected(operator, configuration["value"], "model" in configuration)


def _expected(operator: str, value: Any, counts: bool) -> Iterable[str]:
    if operator in ("in", "not_in") and not isinstance(value, (list, tuple)):
        yield f"The operator {operator!r} needs a list as its value, not {value!r}."
    elif operator in _ORDERING and counts and not _number(value):
        yield f"Rows are counted: the value must be a number, not {value!r}."
    elif operator in _ORDERING and not (_number(value) or isinstance(value, (str, *_TIMES, dict))):
        yield f"The operator {operator!r} needs a number, a text or a date, not {value!r}."
    elif operator in ("starts_with", "ends_with") and not isinstance(value, str):
        yield f"The operator {operator!r} needs a text as its value, not {value!r}."


def _schedule(configuration: Mapping[str, Any]) -> Iterable[str]:
    interval, cron = configuration.get("interval_minutes"), configuration.get("cron")
    if ("interval_minutes" in configuration) == ("cron" in configuration):
        yield "Give interval_minutes (from 1 minute to a year) or a cron, and one of them only."
    if "interval_minutes" in configuration and not _whole(interval, 1, MAX_INTERVAL):
        yield f"interval_minutes must be whole minutes from 1 to {MAX_INTERVAL}, not {interval!r}."
    if "cron" in configuration:
        yield from _cron(cron)
        if "start_time" in configuration:
            yield "start_time: a cron says its own times; leave it out."
    start = configuration.get("start_time", "00:00")
    try:
        good = isinstance(start, str) and dt.time.fromisoformat(start).tzinfo is None
    except ValueError:
        good = False
    if not good:
        yield f"start_time must be a time such as '09:00', without a zone, not {start!r}."
    elif dt.time.fromisoformat(start).replace(hour=0, minute=0) != dt.time():
        yield f"start_time goes by the minute, such as '09:00'; leave out the seconds of {start!r}."
    zone = configuration.get("timezone", "UTC")
    try:
        if not isinstance(zone, str):
            raise ScheduleError(f"timezone must be a text, not {zone!r}.")
        IntervalRule(1, dt.time(), zone or "UTC").zone  # noqa: B018  # it looks the zone up
    except ScheduleError as error:
        yield str(error)


def _cron(cron: Any) -> Iterable[str]:
    if not isinstance(cron, str):
        yield f"cron must be a text such as '0 9 * * 1-5', not {cron!r}."
        return
    try:
        CronRule(cron, "UTC")
    except ScheduleError as error:
        yield str(error)


def _event(configuration: Mapping[str, Any]) -> Iterable[str]:
    return ()


def _custom(configuration: Mapping[str, Any]) -> Iterable[str]:
    if not _text(configuration.get("function")):
        yield "A custom trigger needs a function: a registered key, or 'module:qualname'."


def _outdated_check(configuration: Mapping[str, Any]) -> Iterable[str]:
    yield from _rows(configuration)
    if not _text(configuration.get("date_field")):
        yield "date_field must name a date field of the model, such as 'updated_at'."
    age = configuration.get("max_age_minutes")
    # No Decimal: to compare one that is no number raises.
    good = isinstance(age, (int, float)) and not isinstance(age, bool) and 0 < age <= MAX_AGE
    if not good:
        yield f"max_age_minutes must be minutes above 0, at most {MAX_AGE}, not {age!r}."


def _rows(configuration: Mapping[str, Any]) -> Iterable[str]:
    model = configuration.get("model")
    if not isinstance(model, str) or not all(_text(part) for part in _pair(model)):
        yield f"model must be written as 'app.Model', such as 'ledger.Journal', not {model!r}."
    chosen = configuration.get("filter", {})
    if not isinstance(chosen, Mapping) or not all(isinstance(key, str) for key in chosen):
        yield f"filter must be a dictionary of field lookups, such as {{'paid': False}}: {chosen!r}"


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[str]]] = {
    CONDITION: _condition,
    SCHEDULE: _schedule,
    EVENT: _event,
    CUSTOM: _custom,
    OUTDATED_CHECK: _outdated_check,
}


def _pair(label: str) -> tuple[str, str]:
    app, _, name = label.partition(".")
    return app, "" if "." in name else name


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
