"""Validation of the ``for_each`` of a schedule: the model, fields or function that it names."""

from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldError
from django.db import models

from ... import context as contexts
from ... import functions
from ...context import references, sensitive
from ...domain import for_each as rules
from ...exceptions import ContextError, FunctionError, ScheduleError
from . import trigger_validation


def problems(for_each: Any, order_by: str = "") -> list[str]:
    """Return a sentence for each problem of a ``for_each``; ``{}`` is none.

    That includes a model, a field, a filter or a function that does not exist or is not allowed.
    """
    found = rules.problems(for_each)
    if found or not for_each:
        return found
    if "function" in for_each:
        try:
            functions.resolve(for_each["function"])
        except FunctionError as error:
            found.append(f"for_each: {error}")
        if order_by:
            found.append("order_by: a function gives its own order.")
        return found
    try:
        decoded = contexts.decode(contexts.encode(for_each))
    except ContextError as error:
        return [f"for_each can't be stored: {error}"]
    if names := sorted(set(references.names_in(for_each))):
        return [f"for_each can't refer to a secret: it refers to {names[0]!r}."]
    found = [f"for_each: {each}" for each in trigger_validation.row_problems(decoded)]
    if found:
        return found
    model = apps.get_model(for_each["model"])
    problem = sensitive.problem_of_model(model, "CONTEXT_MODELS")
    if problem is not None:
        found.append(f"for_each: {problem}")
    return [*found, *_problems_of_order(model, order_by)]


def _problems_of_order(model: type[models.Model], order_by: str) -> list[str]:
    found = []
    for field in rules.order(order_by):
        path = field.removeprefix("-")
        problem = sensitive.problem_of_lookup(model, path)
        if problem is None:
            try:
                str(model._default_manager.order_by(field).query)
            except FieldError as error:
                problem = str(error)
        if problem is not None:
            found.append(f"order_by: {problem}")
    return found


def normal(given: Any) -> dict[str, Any]:
    """Return a ``for_each`` as it is saved, from what ``register_schedule`` takes.

    Parameters
    ----------
    given:
        A model (``"app.Model"``, or the class); a function (its reference, or itself); a dictionary
        with ``model`` and ``filter``, as a trigger's, or with ``function``; blank for none.

    Raises
    ------
    ScheduleError
        It is none of these.
    """
    if isinstance(given, (models.QuerySet, models.Manager)):
        raise ScheduleError(
            "for_each can't be a queryset, as it is saved and read again at each due time: write "
            "{'model': 'app.Model', 'filter': {…}}, or the name of a function that yields contexts."
        )
    if not given:
        return {}
    if isinstance(given, Mapping):
        return contexts.encode({**given, **_named_model(given.get("model"))})
    if isinstance(given, str):
        return {"model": given} if _is_model(given) else {"function": given}
    if isinstance(given, type) and issubclass(given, models.Model):
        return {"model": given._meta.label}
    if callable(given):
        try:
            return {"function": functions.reference_to(given)}
        except FunctionError as error:
            raise ScheduleError(f"for_each: {error}") from error
    raise ScheduleError(f"for_each is a model, a function or a dictionary, not {given!r:.100}.")


def _named_model(model: Any) -> dict[str, str]:
    is_class = isinstance(model, type) and issubclass(model, models.Model)
    return {"model": model._meta.label} if is_class else {}


def _is_model(text: str) -> bool:
    """Return whether a text means a model: one that there is, or else what looks like one."""
    if ":" in text or text.count(".") != 1:
        return False
    try:
        apps.get_model(text)
    except (LookupError, ValueError):
        return text not in functions.registered()
    return True


def default_name(for_each: Mapping[str, Any]) -> str:
    """Return the key of the context that holds the row, where none is given; blank if unknown."""
    model = for_each.get("model")
    return model.partition(".")[2].lower() if isinstance(model, str) else ""
