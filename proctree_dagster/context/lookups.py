"""The guarded look-up of dotted paths, for all that rows of the database ask to read.

Response variables, cache keys and conditions are written by people who may not see everything that
the project's code may. ``operators.look_up`` reads no code; here Django's objects are guarded too.
"""

import re
import string
from collections.abc import Mapping, Sequence
from enum import Enum
from types import SimpleNamespace
from typing import Any

from django.db.models import Manager, Model, QuerySet
from django.db.models.fields.files import FieldFile

from ..domain import operators
from ..domain.operators import MISSING
from . import sensitive

MAX_WIDTH = 999
"""The largest number in a format specification: ``{a:>999999999}`` would fill the memory."""

_PLUMBING = frozenset(
    {
        *("asyncio", "concurrent", "contextvars", "ctypes", "dagster", "django", "functools"),
        *("http", "importlib", "inspect", "logging", "multiprocessing", "os", "psycopg"),
        *("psycopg2", "socket", "sqlite3", "ssl", "subprocess", "sys", "threading", "types"),
        *("urllib", "weakref"),
    }
)
"""Packages of infrastructure: attributes of their objects are settings, connections and locks."""

_DATA = frozenset(
    {
        "django.contrib.gis.geos.geometry.GEOSGeometryBase",
        *("psycopg.types.range.Range", "psycopg2._range.Range"),
    }
)
"""Classes of such packages whose objects are values of fields."""

_OF_A_FILE = frozenset({"name", "size", "url", "width", "height"})


def look_up(available: Any, field: str) -> Any:
    """Return what a dotted path leads to; ``MISSING`` if nowhere, or to what no row may read.

    Parameters
    ----------
    available:
        A dictionary, or an object.
    field:
        See ``operators.look_up``.
    """
    guard = _Guard()
    return guard.checked(operators.look_up(available, field, guard.take))


class _Guard:
    """Follows one path step by step, and hides what no row may read."""

    def __init__(self) -> None:
        self._in_object = False

    def take(self, value: Any, part: str) -> Any:
        """Take a step; see ``operators.step``."""
        if not isinstance(value, (Mapping, list, tuple)):
            self._in_object = True
        # A key of a row's JSON is the row's, as a field is; one of what a function returned is not.
        elif self._in_object and sensitive.is_sensitive_name(part):
            return MISSING
        return operators.step(value, part, hides)

    def checked(self, found: Any) -> Any:
        """Return the value at the path's end; ``MISSING`` if an object on the way holds secrets."""
        return MISSING if self._in_object and _holds_secret(found, set()) else found


def _holds_secret(value: Any, seen: set[int]) -> bool:
    """Return whether a key of a dictionary, however deep, is called like a secret."""
    if not isinstance(value, (Mapping, list, tuple)) or id(value) in seen:
        return False
    seen.add(id(value))
    if not isinstance(value, Mapping):
        return any(_holds_secret(each, seen) for each in value)
    return any(
        sensitive.is_sensitive_name(str(key)) or _holds_secret(each, seen)
        for key, each in value.items()
    )


def hint(field: str, available: Any) -> str:
    """Return a sentence for an error message if a path leads to a hidden value; else blank.

    Parameters
    ----------
    field:
        The path, with dots or brackets.
    available:
        Where it begins.
    """
    try:
        found = operators.follow(available, _parts(field), _Guard().take)
    except ValueError:  # not a path
        found = MISSING
    if found is not MISSING:  # it exists, but was not read
        return (
            " It holds secrets beside what is none: name one of its keys, or return what is wanted "
            "from the function."
        )
    parts = re.split(r"[.\[\]']", field)
    if any(part.startswith("_") or sensitive.is_sensitive_name(part) for part in parts):
        return (
            " An attribute that begins with an underscore, or holds a secret, is not read; a key "
            "of a dictionary that a function returns is."
        )
    return ""


def hides(owner: Any, name: str) -> bool:
    """Return whether a row may not read the attribute ``name`` of ``owner``.

    Parameters
    ----------
    owner:
        Any object. Fields and properties of a model's row can be read; nothing of Django's other
        objects (settings, connections, querysets) can.
    name:
        The attribute; one that is called like a secret (``password``) is not read from anything.
    """
    if isinstance(owner, Model):
        return sensitive.is_sensitive_attribute(owner, name)
    if sensitive.is_sensitive_name(name):
        return True
    if isinstance(owner, FieldFile):
        return name not in _OF_A_FILE
    if isinstance(owner, (SimpleNamespace, Enum)) or _is_data(type(owner)):
        return False
    return isinstance(owner, (Manager, QuerySet)) or any(
        each.__module__.partition(".")[0] in _PLUMBING for each in type(owner).__mro__
    )


def _is_data(kind: type) -> bool:
    return any(f"{each.__module__}.{each.__qualname__}" in _DATA for each in kind.__mro__)


class GuardedFormatter(string.Formatter):
    """Fills in a template's fields by ``look_up``: ``{organisation.pk}``, ``{lines[0]:>5}``."""

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, str]:
        """Return the value of a field.

        Raises
        ------
        KeyError
            It leads nowhere, or may not be read.
        ValueError
            It is no path.
        """
        if "[" not in field_name:
            value = look_up(kwargs, field_name)
        else:
            guard = _Guard()
            value = guard.checked(operators.follow(kwargs, _parts(field_name), guard.take))
        if value is MISSING:
            raise KeyError(field_name)
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Format a value.

        Raises
        ------
        ValueError
            The specification asks for more than ``MAX_WIDTH`` characters.
        """
        if any(int(number) > MAX_WIDTH for number in re.findall(r"\d+", format_spec)):
            raise ValueError(f"a width or precision is above {MAX_WIDTH}")
        return super().format_field(value, format_spec)


def first_parts(template: str) -> list[str]:
    """Return the names with which the fields of a template begin: ``{a.b}-{c[d]}`` has a and c."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    except ValueError:  # not a template; the run reports it
        return []
    return [re.split(r"[.\[]", field, maxsplit=1)[0] for field in fields]


def _parts(field: str) -> list[str]:
    """Return the parts of a path with brackets: ``a.b[c.d][0]`` is a, b, c.d and 0."""
    if re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\]]+\])*", field) is None:
        raise ValueError(f"{field!r} is no path such as 'a.b[c]'")
    return [inner or plain for inner, plain in re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", field)]
