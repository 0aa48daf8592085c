"""Database connections of long-running code: workers, servers, schedulers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.db import connections, models, router, transaction


@contextmanager
def fresh_connections() -> Iterator[None]:
    """Drop connections that may have died while the thread was idle, before and after the block."""
    _close_old_connections()
    try:
        yield
    finally:
        _close_old_connections()


def close_all() -> None:
    """Close the connections of this thread, and this process's pools of connections.

    A pool (``OPTIONS["pool"]``) has threads, and a process that has threads can't be forked.
    """
    connections.close_all()
    for connection in connections.all(initialized_only=True):
        if connection.alias in getattr(connection, "_connection_pools", ()):
            connection.close_pool()  # type: ignore[attr-defined]  # only some kinds have one


@contextmanager
def own_connections() -> Iterator[None]:
    """Close the connections of a thread that ends with the block."""
    try:
        yield
    finally:
        connections.close_all()


@contextmanager
def writing(model: type[models.Model], using: str | None = None) -> Iterator[str]:
    """Open a transaction that reads and then writes, on the database of a model's rows.

    On SQLite it takes the write lock first, and waits for it up to the connection's ``timeout``: a
    transaction that has read before it requests the lock fails at once while another one writes.
    A transaction of the caller's that has read already can't avoid that.

    Parameters
    ----------
    model:
        The model whose rows are written.
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
            with connection.cursor() as cursor:  # a write that changes nothing, for the lock
                table = connection.ops.quote_name(model._meta.db_table)
                cursor.execute(f"DELETE FROM {table} WHERE 0")  # noqa: S608
        yield alias


def after_commit(func: Callable[[], object], *, robust: bool = False) -> None:
    """Call ``func`` once all transactions of the caller have committed; at once if there are none.

    It is not called if one of them is rolled back, on whatever database.

    Parameters
    ----------
    func:
        The function.
    robust:
        Whether an error in it is logged, instead of raised by the commit.
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
    """Return the aliases on which the caller has an open transaction.

    The transaction of a ``TestCase`` does not count, as for ``atomic(durable=True)``: it never
    commits.
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
    """Return whether this thread is in a transaction, that of a ``TestCase`` included."""
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


def is_bound_to_thread() -> bool:
    """Return True if no other thread should work beside this one.

    It would not see the caller's transaction (a test's included), or find an in-memory database
    locked.
    """
    return in_any_transaction() or any(
        getattr(connection, "is_in_memory_db", bool)()
        for connection in connections.all(initialized_only=True)
    )


def _close_old_connections() -> None:
    """Do what Django does between requests, but leave a transaction of the caller's alone.

    Django's own function mistakes an atomic block on SQLite for a wrong autocommit mode, and closes
    the connection: everything in the block would be lost silently.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
