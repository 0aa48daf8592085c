"""Evaluating a trigger: by the database, a function, or a process's arguments."""

import datetime as dt
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connections, models, transaction
from django.utils import timezone

from .. import context as contexts
from .. import functions
from ..context import lookups, sensitive
from ..domain import operators, trigger_configurations
from ..exceptions import TriggerError
from ..models.validation.trigger_validation import refusals


@dataclass(frozen=True)
class Answer:
    """The outcome of evaluating a trigger."""

    yes: bool
    reason: str
    """The finding, for people to read."""


def ask(
    trigger_type: str,
    configuration: Mapping[str, Any],
    available: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> Answer:
    """Evaluate a ``condition``, ``custom`` or ``outdated_check`` trigger.

    Parameters
    ----------
    trigger_type, configuration:
        The trigger's.
    available:
        The context, and the results of the dependencies, if a process waits for the answer.
    context:
        The context alone, for a function that takes it as ``context``.

    Raises
    ------
    TriggerError
        The configuration is invalid; names every problem of it.
    FunctionError
        The function can't be found, or is not allowed.
    Exception
        Whatever the function or the database raises.
    """
    found = trigger_configurations.problems(trigger_type, configuration)
    if found:
        raise TriggerError(" ".join(found))
    decoded = contexts.decode(configuration)
    if trigger_type == trigger_configurations.CUSTOM:
        return _custom(decoded, available, context)
    return _ASK[trigger_type](decoded, available)


def _condition(configuration: Mapping[str, Any], available: Mapping[str, Any]) -> Answer:
    operator, expected = configuration["operator"], configuration.get("value")
    if "model" in configuration:
        what = f"rows of {configuration['model']}"
        rows = rows_of(configuration)
        with _unharmed(rows.db):
            value: Any = rows.count()
    else:
        what = configuration["field"]
        value = lookups.look_up(available, what)
    yes = operators.holds(operator, value, expected)
    question = (
        f"{operator} {sensitive.shortened(expected, 100)}" if "value" in configuration else operator
    )
    shown = "missing" if value is operators.MISSING else sensitive.shortened(value, 100)
    return Answer(yes, f"{what}: {shown}; asked: {question}")


def _custom(
    configuration: Mapping[str, Any],
    available: Mapping[str, Any],
    context: Mapping[str, Any] | None,
) -> Answer:
    from ..process.run import call_with  # it imports all that runs processes

    reference = configuration["function"]
    yes = bool(call_with("The trigger", functions.resolve(reference), available, context))
    return Answer(yes, f"{reference} says {'yes' if yes else 'no'}")


def _outdated_check(configuration: Mapping[str, Any], available: Mapping[str, Any]) -> Answer:
    label, field = configuration["model"], configuration["date_field"]
    age = configuration["max_age_minutes"]
    rows = rows_of(configuration)
    with _unharmed(rows.db):
        newest = rows.aggregate(newest=models.Max(field))["newest"]
    if newest is None:
        return Answer(True, f"{label} has no {field}")
    if not isinstance(newest, dt.datetime):  # a date counts as its midnight
        newest = timezone.make_aware(dt.datetime.combine(newest, dt.time()))
    old = timezone.now() - newest > dt.timedelta(minutes=float(age))
    return Answer(
        old, f"the newest of {label} is of {newest:%Y-%m-%d %H:%M %Z}; it may be {age} minutes old"
    )


_ASK = {
    trigger_configurations.CONDITION: _condition,
    trigger_configurations.OUTDATED_CHECK: _outdated_check,
}


def rows_of(configuration: Mapping[str, Any]) -> models.QuerySet[Any]:
    """Return the rows of a model and a filter, decoded, if they are allowed.

    Raises
    ------
    TriggerError
        They are not: the row bypassed ``problems``, or the settings have changed since.
    """
    model: type[models.Model] = apps.get_model(configuration["model"])
    found = refusals(model, configuration)
    if found:
        raise TriggerError(" ".join(found))
    chosen = configuration.get("filter", {})
    rows = model._default_manager.filter(**chosen)
    for path in filter(None, (sensitive.json_read_as_text(model, lookup) for lookup in chosen)):
        rows = rows.exclude(_holds_a_dictionary(path))
    return rows


def _holds_a_dictionary(path: str) -> models.Q:
    """Return a condition for rows whose JSON has a dictionary there, or a list with one in it.

    A comparison with its text would reveal its content, secrets included.
    """
    in_list = {f"{path}__startswith": "[", f"{path}__icontains": "{"}
    return models.Q(**{f"{path}__startswith": "{"}) | models.Q(**in_list)


def _unharmed(alias: str) -> AbstractContextManager[Any]:
    """Keep the caller's transaction usable, if there is one, when the database rejects a query.

    Some filters fail only when they run, such as an invalid regular expression.
    """
    if connections[alias].in_atomic_block:
        return transaction.atomic(using=alias)
    return nullcontext()  # on SQLite a savepoint might wait for other writers
