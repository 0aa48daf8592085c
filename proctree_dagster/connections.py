"""Database connections of code that outlives a request: workers, servers, schedulers."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import close_old_connections


@contextmanager
def fresh_connections() -> Iterator[None]:
    """Use no connection that has gone stale, and leave none behind; do nothing in a transaction.

    (``close_old_connections`` leaves a connection in an atomic block alone.)
    """
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
