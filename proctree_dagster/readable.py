"""Reading several rows of which one can't be read: it hides no other.

SQL may put into a row what Python can't read: a day that there is not, ``infinity`` on PostgreSQL,
a number of five thousand digits in JSON. Django then raises for the query as a whole.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db import DataError, models

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=models.Model)

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
        what = query.model._meta.verbose_name_plural
        logger.warning("The %s can't be read together, but one by one: %r", what, error)
    found: list[Row | None] = []
    for pk in query.prefetch_related(None).values_list("pk", flat=True):
        try:
            found.append(query.get(pk=pk))
        except ObjectDoesNotExist:  # it was deleted at this moment
            continue
        except UNREADABLE as error:
            logger.exception("The %s %s can't be read.", query.model._meta.verbose_name, pk)
            found.append(instead(pk, error))
    return [row for row in found if row is not None]
