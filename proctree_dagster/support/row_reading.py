"""Reading rows one by one where a query fails, so that an unreadable row does not hide the others.

SQL may write values that Python can't read: a date that does not exist, ``infinity`` on PostgreSQL,
a number of five thousand digits in JSON. Django then raises for the query as a whole.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db import DataError, models

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=models.Model)

STREAMED_AT_ONCE = 200
"""Rows in memory at once where a query is streamed."""

UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError, DataError)
"""The errors of a row that can't be read."""


def _left_out(pk: Any, error: Exception) -> None:
    """Leave a row out."""


def readable(
    query: "models.QuerySet[Row]",
    instead: Callable[[Any, Exception], Row | None] = _left_out,
    *,
    most: int | None = None,
) -> list[Row]:
    """Return the rows of a query; an unreadable one is logged, and left out or replaced.

    Parameters
    ----------
    query:
        The query.
    instead:
        Takes the primary key of an unreadable row, and the error; returns a row in its place, or
        ``None`` to leave it out.
    most:
        How many rows at most; ``None``: all.
    """
    try:
        return list(query[:most])
    except UNREADABLE as error:
        _log_that_not_together(query, error)
    return list(_one_by_one(query, set(), instead, most))


def streamed(
    query: "models.QuerySet[Row]", instead: Callable[[Any, Exception], Row | None] = _left_out
) -> Iterator[Row]:
    """Yield the rows that ``readable`` returns, in one query, without all of them in memory.

    Parameters
    ----------
    query, instead:
        As for ``readable``.
    """
    seen: set[Any] = set()
    try:
        for row in query.iterator(chunk_size=STREAMED_AT_ONCE):
            seen.add(row.pk)
            yield row
    except UNREADABLE as error:
        _log_that_not_together(query, error)
    else:
        return
    yield from _one_by_one(query, seen, instead)


def _one_by_one(
    query: "models.QuerySet[Row]",
    seen: set[Any],
    instead: Callable[[Any, Exception], Row | None],
    most: int | None = None,
) -> Iterator[Row]:
    """Yield the remaining rows, each by its own query."""
    for pk in query.prefetch_related(None).values_list("pk", flat=True)[:most]:
        if pk in seen:
            continue
        found: Row | None
        try:
            found = query.get(pk=pk)
        except ObjectDoesNotExist:  # deleted meanwhile
            continue
        except UNREADABLE as error:
            logger.exception("The %s %s can't be read.", query.model._meta.verbose_name, pk)
            found = instead(pk, error)
        if found is not None:
            yield found


def _log_that_not_together(query: "models.QuerySet[Row]", error: Exception) -> None:
    what = query.model._meta.verbose_name_plural
    logger.warning("The %s can't be read together, but one by one: %r", what, error)
