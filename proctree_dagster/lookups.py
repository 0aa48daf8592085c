"""The one way in which a row of the database reads values: by a path, and never more than data.

Response variables, cache keys and conditions are written by people who may not see everything that
the project's code may. ``conditions.look_up`` reads no code; here Django's objects are guarded too.
"""

import re
import string
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from django.db.models import Manager, Model, QuerySet
from django.db.models.fields.files import FieldFile

from . import conditions, sensitive
from .conditions import MISSING

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
"""Packages whose objects do the work; their attributes are settings, connections and locks."""

_OF_A_FILE = frozenset({"name", "size", "url", "width", "height"})


def look_up(available: Any, field: str) -> Any:
    """Return what a dotted path leads to; ``MISSING`` if nowhere, or to what no row may read.

    Parameters
    ----------
    available:
        A dictionary, or an object.
    field:
        See ``conditions.look_up``.
    """
    rows: list[Model] = []

    def guard(owner: Any, name: str) -> bool:
        rows.extend([owner] if isinstance(owner, Model) else [])
        return hides(owner, name)

    value = conditions.look_up(available, field, guard)
    # A key of a row's JSON is the row's, as a field is; one of what a function returned is not.
    in_row = rows and any(map(sensitive.is_sensitive_name, field.split(".")))
    return MISSING if in_row else value


def hides(owner: Any, name: str) -> bool:
    """Return whether a row may not read the attribute ``name`` of ``owner``.

    Parameters
    ----------
    owner:
        Any object. Of a model's row the fields and properties can be read, of Django's other
        objects (settings, connections, querysets) nothing.
    name:
        The attribute; one that is called like a secret (``password``) is not read from anything.
    """
    if sensitive.is_sensitive_name(name) or sensitive.is_sensitive_attribute(owner, name):
        return True
    if isinstance(owner, FieldFile):
        return name not in _OF_A_FILE
    if isinstance(owner, (Model, SimpleNamespace)):
        return False
    return isinstance(owner, (Manager, QuerySet)) or any(
        each.__module__.partition(".")[0] in _PLUMBING for each in type(owner).__mro__
    )


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
            value = kwargs
            for part in _parts(field_name):
                value = conditions.step(value, part, hides)
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
        if any(int(number) > MAX_WIDTH for number in re.findall(r"[0-9]+", format_spec)):
            raise ValueError(f"a width or precision is above {MAX_WIDTH}")
        return super().format_field(value, format_spec)


def _parts(field: str) -> list[str]:
    """Return the parts of a path with brackets: ``a.b[c.d][0]`` is a, b, c.d and 0."""
    if re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\]]+\])*", field) is None:
        raise ValueError(f"{field!r} is no path such as 'a.b[c]'")
    return [inner or plain for inner, plain in re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", field)]
