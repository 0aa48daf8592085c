"""Secrets: the values that functions are given for the references in a context.

Everything else (run configuration, results, tags, logs, the admin) knows a secret by its name. Its
value is asked for as a function is called, is passed to that function, and is masked from then on
in all that this process says (see ``masking`` and ``masked_output``).
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from django.utils.module_loading import import_string

from .. import conf
from ..context import Secret
from ..domain.texts import explain
from ..exceptions import SecretError
from . import masked_output, masking


def resolved(what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function with each secret's value in the place of its reference.

    Parameters
    ----------
    what:
        The function's owner, for messages, such as ``Process 'sum'``.
    arguments:
        Its arguments. References in lists, tuples and dictionaries count, too.

    Raises
    ------
    SecretError
        A secret is not known, is blank, or is too short to be masked.
    """
    return {name: _resolved(what, value) for name, value in arguments.items()}


def _resolved(what: str, value: Any) -> Any:
    """Return a value with its secrets; the value itself if it refers to none."""
    if isinstance(value, Secret):
        return _value(what, value.name)
    if type(value) is dict:
        found: Any = {key: _resolved(what, each) for key, each in value.items()}
        changed = any(found[key] is not each for key, each in value.items())
        return found if changed else value
    if type(value) in (list, tuple):
        parts = [_resolved(what, each) for each in value]
        changed = any(new is not old for new, old in zip(parts, value, strict=True))
        return type(value)(parts) if changed else value
    return value


def _value(what: str, name: str) -> str:
    source, ask = _source()
    try:
        value = ask(name)
    except LookupError:
        value = None
    except Exception as error:
        raise SecretError(f"{what} needs the secret {name!r}: {explain(error)}") from error
    if value is None or value == "":
        raise SecretError(
            f"{what} needs the secret {name!r}, and {source} does not have it. {_ADVICE}"
        )
    if not isinstance(value, str):
        raise SecretError(
            f"{what} needs the secret {name!r}, and {source} returned {type(value).__name__}, "
            "where a text is expected."
        )
    try:
        masking.learn(name, value)
    except SecretError as error:
        raise SecretError(f"{what} can't be given a secret. {error}") from None
    masked_output.install()
    return value


_ADVICE = (
    'Set it where this process runs, or correct the name in the context or PROCTREE["SECRETS"].'
)


def _source() -> tuple[str, Callable[[str], Any]]:
    """Return where secrets come from, for messages, and the function that has them.

    Raises
    ------
    SecretError
        The settings name what can't be imported.
    """
    given = conf.current().SECRETS
    if given is None:
        return "the environment", os.environ.get
    if not isinstance(given, str):
        names = given
        return (
            'the environment, or PROCTREE["SECRETS"],',
            lambda name: os.environ.get(name) if name in names else None,
        )
    try:
        ask: Callable[[str], Any] = import_string(given)
    except ImportError as error:
        raise SecretError(f'PROCTREE["SECRETS"] can\'t be used: {error}.') from error
    return given, ask
