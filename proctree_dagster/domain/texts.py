"""Text for people and for databases: any value shown, any text storable."""

import datetime as dt
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ..exceptions import UnstorableError

MAX_SHOWN = 1000
"""How many characters of a value are shown."""


def explain(error: BaseException) -> str:
    """Return an exception's type and message as one line."""
    try:
        text = storable(str(error))
    except (Exception, SystemExit):  # noqa: BLE001  # an exception's own code may fail, too
        text = "(its message can't be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: Any, limit: int = MAX_SHOWN, write: Callable[[Any], str] = repr) -> str:
    """Return a value as text that can be stored, whatever its ``repr`` does.

    Parameters
    ----------
    value:
        Anything.
    limit:
        How many characters are shown; a longer one ends with its length.
    write:
        Returns a value as text, and may raise anything.
    """
    try:
        text = write(value)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # an object's own code may raise anything
        text = f"<{type(value).__name__} that can't be shown: {explain(error)}>"
    return shorten(storable(text), limit)


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """Return a text cut after ``limit`` characters, with its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def in_utc(moment: dt.datetime) -> str:
    """Return a moment (aware) to the minute, in UTC."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def storable(text: str) -> str:
    """Return a text that every database takes and every UTF-8 stream writes.

    Halves of surrogate pairs and NUL characters are escaped as Python writes them.
    """
    return printable(text, "utf-8").replace("\x00", "\\x00")


def printable(text: str, encoding: str) -> str:
    """Return a text with the characters that an encoding lacks escaped, as Python writes them."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def storable_error(error: BaseException) -> BaseException:
    """Return the error, or a replacement if no database could store its message."""
    if any(map(_is_unstorable, error_chain(error))):
        return UnstorableError(explain(error)).with_traceback(error.__traceback__)
    return error


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, those that it was raised from, and those of a group, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:  # code that raises an error again from its own effect makes a circle
            continue
        seen.add(id(each))
        yield each
        waiting += filter(None, (each.__cause__, each.__context__))
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def _is_unstorable(error: BaseException) -> bool:
    try:
        text = "".join(traceback.format_exception_only(error))
    except (Exception, SystemExit):  # noqa: BLE001  # an exception's own code may fail, too
        return True
    return storable(text) != text
