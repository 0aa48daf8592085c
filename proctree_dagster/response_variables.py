"""Response variables: named, typed values that are extracted from a process's result."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from .exceptions import ResponseVariableError

_MISSING = object()


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
    "str": str,
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
        Name -> ``{"type", "default", "key"}``, all optional: the type is ``str`` unless said, the
        key the variable's name; dots in a key go deeper.
    result:
        What the function returned: a dictionary, or an object with attributes.

    Raises
    ------
    ResponseVariableError
        A variable is not in the result and has no default, or is not of its type.
    """
    return {name: _extract(process, name, rule, result) for name, rule in variables.items()}


def _extract(process: str, name: str, rule: Mapping[str, Any], result: Any) -> Any:
    key = rule.get("key") or name
    value = _look_up(result, key)
    if value is _MISSING or (value is None and "default" in rule):
        if "default" not in rule:
            raise ResponseVariableError(
                f"Process {process!r}: its result has no {key!r} for the response variable "
                f"{name!r}, which has no default."
            )
        value = rule["default"]
    kind = rule.get("type", "str")
    if value is None:
        return None
    try:
        return TYPES[kind](value)
    except (ValueError, TypeError, KeyError, InvalidOperation) as error:
        raise ResponseVariableError(
            f"Process {process!r}: the response variable {name!r} is {value!r}, which is no {kind}."
        ) from error


def _look_up(result: Any, key: str) -> Any:
    value = result
    for part in [key] if isinstance(result, Mapping) and key in result else key.split("."):
        if isinstance(value, Mapping):
            value = value.get(part, _MISSING)
        else:
            value = getattr(value, part, _MISSING)
        if value is _MISSING:
            return _MISSING
    return value
