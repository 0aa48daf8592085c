"""Calendars: which dates are business days.

A calendar is named in a schedule: ``weekdays``, ``holidays:ZA`` (the library ``holidays``, an
optional extra; ``holidays:DE/BY`` for a part of a country), or an allowed function that takes a
``date`` and returns whether it is a business day.
"""

import datetime as dt
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from .. import functions
from ..domain.texts import explain
from ..exceptions import FunctionError, ScheduleError
from ..support.call_context import isolated

WEEKDAYS = "weekdays"
"""Monday to Friday."""

HOLIDAYS = "holidays:"
"""Before the code of a country, as the library ``holidays`` has it."""


def is_function(name: str) -> bool:
    """Return whether a calendar is a function."""
    return name not in ("", WEEKDAYS) and not name.startswith(HOLIDAYS)


def business_days(name: str) -> Callable[[dt.date], bool]:
    """Return the function by which a date is a business day, or is none.

    Parameters
    ----------
    name:
        The calendar's name; blank: ``weekdays``.

    Raises
    ------
    ScheduleError
        There is no such calendar, or its library is not installed, or its function not allowed.
    """
    if name in ("", WEEKDAYS):
        return _is_weekday
    if name.startswith(HOLIDAYS):
        return _of_country(name.removeprefix(HOLIDAYS))
    try:
        function = functions.resolve(name)
    except FunctionError as error:
        raise ScheduleError(f"The calendar {name!r} can't be used: {error}") from error
    return cache(lambda date: _asked(name, function, date))


def _is_weekday(date: dt.date) -> bool:
    return date.weekday() < 5


@lru_cache(maxsize=64)
def _of_country(code: str) -> Callable[[dt.date], bool]:
    try:
        import holidays
    except ImportError as error:
        raise ScheduleError(
            f"The calendar {HOLIDAYS}{code} needs the library holidays: "
            "pip install 'proctree-dagster[holidays]'."
        ) from error
    country, _, part = code.partition("/")
    try:
        found: Any = holidays.country_holidays(country, subdiv=part or None)
    except NotImplementedError as error:
        raise ScheduleError(f"The library holidays has no calendar {code!r}: {error}") from error
    return lambda date: bool(found.is_working_day(date))


def _asked(name: str, function: Callable[..., Any], date: dt.date) -> bool:
    """Ask a function whether a date is a business day.

    Raises
    ------
    ScheduleError
        It raises, or returns no bool.
    """
    try:
        answer = isolated(function, date)
    except Exception as error:  # a project's function may raise anything: the schedule says so
        raise ScheduleError(f"The calendar {name!r} failed for {date}: {explain(error)}") from error
    if not isinstance(answer, bool):
        raise ScheduleError(
            f"The calendar {name!r} must return True or False for {date}, not {answer!r}."
        )
    return answer
