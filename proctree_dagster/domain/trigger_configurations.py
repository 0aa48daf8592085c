"""The configurations of triggers: their meaning and their validation.

Whether the models, fields and functions that it names exist is checked by ``models.validation``.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from ..exceptions import ScheduleError
from .operators import OPERATORS, ORDERING, TIMES, WITHOUT_VALUE
from .predicates import is_number, is_text, is_whole
from .schedule_rules import MAX_INTERVAL, CronRule, IntervalRule, Rule

CONDITION, SCHEDULE, EVENT = "condition", "schedule", "event"
CUSTOM, OUTDATED_CHECK = "custom", "outdated_check"
TYPES = (CONDITION, SCHEDULE, EVENT, CUSTOM, OUTDATED_CHECK)
"""The types of triggers."""

POLL_SECONDS = 60
"""Default seconds between two polls of a trigger."""

MAX_POLL_SECONDS = 24 * 3600
MAX_AGE = 100 * MAX_INTERVAL
"""The highest ``max_age_minutes``: a hundred years."""


# Configurations


def is_polled(trigger_type: str, configuration: Any) -> bool:
    """Return whether a trigger can be polled: of conditions, only those that count rows."""
    if trigger_type == CONDITION:
        return isinstance(configuration, Mapping) and "model" in configuration
    return trigger_type in (SCHEDULE, CUSTOM, OUTDATED_CHECK)


def poll_seconds(configuration: Any) -> int:
    """Return the seconds between two polls; the default if the configuration is invalid."""
    found = configuration.get("poll_seconds") if isinstance(configuration, Mapping) else None
    if isinstance(found, int) and is_whole(found, 1, MAX_POLL_SECONDS):
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
        The configuration is invalid.
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
        elif not is_whole(configuration["poll_seconds"], 1, MAX_POLL_SECONDS):
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
        if not is_text(configuration.get("field")):
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
    elif operator in ORDERING and counts and not _is_number(value):
        yield f"Rows are counted: the value must be a number, not {value!r}."
    elif operator in ORDERING and not (_is_number(value) or isinstance(value, (str, *TIMES, dict))):
        yield f"The operator {operator!r} needs a number, a text or a date, not {value!r}."
    elif operator in ("starts_with", "ends_with") and not isinstance(value, str):
        yield f"The operator {operator!r} needs a text as its value, not {value!r}."


def _schedule(configuration: Mapping[str, Any]) -> Iterable[str]:
    interval, cron = configuration.get("interval_minutes"), configuration.get("cron")
    if ("interval_minutes" in configuration) == ("cron" in configuration):
        yield "Give interval_minutes (from 1 minute to a year) or a cron, and one of them only."
    if "interval_minutes" in configuration and not is_whole(interval, 1, MAX_INTERVAL):
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
        IntervalRule(1, dt.time(), zone or "UTC").zone  # noqa: B018  # raises if the zone is unknown
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
    if not is_text(configuration.get("function")):
        yield "A custom trigger needs a function: a registered key, or 'module:qualname'."


def _outdated_check(configuration: Mapping[str, Any]) -> Iterable[str]:
    yield from _rows(configuration)
    if not is_text(configuration.get("date_field")):
        yield "date_field must name a date field of the model, such as 'updated_at'."
    age = configuration.get("max_age_minutes")
    # No Decimal: to compare one that is no number raises.
    good = is_number(age, 0, MAX_AGE) and age != 0
    if not good:
        yield f"max_age_minutes must be minutes above 0, at most {MAX_AGE}, not {age!r}."


def _rows(configuration: Mapping[str, Any]) -> Iterable[str]:
    model = configuration.get("model")
    if not isinstance(model, str) or not all(is_text(part) for part in _pair(model)):
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


def _is_number(value: Any) -> bool:
    return is_number(value) or isinstance(value, Decimal)


def _pair(label: str) -> tuple[str, str]:
    app, _, name = label.partition(".")
    return app, "" if "." in name else name
