"""Response variables: named, typed values that are extracted from a process's result."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ..context import sensitive
from ..context.lookups import hint, look_up
from ..domain import texts
from ..domain.operators import MISSING
from ..exceptions import ResponseVariableError


def _str(value: Any) -> str:
    text = str(value)
    if sensitive.tells_secret(value, text):
        raise ValueError("its text holds a secret")
    return text


def _bool(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "1": True,
        "false": False,
        "no": False,
        "0": False,
        "": False,
    }
    if isinstance(value, str):
        return words[value.strip().lower()]
    return bool(value)


def _list(value: Any) -> list[Any]:
    return list(json.loads(value) if isinstance(value, str) else value)


def _dict(value: Any) -> dict[Any, Any]:
    return dict(json.loads(value) if isinstance(value, str) else value)


def _date(value: Any) -> dt.date:
    if isinstance(value, dt.datetime):
        return value.date()
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)


def _datetime(value: Any) -> dt.datetime:
    return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)


def _decimal(value: Any) -> Decimal:
    return Decimal(str(value)) if isinstance(value, float) else Decimal(value)


TYPES: dict[str, Callable[[Any], Any]] = {
    "str": _str,
    "int": int,
    "float": float,
    "bool": _bool,
    "list": _list,
    "dict": _dict,
    "decimal": _decimal,
    "date": _date,
    "datetime": _datetime,
}


def extract(
    process: str, variables: Mapping[str, Mapping[str, Any]], result: Any
) -> dict[str, Any]:
    """Return the response variables of a result.

    Parameters
    ----------
    process:
        The process's name, for messages.
    variables:
        Name -> ``{"type", "default", "key"}``, all optional: without a type the value stays as it
        is; the key is the variable's name unless given, and may be a dotted path (``look_up``).
    result:
        What the function returned: a dictionary, or an object with attributes.

    Raises
    ------
    ResponseVariableError
        A variable is not in the result and has no default, or is not of its type.
    """
    return {name: _extract(process, name, rule, result) for name, rule in variables.items()}


def defaults(process: str, variables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the response variables of a process that was skipped: those that have a default.

    Raises
    ------
    ResponseVariableError
        A default is not of its variable's type.
    """
    return {
        name: _typed(process, name, rule, rule["default"])
        for name, rule in variables.items()
        if "default" in rule
    }


def _extract(process: str, name: str, rule: Mapping[str, Any], result: Any) -> Any:
    key = rule.get("key") or name
    value = look_up(result, key)
    if value is MISSING or (value is None and "default" in rule):
        if "default" not in rule:
            raise ResponseVariableError(
                f"Process {process!r}: its result has no {key!r} for the response variable "
                f"{name!r}, which has no default.{hint(key, result)}"
            )
        value = rule["default"]
    return _typed(process, name, rule, value)


def _typed(process: str, name: str, rule: Mapping[str, Any], value: Any) -> Any:
    kind = rule.get("type")
    if value is None or kind is None:
        return value
    try:
        return TYPES[kind](value)
    except Exception as error:  # converting runs the value's own code, which may raise anything
        raise ResponseVariableError(
            f"Process {process!r}: the response variable {name!r} is "
            f"{texts.shown(value, write=sensitive.shown)}, which is no {kind}."
        ) from error
