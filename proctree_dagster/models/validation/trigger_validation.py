"""Validation of a trigger's type and configuration, and of the models and functions that it names.

``domain.trigger_configurations`` validates what needs no Django.
"""

from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.core.exceptions import EmptyResultSet, FieldError, ValidationError
from django.db import NotSupportedError, models

from ... import context as contexts
from ... import functions
from ...context import references, sensitive
from ...domain import trigger_configurations
from ...exceptions import ContextError, FunctionError

_UNUSABLE = (
    *(FieldError, ValidationError, ValueError, TypeError, LookupError),
    *(NotSupportedError, OverflowError),
)
"""What Django raises for an invalid model, field or filter, or one that this database lacks."""


def problems(trigger_type: Any, configuration: Any) -> list[str]:
    """Return a sentence for each problem of a trigger's type and configuration.

    That includes a model, a field, a filter or a function that does not exist or is not allowed.
    Nothing is imported that the allow-list refuses (see ``functions.resolve``).
    """
    found = trigger_configurations.problems(trigger_type, configuration)
    if trigger_type not in trigger_configurations.TYPES or not isinstance(configuration, Mapping):
        return found
    try:
        decoded = contexts.decode(contexts.encode(configuration))
    except ContextError as error:
        return [*found, f"The configuration can't be stored: {error}"]
    if names := sorted(set(references.names_in(configuration))):
        return [*found, f"A trigger can't refer to a secret: it refers to {names[0]!r}."]
    if trigger_type == trigger_configurations.CUSTOM and isinstance(decoded.get("function"), str):
        try:
            functions.resolve(decoded["function"])
        except FunctionError as error:
            found.append(str(error))
    if isinstance(decoded.get("model"), str) and decoded["model"].count(".") == 1:
        found += row_problems(decoded)
    return found


def row_problems(configuration: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each problem of a model, its filter and its date field."""
    try:
        model = apps.get_model(configuration["model"])
    except _UNUSABLE as error:
        return [f"There is no model {configuration['model']!r}: {error}"]
    found = refusals(model, configuration)
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
            require_date(model, field)
        except _UNUSABLE as error:
            found.append(f"date_field: {_text(error)}")
    return found


def refusals(model: type[models.Model], configuration: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each look-up on a model's rows that no trigger may use."""
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


def require_date(model: type[models.Model], field: str) -> None:
    """Refuse a field that is no date; it may follow relations (``invoice__sent_at``).

    Raises
    ------
    FieldError
        There is no such field, or it is no date.
    """
    query = model._default_manager.annotate(_newest=models.Max(field)).query
    kind = query.annotations["_newest"].output_field
    if not isinstance(kind, models.DateField):  # a DateTimeField is one, too
        raise FieldError(f"{field!r} of {model._meta.label} is no date, but {type(kind).__name__}.")
