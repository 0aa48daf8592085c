"""Database connections of code that outlives a request: workers, servers, schedulers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.db import connections, models, router, transaction


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


@contextmanager
def writing(model: type[models.Model], using: str | None = None) -> Iterator[str]:
    """Open a transaction on the database of a model's rows that reads and then writes.

    On SQLite it takes the write lock first, waiting as long as the connection's ``timeout`` says: a
    transaction that has read before it asks for the lock is refused at once while another writes.
    Inside a transaction of the caller's that has read, nothing can be done about that.

    Parameters
    ----------
    model:
        What is written.
    using:
        The database's alias; left out, where the router writes the model.

    Yields
    ------
    str
        The alias.
    """
    alias = using or router.db_for_write(model)
    with transaction.atomic(using=alias):
        connection = connections[alias]
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:  # it deletes nothing
                table = connection.ops.quote_name(model._meta.db_table)
                cursor.execute(f"DELETE FROM {table} WHERE 0")  # noqa: S608
        yield alias


def after_commit(func: Callable[[], object], *, robust: bool = False) -> None:
    """Call ``func`` once all transactions that the caller is in have committed; at once if none.

    If one of them is rolled back, on whatever database, it is not called: who wraps a call in two
    transactions wants it only if both hold.

    Parameters
    ----------
    func:
        What to call.
    robust:
        Whether an error in it is logged, instead of raised to who commits.
    """
    waits_for = open_transactions()
    if not waits_for:
        func()
        return

    def commit(alias: str) -> None:
        waits_for.discard(alias)
        if not waits_for:
            func()

    for alias in list(waits_for):
        transaction.on_commit(partial(commit, alias), using=alias, robust=robust)


def open_transactions() -> set[str]:
    """Return the aliases on which the caller is in a transaction that may yet be rolled back.

    The one that a ``TestCase`` wraps around a test does not count, as it does not for
    ``atomic(durable=True)``: a test would wait for its commit in vain.
    """
    return {
        connection.alias
        for connection in connections.all(initialized_only=True)
        if not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    }


def in_transaction() -> bool:
    """Return whether the caller is in a transaction on any database; see ``open_transactions``."""
    return bool(open_transactions())


def in_any_transaction() -> bool:
    """Say whether another thread would not see what this one has written: a test's counts, too."""
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


def is_bound_to_thread() -> bool:
    """Return True if no other thread should work beside this one.

    It would not see the caller's transaction (a test's counts, too), or find an in-memory database
    locked.
    """
    return in_any_transaction() or any(
        getattr(connection, "is_in_memory_db", bool)()
        for connection in connections.all(initialized_only=True)
    )


def _close_old_connections() -> None:
    """Do what Django does between requests, and leave a transaction of the caller's alone.

    Django's own function takes an atomic block on SQLite for a connection that somebody forgot to
    reset, and closes it: everything in the block would be lost without a word.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
