"""Dagster's SQLite files, kept open by a process that goes on to use them.

Dagster opens and closes them for each query. Whoever is the last to close one must write its log
back and wait for the disk; where somebody holds them open, nobody is.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs import SqliteRunStorage


def keep_open(paths: Iterable[Path]) -> ExitStack:
    """Open files, and return what closes them; those that are not there are left out."""
    opened = ExitStack()
    for path in paths:
        if path.is_file():
            # It may be another thread that closes it.
            connection = sqlite3.connect(path, check_same_thread=False)
            opened.callback(connection.close)
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # opens it
    return opened


def of_instance(instance: DagsterInstance) -> list[Path]:
    """Return the files that the daemon asks all the time; none if Dagster uses another storage."""
    if not isinstance(instance.run_storage, SqliteRunStorage):
        return []
    home = Path(instance.root_directory)
    names = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
    return [home / name for name in names]


def of_worker(instance: DagsterInstance) -> list[Path]:
    """Return the files that a run's worker writes to again and again; none if they are elsewhere.

    Not the file of the run's own events: Dagster's UI looks at it when it is written back to.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, sqlite_event_log.SqliteEventLogStorage):
        return []
    return [Path(storage.path_for_shard(sqlite_event_log.INDEX_SHARD_NAME))]
