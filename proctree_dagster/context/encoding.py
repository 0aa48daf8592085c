"""Context <-> JSON: the keyword arguments of a run, model instances included.

What JSON can't say is stored as an object with one reserved key, which a person can also type::

    {"$model": "ledger.Organisation", "pk": 1}   {"$date": "2026-03-31"}   {"$decimal": "1.50"}
    {"$secret": "XERO_TOKEN"}

A row of another database than its model is read from has its alias, too: ``"using": "north"``.
Which models' rows may be stored is ``sensitive``'s business. A secret is decoded to its reference,
``Secret("XERO_TOKEN")``: its value is known to nothing but ``process.secrets``.

``encode`` leaves what is encoded already as it is, so encoding twice changes nothing.
"""

import datetime
import json
import math
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from operator import attrgetter
from typing import Any, TypeGuard

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connections, models, router

from ..domain.names import READ_AS_OBJECTS
from ..exceptions import ContextError
from . import sensitive
from .references import SECRET, Secret

Json = Any

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest whole number that a browser keeps exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""

MAX_DIGITS = 4300
"""Most digits of a decimal number before its point, and after it; Python's limit for integers."""

MAX_DEPTH = 50
"""How deep lists and dictionaries may be nested."""

_UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ValidationError)
"""What Python and Django raise when a stored value is not what its key says."""


def _decimal(text: str) -> Decimal:
    try:
        return _bounded(Decimal(text))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal number") from None


def _decimal_text(value: Decimal) -> str:
    return str(_bounded(value))


def _bounded(value: Decimal) -> Decimal:
    """Return the number if its digits can be written out: those of ``1E+999999999`` take hours.

    Raises
    ------
    ValueError
        It has more than ``MAX_DIGITS`` digits before or after its point.
    """
    if value.is_finite() and not -MAX_DIGITS <= value.adjusted() <= MAX_DIGITS:
        raise ValueError(f"a decimal number has at most {MAX_DIGITS} digits before and behind")
    return value


def _time_text(value: datetime.time) -> str:
    """Return a time as text.

    Raises
    ------
    ValueError
        Its zone has an offset on a date only, so the text would not have it.
    """
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError(
            f"the zone {value.tzinfo} has an offset on a date only; use a datetime, a time without "
            "a zone, or one with a fixed offset"
        )
    return value.isoformat()


# datetime comes before date: every datetime is a date.
_SCALARS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "$datetime": (
        datetime.datetime,
        datetime.datetime.isoformat,
        datetime.datetime.fromisoformat,
    ),
    "$date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "$time": (datetime.time, _time_text, datetime.time.fromisoformat),
    "$uuid": (uuid.UUID, str, uuid.UUID),
    "$decimal": (Decimal, _decimal_text, _decimal),
    "$int": (int, str, int),
    SECRET: (Secret, attrgetter("name"), Secret),
}
_MODEL, _USING = "$model", "using"
RESERVED = frozenset({_MODEL, *_SCALARS})


def encode(context: Mapping[str, Any]) -> dict[str, Json]:
    """Return ``context`` as JSON.

    Parameters
    ----------
    context:
        Keyword arguments: JSON values, saved model instances, dates, times, UUIDs and Decimals,
        nested in lists, tuples and dictionaries with string keys. Tuples become lists.

    Raises
    ------
    ContextError
        A value can't be stored; the message holds its path, such as ``context['a'][2]``.
    """
    if not isinstance(context, Mapping):
        raise ContextError(f"A context is a dictionary (an object in JSON), not {context!r}.")
    return {
        key: _encode(value, f"context[{key!r}]", 1) for key, value in _items(context, "context")
    }


def _items(value: Mapping[Any, Any], path: str) -> list[tuple[str, Any]]:
    items = [(_plain(key), each) for key, each in value.items()]
    for key, _ in items:
        if not isinstance(key, str):
            raise ContextError(f"{path} has the key {key!r}; a key must be a string.")
        if key in READ_AS_OBJECTS:
            raise _kept(path, key)
    return [(_text(key, f"{path}[{key!r}]"), each) for key, each in items]


def _kept(path: str, key: str) -> ContextError:
    return ContextError(
        f"{path} has the key {key!r}, which Dagster keeps for itself: the runs of all trees could "
        "not be read any more. Call it something else."
    )


def refuse_kept_keys(value: Json, path: str = "context") -> None:
    """Refuse JSON with a key that no run may be stored with, wherever it comes from.

    Raises
    ------
    ContextError
        There is one; the message says where.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key in READ_AS_OBJECTS:
                raise _kept(path, key)
            refuse_kept_keys(each, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            refuse_kept_keys(each, f"{path}[{index}]")


def _plain(value: Any) -> Any:
    """Return the value that a member of an enumeration stands for."""
    while isinstance(value, Enum):
        value = value.value
    return value


def _encode(value: Any, path: str, depth: int) -> Json:
    value = _plain(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int) and abs(value) <= MAX_SAFE_INTEGER:
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ContextError(f"{path} is {value!r}, which JSON can't store.")
        return float(value)
    if isinstance(value, models.Model):
        return _encode_model(value, path, depth)
    for tag, (kind, to_text, _) in _SCALARS.items():
        if isinstance(value, kind):
            return {tag: _to_text(value, to_text, path)}
    if isinstance(value, Mapping) and not RESERVED.isdisjoint(value):
        return _encode_reserved(value, path)
    if isinstance(value, (Mapping, list, tuple)) and depth > MAX_DEPTH:
        raise ContextError(
            f"{path} is nested more than {MAX_DEPTH} deep, or holds itself; it can't be stored."
        )
    if isinstance(value, Mapping):
        return {
            key: _encode(each, f"{path}[{key!r}]", depth + 1) for key, each in _items(value, path)
        }
    if isinstance(value, (list, tuple)):
        return [_encode(each, f"{path}[{index}]", depth + 1) for index, each in enumerate(value)]
    raise ContextError(
        f"{path} is {type(value).__name__}, which can't be stored: {sensitive.shortened(value)}. "
        "A context holds JSON, saved model instances, dates, times, UUIDs, Decimals and Secrets."
    )


def _to_text(value: Any, to_text: Callable[[Any], str], path: str) -> str:
    try:
        return to_text(value)
    except ValueError as error:  # a number of more digits than Python writes
        raise ContextError(f"{path} can't be stored: {error}.") from error


def _encode_model(instance: models.Model, path: str, depth: int) -> Json:
    if instance.pk is None or instance._state.adding:
        raise ContextError(
            f"{path} is an unsaved {instance._meta.label}; save it before you pass it on."
        )
    model = instance._meta.model
    _require_allowed(model, path)
    using = instance._state.db
    return {
        _MODEL: model._meta.label,
        "pk": _encode(instance.pk, f"{path}.pk", depth + 1),
        **({} if using is None or _is_read_from(model, using) else {_USING: using}),
    }


def _require_allowed(model: type[models.Model], path: str) -> None:
    problem = sensitive.problem_of_model(model, "CONTEXT_MODELS")
    if problem is not None:
        raise ContextError(f"{path}: {problem}")


def _is_read_from(model: type[models.Model], alias: str) -> bool:
    """Return whether an alias is where a model's rows are read by default.

    A replica is as good as what it replicates: routers choose among them. It is known by
    ``DATABASES[alias]["TEST"]["MIRROR"]``, as Django's documentation asks for.
    """
    return _primary(alias) == _primary(model._base_manager.db)


def _primary(alias: str) -> str:
    test: Mapping[str, Any] = connections.settings.get(alias, {}).get("TEST", {})
    return test.get("MIRROR") or alias


def _encode_reserved(value: Mapping[str, Any], path: str) -> Json:
    """Return a value that is encoded already; refuse any other use of a reserved key."""
    try:
        _decode_tagged(value, path, lambda model, pk, using: None)
    except ContextError:
        raise
    except _UNUSABLE as error:
        keys = ", ".join(sorted(map(str, RESERVED & set(value))))
        raise ContextError(
            f"{path} uses a reserved key ({keys}) and is not what the key says: {error}."
        ) from error
    return {key: _encode(each, f"{path}[{key!r}]", MAX_DEPTH) for key, each in value.items()}


def _text(value: str, path: str) -> str:
    try:
        storable = b"\x00" not in value.encode()
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ContextError(
            f"{path} holds a NUL character or half of a surrogate pair, which databases refuse."
        )
    return str(value)


def decode(stored: Mapping[str, Json]) -> dict[str, Any]:
    """Return the keyword arguments that ``encode`` stored; model instances are fetched again.

    Raises
    ------
    ContextError
        A row or a model is gone, a model is not allowed, a database is unknown, a value is not
        what its reserved key says, or a key is one that Dagster keeps for itself.
    """
    refuse_kept_keys(stored)
    return {key: _decode(value, f"context[{key!r}]") for key, value in stored.items()}


def _decode(value: Json, path: str) -> Any:
    if isinstance(value, Mapping):
        if RESERVED.isdisjoint(value):
            return {key: _decode(each, f"{path}[{key!r}]") for key, each in value.items()}
        try:
            return _decode_tagged(value, path, _fetch)
        except ContextError:  # its message names the place already
            raise
        except (*_UNUSABLE, DatabaseError) as error:
            raise ContextError(
                f"{path} can't be restored from {sensitive.shortened(value)}: {error}"
            ) from error
    if isinstance(value, (list, tuple)):
        return [_decode(each, f"{path}[{index}]") for index, each in enumerate(value)]
    return value


def _decode_tagged(
    value: Mapping[str, Json],
    path: str,
    fetch: Callable[[type[models.Model], Any, str | None], Any],
) -> Any:
    if set(value) - {_USING} == {_MODEL, "pk"}:
        model = apps.get_model(value[_MODEL])
        _require_allowed(model, path)
        pk, using = _decode(value["pk"], f"{path}.pk"), value.get(_USING)
        if _USING in value and using not in list(connections):
            raise ValueError(f"this process has no database {using!r} (see settings.DATABASES)")
        # A composite key is a tuple; JSON has lists only.
        return fetch(model, tuple(pk) if isinstance(pk, list) else pk, using)
    if len(value) == 1:
        [(tag, text)] = value.items()
        if tag in _SCALARS and isinstance(text, str):
            return _SCALARS[tag][2](text)
    raise ValueError(
        f"it must be {{{_MODEL!r}: label, 'pk': key}}, with the alias of a database as {_USING!r} "
        "if it is another, or one reserved key with a string"
    )


def _fetch(model: type[models.Model], pk: Any, using: str | None) -> models.Model:
    rows = model._base_manager.all() if using is None else model._base_manager.using(using)
    instance = rows.filter(pk=pk).first()
    primary = router.db_for_write(model)
    if instance is None and using is None and primary != rows.db:
        # A run may start before its row has reached a replica.
        instance = model._base_manager.using(primary).filter(pk=pk).first()
    if instance is None:
        where = "" if using is None else f" in the database {using!r}"
        raise LookupError(
            f"there is no {model._meta.label} with the primary key {pk!r}{where} any more"
        )
    return instance


def restore_empty(given: Mapping[str, Json], default: Mapping[str, Json]) -> dict[str, Json]:
    """Return ``given`` with the nulls and empty dictionaries of ``default`` that it lacks.

    Dagster leaves them out of the Launchpad's prefilled config
    (``dagster._core.snap.snap_to_yaml``); a launch of that config must not lose them. Where a
    prefilled key is gone, somebody has edited the config, and it stays as it is.
    """
    result = dict(given)
    if not shown_in_launchpad(default).keys() <= given.keys():
        return result
    for key, value in default.items():
        if not isinstance(value, Mapping):
            result.setdefault(key, value)
        elif _is_plain(value) and _is_plain(result.setdefault(key, {})):
            result[key] = restore_empty(result[key], value)
    return result


def _is_plain(value: object) -> TypeGuard[Mapping[str, Json]]:
    """Return whether a value is a dictionary that stands for nothing else, such as a date."""
    return isinstance(value, Mapping) and RESERVED.isdisjoint(value)


def shown_in_launchpad(value: Mapping[str, Json]) -> dict[str, Json]:
    """Return a dictionary as Dagster prefills it into the Launchpad."""
    shown = {
        key: shown_in_launchpad(each) if isinstance(each, Mapping) else each
        for key, each in value.items()
    }
    return {key: each for key, each in shown.items() if each is not None and each != {}}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def parse_json(text: str) -> dict[str, Json]:
    """Return the context that a person typed as JSON.

    Raises
    ------
    ContextError
        It is not JSON, or not an object; the message says where.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ContextError(
            f"The context is not valid JSON: {error.msg} at line {error.lineno}, column "
            f'{error.colno}. Write it like \'{{"tenant_id": "123"}}\'.'
        ) from error
    except (ValueError, RecursionError) as error:  # too many digits, too many brackets
        raise ContextError(f"The context can't be read: {error}.") from error
    if not isinstance(value, dict):
        raise ContextError(
            f'The context must be a JSON object like \'{{"tenant_id": "123"}}\', '
            f"not {type(value).__name__}."
        )
    return encode(value)
