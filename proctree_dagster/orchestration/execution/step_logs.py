"""A process's reports in Dagster: its log, its progress, tables and pictures on its output."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from dagster import MetadataValue, OpExecutionContext, TableRecord

from ...context import MAX_SAFE_INTEGER, sensitive
from ...domain.runs import PROGRESS
from ...domain.texts import shorten, shown, storable
from ...process import masking
from ...process.reporting import Image, Progress, Report, Table

_TRACES = logging.Formatter()
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class StepListener:
    """Writes a process's reports into its run's log.

    Parameters
    ----------
    context:
        The step's.
    report:
        Called with its progress, too.
    """

    def __init__(self, context: OpExecutionContext, report: Callable[[Progress], None]) -> None:
        self._context = context
        self._report = report
        self._managed = context.instance.managed_python_loggers

    def log(self, record: logging.LogRecord) -> None:
        """Write a line; a trace that belongs to it follows."""
        if _is_written_by_dagster(record.name, self._managed):
            return
        text = _message(record)
        if record.exc_info:
            text = f"{text}\n{_TRACES.formatException(record.exc_info)}"
        self._context.log.log(_level(record.levelno), "%s", masking.text(text))

    def progress(self, progress: Progress) -> None:
        """Write its progress."""
        self._context.log.info("%s", f"{PROGRESS}{progress}")
        self._report(progress)


def _level(number: int) -> int:
    """Return the next lower level that Dagster knows: it shows no event of a run with another."""
    return max((each for each in _LEVELS if each <= number), default=logging.DEBUG)


def _is_written_by_dagster(logger: str, managed: Collection[str]) -> bool:
    """Return whether ``dagster.yaml`` makes Dagster capture a logger (``python_logs``)."""
    return "root" in managed or any(
        logger == each or logger.startswith(f"{each}.") for each in managed
    )


def attachments(report: Report) -> dict[str, Any]:
    """Return a process's tables and pictures as metadata of its output."""
    found: dict[str, Any] = {}
    for each in report.attachments:
        name = storable(each.name)
        if isinstance(each, Image):
            found[name] = MetadataValue.md(f"![{_alt(name)}]({each.data_uri})")
        elif each.rows:
            found[name] = MetadataValue.table(_records(each))
            if each.left_out:
                found[f"{name} (rows left out)"] = each.left_out
        else:
            found[name] = "no rows"
    return found


def _alt(name: str) -> str:
    return "".join(each for each in name if each not in "[]()\n")


def _records(table: Table) -> list[TableRecord]:
    """Return the rows of a table; each has every column that any has."""
    columns = list(dict.fromkeys(storable(key) for row in table.rows for key in row))
    return [TableRecord(_cells(row, columns)) for row in table.rows]


def _cells(row: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    given = {storable(key): value for key, value in row.items()}
    return {column: _cell(given.get(column)) for column in columns}


def _cell(value: Any) -> str | int | float | bool:
    if value is None:
        return ""
    if type(value) is bool or (type(value) is int and abs(value) <= MAX_SAFE_INTEGER):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is str:
        return shorten(storable(value))
    return masking.text(shown(value, write=sensitive.shown))


def escape(context: OpExecutionContext) -> None:
    """Escape characters that no database takes in log lines, so that the run continues."""
    for handler in context.log.handlers:
        # Not addFilter: Dagster's handlers have a filter() of their own, which asks no others.
        handler.filter = partial(_escaping, handler.filter)  # type: ignore[method-assign]


def _escaping(takes: Callable[[logging.LogRecord], bool], record: logging.LogRecord) -> bool:
    text = _message(record)
    if storable(text) != text or record.args:
        record.msg, record.args = storable(text), None
    return takes(record)


def _message(record: logging.LogRecord) -> str:
    """Return a record's message, also if its arguments don't fit."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # an argument's own code may raise anything
        return f"{record.msg!r} (its arguments can't be shown: {type(error).__name__})"
