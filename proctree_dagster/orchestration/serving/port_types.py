"""The types on the ports of a job's graph: the annotations of its functions.

They are for display only: what is passed on is an ``Outcome``, and no type is checked.
"""

from functools import lru_cache
from typing import Any

import dagster
from dagster import DagsterType

from ...models.context_schema import annotation_text, annotations_of
from ...process.calling import Function

RETURN = "return"
"""The name of a function's result among its annotations."""

MOST_CHARACTERS = 60
"""Most characters of a type's name on a port."""

_DAGSTERS_OWN = frozenset({"Any", "Bool", "Float", "Int", "Nothing", "String"})
"""Reserved names of types."""


def port_type(func: Function, name: str) -> Any:
    """Return the type that a function's annotation names; Dagster's ``Any`` if there is none.

    Parameters
    ----------
    func:
        The function.
    name:
        Its parameter, or ``return``.
    """
    text = _texts(func).get(name, "")
    if not text or text in _DAGSTERS_OWN or len(text) > MOST_CHARACTERS:
        return dagster.Any
    return _named(text)


def _texts(func: Function) -> dict[str, str]:
    try:
        return _known_texts(func)
    except TypeError:  # it can't be hashed
        return _known_texts.__wrapped__(func)


@lru_cache(maxsize=4096)
def _known_texts(func: Function) -> dict[str, str]:
    return {name: annotation_text(each) for name, each in annotations_of(func).items()}


@lru_cache(maxsize=4096)
def _named(text: str) -> DagsterType:
    """Return the one type of a name, as a job can't have two of one name."""
    return DagsterType(name=text, type_check_fn=lambda context, value: True)
