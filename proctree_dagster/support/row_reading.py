"""Reading several rows of which one can't be read: it hides no other.

SQL may put into a row what Python can't read: a day that there is not, ``infinity`` on PostgreSQL,
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
"""How many rows are in memory at once where a query is streamed."""

UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError, DataError)
"""What is raised when a row holds what can't be read."""


def _left_out(pk: Any, error: Exception) -> None:
    """Leave a row out."""


def readable(
    query: "models.QuerySet[Row]", instead: Callable[[Any, Exception], Row | None] = _left_out
) -> list[Row]:
    """Return the rows of a query; one that can't be read is logged, and hides no other.

    Parameters
    ----------
    query:
        What to read.
    instead:
        Takes the primary key of a row that can't be read, and the error; returns what stands in
        its place, or ``None`` for nothing.
    """
    try:
        return list(query)
    except UNREADABLE as error:
        _log_that_not_together(query, error)
    return list(_one_by_one(query, set(), instead))


def streamed(
    query: "models.QuerySet[Row]", instead: Callable[[Any, Exception], Row | None] = _left_out
) -> Iterator[Row]:
    """Yield what ``readable`` returns, in one query, without keeping it all in memory.

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
) -> Iterator[Row]:
    """Yield the rows that were not seen yet, each by a query of its own."""
    for pk in query.prefetch_related(None).values_list("pk", flat=True):
        if pk in seen:
            continue
        found: Row | None
        try:
            found = query.get(pk=pk)
        except ObjectDoesNotExist:  # it was deleted at this moment
            continue
        except UNREADABLE as error:
            logger.exception("The %s %s can't be read.", query.model._meta.verbose_name, pk)
            found = instead(pk, error)
        if found is not None:
            yield found


def _log_that_not_together(query: "models.QuerySet[Row]", error: Exception) -> None:
    what = query.model._meta.verbose_name_plural
    logger.warning("The %s can't be read together, but one by one: %r", what, error)
