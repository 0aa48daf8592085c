"""What a trigger asks of the database, of a function, or of what a process is given.

``conditions`` says what a configuration means; here is what needs Django.
"""

import datetime as dt
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.core.exceptions import EmptyResultSet, FieldError, ValidationError
from django.db import NotSupportedError, connections, models, transaction
from django.utils import timezone

from ... import context as contexts
from ... import functions
from ...context import lookups, sensitive
from ...domain import operators
from ...domain.texts import storable
from ...exceptions import ContextError, FunctionError, TriggerError

_UNUSABLE = (
    *(FieldError, ValidationError, ValueError, TypeError, LookupError),
    *(NotSupportedError, OverflowError),
)
"""What Django raises when a model, a field or a filter makes no sense, or not on this database."""


@dataclass(frozen=True)
class Answer:
    """What a trigger's question came to."""

    yes: bool
    reason: str
    """What was found, for people to read."""


def problems(trigger_type: Any, configuration: Any) -> list[str]:
    """Return a sentence for everything that is wrong with a trigger's type and configuration.

    A model, a field, a filter or a function that does not exist, or is not allowed, included.
    Nothing is imported that the allow-list refuses (see ``functions.resolve``).
    """
    found = operators.problems(trigger_type, configuration)
    if trigger_type not in operators.TYPES or not isinstance(configuration, Mapping):
        return found
    try:
        decoded = contexts.decode(contexts.encode(configuration))
    except ContextError as error:
        return [*found, f"The configuration can't be stored: {error}"]
    if trigger_type == operators.CUSTOM and isinstance(decoded.get("function"), str):
        try:
            functions.resolve(decoded["function"])
        except FunctionError as error:
            found.append(str(error))
    if isinstance(decoded.get("model"), str) and decoded["model"].count(".") == 1:
        found += _row_problems(decoded)
    return found


def _row_problems(configuration: Mapping[str, Any]) -> list[str]:
    try:
        model = apps.get_model(configuration["model"])
    except _UNUSABLE as error:
        return [f"There is no model {configuration['model']!r}: {error}"]
    found = _refused(model, configuration)
    if found:
        return found
    chosen = configuration.get("filter", {})
    if isinstance(chosen, Mapping):
        try:
            str(model._default_manager.filter(**chosen).query)
        except EmptyResultSet:
            pass  # a filter that finds nothing, such as an empty list, is one
        except _UNUSABLE as error:
            found.append(f"filter: it can't be used on {model._meta.label}: {_text(error)}")
    field = configuration.get("date_field")
    if isinstance(field, str) and field.strip():
        try:
            _require_date(model, field)
        except _UNUSABLE as error:
            found.append(f"date_field: {_text(error)}")
    return found


def _refused(model: type[models.Model], configuration: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything that no trigger may ask of a model's rows."""
    problem = sensitive.problem_of_model(model, "TRIGGER_MODELS")
    if problem is not None:
        return [problem]
    chosen = configuration.get("filter", {})
    lookups = dict(chosen) if isinstance(chosen, Mapping) else {}
    found = [_refused_lookup(model, lookup, value) for lookup, value in lookups.items()]
    field = configuration.get("date_field")
    if isinstance(field, str):
        found.append(_refused_lookup(model, field, None))
    return [each for each in found if each is not None]


def _refused_lookup(model: type[models.Model], lookup: Any, value: Any) -> str | None:
    if not isinstance(lookup, str):
        return None  # which ``conditions`` refuses
    secrets = sorted(key for key in _keys(value) if sensitive.is_sensitive_name(key))
    if secrets:
        return f"{lookup!r} asks for {secrets[0]!r}, which holds a secret: no trigger may read it."
    return sensitive.problem_of_lookup(model, lookup)


def _keys(value: Any) -> set[str]:
    """Return the keys of a JSON value, nested ones included."""
    if isinstance(value, Mapping):
        return set(map(str, value)).union(*map(_keys, value.values()))
    if isinstance(value, (list, tuple)):
        return set[str]().union(*map(_keys, value))
    return set()


def _text(error: Exception) -> str:
    return " ".join(error.messages) if isinstance(error, ValidationError) else str(error)


def ask(
    trigger_type: str,
    configuration: Mapping[str, Any],
    available: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> Answer:
    """Ask what a ``condition``, ``custom`` or ``outdated_check`` trigger asks.

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
        The configuration makes no sense; names everything that is wrong with it.
    FunctionError
        The function can't be found, or is not allowed.
    Exception
        Whatever the function or the database raises.
    """
    found = operators.problems(trigger_type, configuration)
    if found:
        raise TriggerError(" ".join(found))
    decoded = contexts.decode(configuration)
    if trigger_type == operators.CUSTOM:
        return _custom(decoded, available, context)
    return _ASK[trigger_type](decoded, available)


def _condition(configuration: Mapping[str, Any], available: Mapping[str, Any]) -> Answer:
    operator, expected = configuration["operator"], configuration.get("value")
    if "model" in configuration:
        what = f"rows of {configuration['model']}"
        rows = _rows(configuration)
        with _unharmed(rows.db):
            value: Any = rows.count()
    else:
        what = configuration["field"]
        value = lookups.look_up(available, what)
    yes = operators.holds(operator, value, expected)
    question = f"{operator} {_short(expected)}" if "value" in configuration else operator
    shown = "missing" if value is operators.MISSING else _short(value)
    return Answer(yes, f"{what}: {shown}; asked: {question}")


def _custom(
    configuration: Mapping[str, Any],
    available: Mapping[str, Any],
    context: Mapping[str, Any] | None,
) -> Answer:
    from ...process.run import call_with  # all that runs processes; every command loads the models

    reference = configuration["function"]
    yes = bool(call_with("The trigger", functions.resolve(reference), available, context))
    return Answer(yes, f"{reference} says {'yes' if yes else 'no'}")


def _outdated_check(configuration: Mapping[str, Any], available: Mapping[str, Any]) -> Answer:
    label, field = configuration["model"], configuration["date_field"]
    age = configuration["max_age_minutes"]
    rows = _rows(configuration)
    with _unharmed(rows.db):
        newest = rows.aggregate(newest=models.Max(field))["newest"]
    if newest is None:
        return Answer(True, f"{label} has no {field}")
    if not isinstance(newest, dt.datetime):  # a day counts from its beginning
        newest = timezone.make_aware(dt.datetime.combine(newest, dt.time()))
    old = timezone.now() - newest > dt.timedelta(minutes=float(age))
    return Answer(
        old, f"the newest of {label} is of {newest:%Y-%m-%d %H:%M %Z}; it may be {age} minutes old"
    )


_ASK = {
    operators.CONDITION: _condition,
    operators.OUTDATED_CHECK: _outdated_check,
}


def _rows(configuration: Mapping[str, Any]) -> models.QuerySet[Any]:
    """Return the rows that a trigger asks about, if it may.

    Raises
    ------
    TriggerError
        It may not: the row was written past ``problems``, or the settings have changed since.
    """
    model: type[models.Model] = apps.get_model(configuration["model"])
    found = _refused(model, configuration)
    if found:
        raise TriggerError(" ".join(found))
    chosen = configuration.get("filter", {})
    rows = model._default_manager.filter(**chosen)
    for path in filter(None, (sensitive.json_read_as_text(model, lookup) for lookup in chosen)):
        rows = rows.exclude(_holds_a_dictionary(path))
    return rows


def _holds_a_dictionary(path: str) -> models.Q:
    """Return what is true of rows whose JSON has a dictionary there, or a list with one in it.

    As text it would tell what is in it, secrets included.
    """
    in_list = {f"{path}__startswith": "[", f"{path}__icontains": "{"}
    return models.Q(**{f"{path}__startswith": "{"}) | models.Q(**in_list)


def _unharmed(alias: str) -> AbstractContextManager[Any]:
    """Keep the caller's transaction usable, if there is one, though the database refuses a query.

    What a filter says may be refused only when it runs, such as a regular expression.
    """
    if connections[alias].in_atomic_block:
        return transaction.atomic(using=alias)
    return nullcontext()  # on SQLite a transaction of its own might wait for those who write


def _require_date(model: type[models.Model], field: str) -> None:
    """Refuse what is no date; ``field`` may follow relations (``invoice__sent_at``).

    Raises
    ------
    FieldError
        There is no such field, or it is no date.
    """
    query = model._default_manager.annotate(_newest=models.Max(field)).query
    kind = query.annotations["_newest"].output_field
    if not isinstance(kind, models.DateField):  # a DateTimeField is one, too
        raise FieldError(f"{field!r} of {model._meta.label} is no date, but {type(kind).__name__}.")


def _short(value: Any) -> str:
    try:
        text = storable(sensitive.shown(value))
    except Exception:  # noqa: BLE001  # an object's own code may raise anything; it is only shown
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:99]}…"
