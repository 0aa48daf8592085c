"""Removing runs, in batches: their files, their events, and last the runs themselves.

A process that is killed in between leaves runs with less of a log, which the next pass removes.
Dagster's own ``delete_run`` begins with the run, and leaves each run's file of events.
"""

import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster import DagsterInstance

from ...domain.pace import Pace
from .. import dagster_internals as internals
from ..runs.removed import STATUS_EVENTS

logger = logging.getLogger(__name__)

LOGS = "compute_logs"
"""The folder with what the processes of a run have printed, beside its results."""


class Removal:
    """Removes what belongs to runs from an instance.

    Parameters
    ----------
    instance:
        The instance.
    pace:
        How much is removed at once.
    """

    def __init__(self, instance: DagsterInstance, pace: Pace) -> None:
        self._instance, self._pace = instance, pace
        self._runs: Any = instance.run_storage
        self._events: Any = instance.event_log_storage
        self._folder = Path(instance.storage_directory())
        self.freed = 0
        """Bytes of the removed files."""

    def runs(self, run_ids: Collection[str]) -> None:
        """Remove runs with all that belongs to them."""
        self._free_slots(run_ids)
        self.results(run_ids)
        self._logs(run_ids)
        self._delete_events(run_ids, besides=())
        self._delete_rows(self._runs.connect, internals.RunTagsTable, run_ids)
        self._delete_rows(self._runs.connect, internals.RunsTable, run_ids)

    def events(self, run_ids: Collection[str]) -> None:
        """Remove the logs of runs, but for the events that say how they began and ended."""
        self._logs(run_ids)
        self._delete_events(run_ids, besides=STATUS_EVENTS)

    def results(self, run_ids: Collection[str]) -> None:
        """Remove the results that the processes of runs have passed on."""
        for run_id in run_ids:
            folder = self._folder / run_id
            for path in _in_folder(folder):
                if path.name != LOGS:
                    self._remove(path)
            _remove_if_empty(folder)

    def _logs(self, run_ids: Collection[str]) -> None:
        manager = self._instance.compute_log_manager
        for run_id in run_ids:
            folder = self._folder / run_id / LOGS
            self.freed += size_of(folder)
            try:
                manager.delete_logs(prefix=[run_id, LOGS])
            except Exception:  # a store of a project's own; the rest of the run must not stay
                logger.exception("What run %s has printed can't be removed.", run_id)
            _remove_if_empty(folder.parent)
            self.shard(run_id)

    def shard(self, run_id: str) -> None:
        """Remove the file of a run's events, if SQLite has one for each run."""
        if isinstance(self._events, internals.SqliteEventLogStorage):
            path = self._events.path_for_shard(run_id)
            for suffix in ("-wal", "-shm", ""):  # the file last: it is found again by the next pass
                self._remove(Path(path + suffix))

    def leftovers(self, run_id: str) -> None:
        """Remove the files of a run that is gone."""
        self._logs([run_id])
        self._remove(self._folder / run_id)

    def _remove(self, path: Path) -> None:
        """Remove a file or a folder; one that can't be is logged, and left for the next pass."""
        size = size_of(path)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            self.freed += size
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s can't be removed: %s", path, error)

    def _free_slots(self, run_ids: Collection[str]) -> None:
        """Free places in pools that a run has left taken, as Dagster's ``delete_run`` does."""
        if self._events.supports_global_concurrency_limits:
            for run_id in self._events.get_concurrency_run_ids() & set(run_ids):
                self._events.free_concurrency_slots_for_run(run_id)

    def _delete_events(self, run_ids: Collection[str], besides: Sequence[str]) -> None:
        """Delete events of the table that holds those of all runs; on SQLite it has few of each."""
        table = internals.SqlEventLogStorageTable
        chosen: Any = table.c.run_id.in_(list(run_ids))
        if besides:
            kind = table.c.dagster_event_type
            chosen &= sqlalchemy.or_(kind.is_(None), kind.not_in(besides))
        else:
            self._delete_asset_events(run_ids)
        self._delete_chosen(self._events.index_connection, table, chosen)

    def _delete_asset_events(self, run_ids: Collection[str]) -> None:
        """Delete with Dagster's own function the events of runs that have made assets.

        They are in other tables, too. Trees make none by themselves.
        """
        table = internals.SqlEventLogStorageTable
        query = sqlalchemy.select(table.c.run_id).distinct()
        query = query.where(table.c.run_id.in_(list(run_ids)), table.c.asset_key.is_not(None))
        with self._events.index_connection() as connection:
            found = connection.execute(query).scalars().all()
        for run_id in found:
            with self._pace.batch(), self._events.index_connection() as connection:
                self._events.delete_events_for_run(connection, run_id)

    def _delete_rows(
        self, connect: Callable[[], Any], table: sqlalchemy.Table, run_ids: Collection[str]
    ) -> None:
        self._delete_chosen(connect, table, table.c.run_id.in_(list(run_ids)))

    def _delete_chosen(
        self, connect: Callable[[], Any], table: sqlalchemy.Table, chosen: Any
    ) -> None:
        query = sqlalchemy.select(table.c.id).where(chosen)
        with connect() as connection:
            ids = list(connection.execute(query).scalars())
        delete_by_id(connect, table, ids, self._pace)


def delete_by_id(
    connect: Callable[[], Any], table: sqlalchemy.Table, ids: Sequence[int], pace: Pace
) -> None:
    """Delete rows by their ids, so many in a transaction as the pace says."""
    begin = 0
    while begin < len(ids):
        chunk = list(ids[begin : begin + pace.size])
        begin += len(chunk)
        with ExitStack() as opened:
            connection = opened.enter_context(connect())
            _take_lock(connection)
            with pace.batch():
                connection.execute(table.delete().where(table.c.id.in_(chunk)))
                opened.close()  # commits


_QUICK = ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 0", "BEGIN IMMEDIATE")
"""What keeps SQLite from waiting for the disk while it holds its write lock, and takes that.

After a power failure the last removals may be undone: the next pass repeats them.
"""


def _take_lock(connection: sqlalchemy.Connection) -> None:
    """Wait for SQLite's write lock, so that only its holding is timed; others lock rows only."""
    if connection.dialect.name == "sqlite":
        for statement in _QUICK:
            connection.execute(sqlalchemy.text(statement))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(size_of(each) for each in path.iterdir())
        return path.lstat().st_size
    except OSError:  # removed meanwhile
        return 0


def _in_folder(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # there is none
        return []


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it has other files, or is not there
        folder.rmdir()
