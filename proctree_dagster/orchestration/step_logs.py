"""What the log of a process takes, whatever its function writes there."""

import logging
from collections.abc import Callable
from functools import partial

from dagster import OpExecutionContext

from ..texts import storable


def escape(context: OpExecutionContext) -> None:
    """Escape what no database takes in the lines that a process logs: the run must go on."""
    for handler in context.log.handlers:
        # Not addFilter: Dagster's handlers have a filter() of their own, which asks no others.
        handler.filter = partial(_escaping, handler.filter)  # type: ignore[method-assign]


def _escaping(takes: Callable[[logging.LogRecord], bool], record: logging.LogRecord) -> bool:
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001  # an argument's own code may raise anything
        text = f"{record.msg!r} (its arguments can't be shown: {type(error).__name__})"
        record.msg, record.args = storable(text), None
    if storable(text) != text:
        record.msg, record.args = storable(text), None
    return takes(record)
