"""Dagster's event log on SQLite, whose file for a new run is a copy of an empty one.

Dagster keeps the events of each run in a file of its own. Creating one takes it as long as a small
run: every table by itself, with alembic's migrations read twice. And each of the file's twenty-five
tables and indexes takes four kilobytes, however few rows it has: an empty one has 115 kB, this
one 8.
"""

import hashlib
import logging
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster
import sqlalchemy
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .dagster_internals import SqliteEventLogStorage, sqlite_event_log
from .sqlite_engines import engine_of

logger = logging.getLogger(__name__)

PAGE_BYTES = 1024
"""Bytes of a page of a run's file; SQLite's own are 4096."""

TABLES = ("event_logs", "asset_event_tags", "alembic_version")
"""The tables of a run's file. Dagster makes eight more, and asks for them in ``index.db`` only.

Of ``asset_event_tags`` it deletes with a run. Its migrations look which tables a database has: they
are the same for each of Dagster's databases.
"""

INDEXES = ("idx_event_type", "idx_step_key")
"""The indexes of a run's file. The other ones are for the runs and assets of a database of many."""

DIGEST_BYTES = 32
"""Bytes of the SHA-256 digest before the kept content of an empty file."""


class RunFileStorage(SqliteEventLogStorage):
    """Dagster's event log on SQLite. Files that are there already stay as they are."""

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        """Create a file's tables; called once for each file in a process."""
        path = Path(engine.url.database or "")
        is_of_run = not for_index_shard and path != Path(
            self.path_for_shard(sqlite_event_log.INDEX_SHARD_NAME)
        )
        if _has_tables(engine, path) or (is_of_run and create(path, super()._initdb)):
            return
        super()._initdb(engine, for_index_shard)

    def begin(self, run_id: str, insert: sqlalchemy.Insert) -> bool:
        """Create a run's file with its first event in it; the disk is waited for once.

        Parameters
        ----------
        run_id:
            The run's id.
        insert:
            The statement that inserts the event.

        Returns
        -------
        bool
            Whether it did; if not, the event is stored as any other one.
        """
        path = Path(self.path_for_shard(run_id))
        return not path.exists() and create(path, super()._initdb, insert)

    def _connect(self, shard: str) -> Any:
        """Connect to a file; to one that another process has removed meanwhile as to a new one."""
        if not _has_content(Path(self.path_for_shard(shard))):
            self._initialized_dbs.discard(shard)
        return super()._connect(shard)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _has_tables(engine: Engine, path: Path) -> bool:
    """Return whether Dagster would create nothing in a file: its revision is recorded."""
    if not path.exists():  # to connect would create it
        return False
    with suppress(DBAPIError), engine.connect() as connection:
        revisions = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        return revisions.first() is not None
    return False


def create(
    path: Path,
    create_tables: Callable[[Engine], None],
    insert: sqlalchemy.Insert | None = None,
) -> bool:
    """Create a run's file, unless another process does so at the same moment.

    It appears at once, with all of its tables: a process that is killed leaves none, or all of it.

    Parameters
    ----------
    path:
        The file.
    create_tables:
        Dagster's own way to create one.
    insert:
        The statement that inserts its first event.

    Returns
    -------
    bool
        Whether it did. Not on a file system without hard links, nor where nothing can be written,
        and not if there is a file, or what SQLite has left of one.
    """
    if Path(f"{path}-wal").exists():  # of a removed file: SQLite would read it into the copy
        return False
    try:
        with _draft(path.parent) as draft:
            _write(draft, _empty(path.parent, create_tables), insert)
            os.link(draft, path)
    except FileExistsError:
        return False
    except (OSError, sqlite3.Error, DBAPIError):
        logger.warning("%s can't be created by a copy.", path, exc_info=True)
        return False
    return True


_contents: dict[Path, bytes] = {}
"""The content of an empty file, by the folder of the files."""


def _empty(folder: Path, create_tables: Callable[[Engine], None]) -> bytes:
    """Return the content of a run's file without events; made once in a home for each Dagster."""
    if folder not in _contents:
        _contents[folder] = _read_or_make(folder, create_tables)
    return _contents[folder]


def _read_or_make(folder: Path, create_tables: Callable[[Engine], None]) -> bytes:
    kept = folder / f".empty-{dagster.__version__}-{PAGE_BYTES}-{len(TABLES)}"
    content = _read(kept)
    if content is not None:
        return content
    content = _made(create_tables)
    try:
        with _draft(folder) as draft:
            _write(draft, _digest(content) + content)
            draft.replace(kept)
    except OSError:
        logger.warning("%s can't be written: each process makes its own.", kept, exc_info=True)
    return content


def _read(kept: Path) -> bytes | None:
    """Return the content that is kept in a file, after its digest; ``None`` if it is not whole."""
    try:
        found = kept.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s can't be read: this process makes its own. %s", kept, error)
        return None
    content = found[DIGEST_BYTES:]
    if content and found[:DIGEST_BYTES] == _digest(content):
        return content
    logger.warning("%s is damaged, and is made again.", kept)
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _made(create_tables: Callable[[Engine], None]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("VACUUM")
        create_tables(sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=NullPool))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _drop_unneeded(connection)
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


def _drop_unneeded(connection: sqlite3.Connection) -> None:
    for kind, needed in (("index", INDEXES), ("table", TABLES)):
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite%'", (kind,)
        )
        for (name,) in found.fetchall():
            if name not in needed:
                connection.execute(f'DROP {kind} "{name}"')


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """Have the path of a file that is not there any more afterwards."""
    draft = folder / f".{uuid.uuid4().hex}"
    try:
        yield draft
    finally:
        for each in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm")):
            with suppress(OSError):  # it was not created, or nothing can be changed in the folder
                each.unlink()


def _write(path: Path, content: bytes, insert: sqlalchemy.Insert | None = None) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        if insert is not None:
            _execute(path, insert)
        os.fsync(file.fileno())


def _execute(path: Path, insert: sqlalchemy.Insert) -> None:
    """Insert an event into a file that nobody else knows of; the disk is not waited for."""
    engine = engine_of(sqlalchemy.URL.create("sqlite", database=str(path)))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
        connection.execute(insert)
        connection.commit()
    if Path(f"{path}-wal").exists():
        raise sqlite3.OperationalError(f"SQLite has not written its log back into {path}.")
