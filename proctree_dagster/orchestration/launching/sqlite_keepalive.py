"""Dagster's SQLite files, held open by a long-running process, and their cached engines.

Dagster opens and closes them for each query. The last process to close one must write its log back
and wait for the disk, unless another one holds it open. And Dagster creates SQLAlchemy's engine for
each query, which takes longer than the query.
"""

import os
import sqlite3
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster import DagsterInstance
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from .. import dagster_internals as internals
from ..dagster_features import SQLITE_KEEPALIVE, is_on
from ..sqlite_engines import engine_of

_ENGINES = 32
"""How many are kept, those that were used last: every run has a file of its own."""


opened_during_runs: "weakref.WeakSet[DagsterInstance]" = weakref.WeakSet()
"""Instances that stay open without a user: their files are held open while a run is executed."""

_opened: "weakref.WeakSet[ExitStack]" = weakref.WeakSet()


def keep_open(paths: Iterable[Path]) -> ExitStack:
    """Open files, and return what closes them; those that are not there are left out.

    They are closed before this process is forked, too. SQLite's locks belong to a process, and it
    would believe in a child that the child has them: another process could then remove what the
    child writes.
    """
    opened = ExitStack()
    _opened.add(opened)
    for path in paths:
        if path.is_file():
            # It may be another thread that closes it.
            connection = sqlite3.connect(path, check_same_thread=False)
            opened.callback(connection.close)
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # opens it
    return opened


def _close_before_fork() -> None:
    for each in list(_opened):
        each.close()


os.register_at_fork(before=_close_before_fork)


def of_instance(instance: DagsterInstance) -> list[Path]:
    """Return the files that are asked all the time; none if Dagster uses another storage."""
    if not is_on(SQLITE_KEEPALIVE):
        return []
    if not isinstance(instance.run_storage, internals.SqliteRunStorage):
        return []
    home = Path(instance.root_directory)
    names = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
    return [home / name for name in names]


def of_worker(instance: DagsterInstance) -> list[Path]:
    """Return the files that a run's worker writes to again and again; none if they are elsewhere.

    Not the file of the run's own events: Dagster's UI reads it when it is written back.
    """
    if not is_on(SQLITE_KEEPALIVE):
        return []
    storage = instance.event_log_storage
    if not isinstance(storage, internals.sqlite_event_log.SqliteEventLogStorage):
        return []
    return [Path(storage.path_for_shard(internals.sqlite_event_log.INDEX_SHARD_NAME))]


def keep_engines() -> None:
    """Let Dagster's storages make one engine for each file from now on, in this process.

    An engine without a pool holds nothing open: only what it has learned is kept. A storage that
    makes its engines in another way than the one that is known stays as it is.
    """
    for module in _storages():
        if getattr(module, "create_engine", None) is sqlalchemy.create_engine:
            module.create_engine = _kept_or_new


def _storages() -> tuple[Any, ...]:
    """Return the modules of Dagster's SQLite storages; none if this Dagster does not allow it."""
    if not is_on(SQLITE_KEEPALIVE):
        return ()
    return (
        internals.sqlite_event_log,
        internals.sqlite_run_storage,
        internals.sqlite_schedule_storage,
    )


def _kept_or_new(url: str, **options: Any) -> Engine:
    timeout = options.get("connect_args", {}).get("timeout")
    if options == _options(timeout):
        return _engine(url, timeout)
    return sqlalchemy.create_engine(url, **options)


def _options(timeout: float | None) -> dict[str, Any]:
    """Return what the storages pass on."""
    arguments = {} if timeout is None else {"connect_args": {"timeout": timeout}}
    return {"poolclass": NullPool, **arguments}


@lru_cache(maxsize=_ENGINES)
def _engine(url: str, timeout: float | None) -> Engine:
    return engine_of(url, timeout)
