"""Database connections of code that outlives a request: workers, servers, schedulers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections, transaction


@contextmanager
def fresh_connections() -> Iterator[None]:
    """Use no connection that has gone stale, and leave none behind."""
    _close_old_connections()
    try:
        yield
    finally:
        _close_old_connections()


@contextmanager
def own_connections() -> Iterator[None]:
    """Close the connections of a thread that ends with the block: nobody else can use them."""
    try:
        yield
    finally:
        connections.close_all()


def after_commit(func: Callable[[], object]) -> None:
    """Call ``func`` when the current transaction commits; at once if there is none."""
    if in_transaction():
        transaction.on_commit(func)
    else:
        func()


def in_transaction() -> bool:
    """Say whether the caller is inside a transaction that may yet be rolled back.

    The one that a ``TestCase`` wraps around a test does not count, as it does not for
    ``atomic(durable=True)``: a test would wait for its commit in vain.
    """
    blocks = connections[DEFAULT_DB_ALIAS].atomic_blocks
    return not all(getattr(block, "_from_testcase", False) for block in blocks)


def in_any_transaction() -> bool:
    """Say whether another thread would not see what this one has written: a test's counts, too."""
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


def _close_old_connections() -> None:
    """Do what Django does between requests, and leave a transaction of the caller's alone.

    Django's own function takes an atomic block on SQLite for a connection that somebody forgot to
    reset, and closes it: everything in the block would be lost without a word.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
