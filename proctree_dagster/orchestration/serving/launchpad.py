"""A tree's context in the Launchpad: keys, types, descriptions, and which are required.

A host validates typed config against the job's snapshot, marks errors, and refuses to launch it.
The run itself is not validated again: its keys may come from a trigger, another tree, or the code
before the last deploy, and each function takes the keys that it names.
"""

import datetime as dt
import enum
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

import dagster
from dagster import ConfigMapping, Field, Noneable, Permissive, ScalarUnion, Selector, Shape
from django.db.models import Model

from ... import context as contexts
from ...domain.texts import storable
from ...models.context_schema import UNSAID, ContextKey, ContextSchema, accepts, members
from ..execution.tree_run import RUN_RESOURCE

DESCRIPTION = "The keyword arguments of the run."

_EXECUTION = Field(
    # Dagster checks it with the rest; an exact type would be prefilled.
    Noneable(Permissive()),
    is_required=False,
    description="The configuration of the executor.",
)

_ANYTHING = Shape({"context": Field(Permissive(), is_required=False), "execution": _EXECUTION})
"""The configuration of a run that is executed."""

_TYPES: Mapping[type, Any] = {
    str: ScalarUnion(dagster.String, Shape({"$secret": dagster.String})),
    bool: dagster.Bool,
    float: dagster.Float,
    int: ScalarUnion(dagster.Int, Shape({"$int": dagster.String})),
    Decimal: ScalarUnion(dagster.Int, Shape({"$decimal": dagster.String})),
    dt.date: Selector({"$date": dagster.String, "$datetime": dagster.String}),
    dt.datetime: Shape({"$datetime": dagster.String}),
    dt.time: Shape({"$time": dagster.String}),
    uuid.UUID: Shape({"$uuid": dagster.String}),
}
"""How a type is written as configuration (see ``context``)."""


class ContextMapping(ConfigMapping):
    """The mapping that makes the context plain YAML in the Launchpad."""

    def resolve_from_unvalidated_config(self, config: Any) -> Any:
        """Return the configuration of a run that is executed, whatever keys its context has."""
        return ConfigMapping(self.config_fn, _ANYTHING).resolve_from_unvalidated_config(config)


def context_mapping(
    schema: ContextSchema, default_context: Mapping[str, Any], loggers: Iterable[str] = ()
) -> ContextMapping:
    """Return the mapping that makes the context plain YAML in the Launchpad.

    The Launchpad shows ``context:`` with the schedule's default context, and ``execution:``; what
    is launched becomes the configuration of the resource that hands the context to the ops.

    Parameters
    ----------
    schema:
        The schema of the context.
    default_context:
        The schedule's, as JSON.
    loggers:
        The loggers of a run in the calling process.
    """

    def to_run_config(value: Mapping[str, Any]) -> dict[str, Any]:
        given = value["context"] or {} if "context" in value else default_context
        context = contexts.restore_empty(given, default_context)
        contexts.refuse_kept_keys(context)
        config = {"context": context}
        result: dict[str, Any] = {"resources": {RUN_RESOURCE: {"config": config}}}
        if loggers:
            result["loggers"] = {name: {} for name in loggers}  # a logger not named is not used
        if value.get("execution"):
            result["execution"] = value["execution"]
        return result

    shape = Shape({"context": _context(schema, default_context), "execution": _EXECUTION})
    return ContextMapping(config_fn=to_run_config, config_schema=shape)


def _context(schema: ContextSchema, default_context: Mapping[str, Any]) -> Field:
    """Return the field of the context, filled in with the schedule's."""
    required = {key.name for key in schema.keys.values() if key.required}
    lacking = required - default_context.keys()
    fields = {
        key.name: _field(key, default_context, filled_in=bool(lacking))
        for key in schema.keys.values()
    }
    kind = Permissive(fields) if schema.takes_anything else Shape(fields)
    if lacking:  # a default of the full context would have to hold them
        return Field(kind, description=DESCRIPTION)
    return Field(
        kind, is_required=False, default_value=dict(default_context), description=DESCRIPTION
    )


def _field(key: ContextKey, default_context: Mapping[str, Any], *, filled_in: bool) -> Field:
    value = default_context.get(key.name)
    is_given = key.name in default_context
    # A schedule's value of another type was valid before the code changed: its run reports it.
    kind = _type(key) if not is_given or accepts(key.annotation, value) else dagster.Any
    description = storable(_description(key)) or None
    if is_given and filled_in:
        return Field(kind, default_value=value, is_required=False, description=description)
    # The Launchpad shows neither nulls nor empty dictionaries: ``restore_empty`` adds them.
    is_shown = not is_given or bool(contexts.shown_in_launchpad({key.name: value}))
    return Field(kind, is_required=key.required and is_shown, description=description)


def _description(key: ContextKey) -> str:
    default = (
        "" if key.default is UNSAID or key.default is None else f"Default: {key.default_text}."
    )
    return " ".join(filter(None, (key.type_text and f"{key.type_text}.", key.description, default)))


def _type(key: ContextKey) -> Any:
    """Return the config type of a key; any type where nothing can be checked."""
    allowed = members(key.annotation)
    others = [each for each in allowed if each not in (None, type(None))]
    if len(others) != 1:
        return dagster.Any
    kind = _plain_type(key.name, others[0])
    return kind if len(others) == len(allowed) or kind is dagster.Any else Noneable(kind)


def _plain_type(name: str, annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return _choice(name, get_args(annotation))
    if not isinstance(annotation, type):
        return dagster.Any
    if annotation in _TYPES:
        return _TYPES[annotation]
    if issubclass(annotation, enum.Enum):
        return _choice(name, [each.value for each in annotation])
    if issubclass(annotation, Model):
        label = f'"{annotation._meta.label}", or a subclass of it'
        # Not permissive: the Launchpad would prefill an empty one.
        return Shape(
            {
                "$model": Field(dagster.String, description=label),
                "pk": Field(dagster.Any),
                "using": Field(dagster.String, is_required=False, description="A database."),
            }
        )
    return dagster.Any


def _choice(name: str, values: Iterable[Any]) -> Any:
    """Return a choice among texts, which the Launchpad offers; of anything else, any value."""
    texts = [each.value if isinstance(each, enum.Enum) else each for each in values]
    if not texts or not all(isinstance(each, str) for each in texts):
        return dagster.Any
    return dagster.Enum(f"{name}: {' | '.join(texts)}", [dagster.EnumValue(each) for each in texts])
