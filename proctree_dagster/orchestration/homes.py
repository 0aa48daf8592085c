"""A Dagster home's storage: its state, and a lock under which one process creates it.

Dagster creates missing tables whenever an instance is opened. Two processes that do so at the same
moment disturb each other: on SQLite they may leave two revisions, and then no process can open the
storage again. So a process that finds an incomplete storage takes a lock, checks again, repairs
what an earlier process has left half created, and lets Dagster create the rest.

On SQLite the lock is a file beside the databases; on PostgreSQL, whose clients may share no folder,
an advisory lock.

It is long because what is half created is recognised and repaired for two kinds of storage.
"""

import importlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

import sqlalchemy
from alembic.script import ScriptDirectory
from dagster import DagsterInstance, DagsterInvalidConfigError
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from ..domain.texts import explain
from ..exceptions import InstanceError, StorageAway
from . import dagster_internals as internals
from .dagster_features import HOMES, is_on
from .dagster_internals import ConfigurableClassData, DagsterSqliteStorage, InstanceRef
from .sqlite_engines import engine_of

if TYPE_CHECKING:
    from .dagster_internals import EventLogStorage, RunStorage, ScheduleStorage

logger = logging.getLogger(__name__)

LOCK_SECONDS = 120.0
"""Timeout of waiting for another process that creates the storage, which takes a second or two."""

LOCK_FILE = ".proctree.lock"
"""The file that is locked, beside SQLite's databases."""

ADVISORY_LOCK = 0x70726F6374726565
"""The key of PostgreSQL's advisory lock: "proctree" in ASCII."""

VERSIONS = "alembic_version"
"""The table in which alembic records the revision of a database."""

INDEXES = "secondary_indexes"
"""The table in which Dagster records its finished data migrations."""


class Storages(Protocol):
    """What a ``DagsterInstance`` and a ``DagsterStorage`` have in common."""

    @property
    def run_storage(self) -> "RunStorage": ...  # noqa: D102
    @property
    def event_log_storage(self) -> "EventLogStorage": ...  # noqa: D102
    @property
    def schedule_storage(self) -> "ScheduleStorage | None": ...  # noqa: D102


S = TypeVar("S", bound=Storages)


class Guarded:
    """A storage that only one process creates at a time, whichever opens it."""


@dataclass(frozen=True)
class Database:
    """A database of Dagster's storage."""

    url: sqlalchemy.URL
    """Its address."""

    schemas: tuple[sqlalchemy.MetaData, ...] = field(repr=False)
    """The tables that Dagster needs in it."""

    migrations: frozenset[str] = field(repr=False)
    """The data migrations that Dagster records as done when it has created it."""

    content: str
    """A table that has rows after the first use."""

    folder: Path | None = None
    """The folder of the storage, if the database is a file."""

    @property
    def file(self) -> Path | None:
        """The file, if it is one."""
        return None if self.folder is None else Path(self.url.database or "")

    @property
    def name(self) -> str:
        """Its name for messages: the file, or the address without the password."""
        return str(self.file or self.url.render_as_string(hide_password=True))

    @property
    def tables(self) -> Mapping[str, sqlalchemy.Table]:
        """The tables by name."""
        return {name: table for schema in self.schemas for name, table in schema.tables.items()}

    @contextmanager
    def connected(self, *, to_read: bool = False) -> Iterator[sqlalchemy.Connection]:
        """Connect to it, with a commit at the end.

        ``to_read``: so that nothing can be written to a file, nor the file be created.
        """
        url = self.url
        if to_read and self.file is not None:
            query = {"mode": "ro", "uri": "true"}
            url = url.set(database=f"file:{quote(str(self.file))}", query=query)
        engine = (
            sqlalchemy.create_engine(url, poolclass=NullPool)
            if self.file is None
            else engine_of(url)
        )
        with engine.begin() as connection:
            yield connection


@dataclass(frozen=True)
class State:
    """The state of a database."""

    missing: frozenset[str] = frozenset()
    """The missing tables."""

    revisions: tuple[str, ...] = ()
    """The revisions that alembic has recorded; exactly one in a complete database."""

    undone: frozenset[str] = frozenset()
    """The data migrations that are not recorded as done."""

    is_empty: bool = True
    """Whether it has none of Dagster's tables, so it has not been created yet."""

    @property
    def is_complete(self) -> bool:
        """Whether opening it creates nothing."""
        return len(self.revisions) == 1 and not self.missing and not self.undone

    @property
    def is_older(self) -> bool:
        """Whether an older Dagster has created it: it lacks what later ones have added."""
        return len(self.revisions) == 1 and self.revisions[0] != newest_revision()

    @property
    def is_half_created(self) -> bool:
        """Whether its creation was interrupted."""
        is_new = self.is_empty and not self.revisions
        return not (self.is_complete or is_new or self.is_older)


def scripts() -> Path:
    """Return the folder of the migrations of Dagster's storages."""
    return Path(internals.sql.__file__).parent / "alembic"


def newest_revision() -> str | None:
    """Return the revision of a database that this Dagster creates."""
    config = internals.get_alembic_config(internals.sqlite_run_storage.__file__)
    return ScriptDirectory.from_config(config).get_current_head()


def open_home(home: str) -> DagsterInstance:
    """Open the instance of a home; if its storage is not complete, create it under the lock.

    Raises
    ------
    InstanceError
        Dagster refuses its ``dagster.yaml``; another process holds the lock for too long; or the
        storage is broken and can't be repaired safely.
    """
    try:
        ref = InstanceRef.from_dir(home)
    except Exception as error:  # whatever Dagster raises for a dagster.yaml that it does not take
        raise InstanceError(
            f"The dagster.yaml of {home!r} can't be used: {explain(error)}\nMend it: "
            "'python manage.py proctree doctor' examines it, too."
        ) from error
    if is_guarded(ref):
        return DagsterInstance.from_ref(ref)
    return create_alone(databases(ref), lambda: DagsterInstance.from_ref(ref))


def is_guarded(ref: InstanceRef) -> bool:
    """Return whether an instance's storage takes the lock itself, whichever process opens it."""
    data = ref.storage_data
    return data is not None and issubclass(_class_of(data), Guarded)


def databases(ref: InstanceRef) -> Sequence[Database]:
    """Return the databases of an instance.

    Returns
    -------
    Sequence[Database]
        Empty for an unknown kind of storage (MySQL, a project's own), or if this Dagster does not
        allow it: its state can't be read without opening it.

    Raises
    ------
    DagsterInvalidConfigError
        ``dagster.yaml`` has something that Dagster refuses.
    """
    data = ref.storage_data
    if data is None or not is_on(HOMES):
        return ()
    storage = _class_of(data)
    if issubclass(storage, DagsterSqliteStorage):
        return of_sqlite(_configuration(storage, data)["base_dir"])
    if any(base.__name__ == "DagsterPostgresStorage" for base in storage.__mro__):
        from dagster_postgres.utils import pg_url_from_config

        configuration = _configuration(storage, data)
        if configuration.get("should_autocreate_tables", True):
            return of_postgres(pg_url_from_config(configuration))
    return ()


def files_of(ref: InstanceRef) -> Sequence[Path]:
    """Return the files of an instance's databases; none if they are no files, or not known."""
    return [each.file for each in databases(ref) if each.file is not None]


def mark_of(file: Path) -> object:
    """Return what differs if there is another file in the place of one; ``None`` if there is none.

    Whoever opens a home creates what has been removed of it again.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def has_wrong_driver(ref: InstanceRef) -> bool:
    """Return whether Dagster's own PostgreSQL storage would use a driver with which it fails."""
    data = ref.storage_data
    if (
        data is None
        or not is_on(HOMES)
        or is_guarded(ref)
        or data.class_name != "DagsterPostgresStorage"
    ):
        return False
    from dagster_postgres.utils import pg_url_from_config

    address = pg_url_from_config(_configuration(_class_of(data), data))
    return with_working_driver(address) != sqlalchemy.make_url(address)


def _class_of(data: ConfigurableClassData) -> type[Any]:
    """Return the class that ``dagster.yaml`` names."""
    found: type[Any] = getattr(importlib.import_module(data.module_name), data.class_name)
    return found


def _configuration(storage: type[Any], data: ConfigurableClassData) -> Mapping[str, Any]:
    """Return a storage's configuration with the environment's variables filled in."""
    result = internals.process_config(
        internals.resolve_to_config_type(storage.config_type()), data.config_dict
    )
    if not result.success:
        raise DagsterInvalidConfigError(
            "dagster.yaml does not configure the storage as it must be.",
            result.errors,
            data.config_dict,
        )
    value: Mapping[str, Any] = result.value or {}
    return value


def of_sqlite(folder: str) -> Sequence[Database]:
    """Return the databases of Dagster's SQLite storage in a folder; see ``databases``."""
    if not is_on(HOMES):
        return ()

    def database(
        file: str, schema: sqlalchemy.MetaData, migrations: Mapping[str, Any], content: str
    ) -> Database:
        base = Path(folder).absolute()
        url = sqlalchemy.URL.create("sqlite", database=str(base / file))
        return Database(url, (schema,), frozenset(migrations), content, base)

    return [
        database(
            "history/runs.db",
            internals.RunStorageSqlMetadata,
            internals.REQUIRED_DATA_MIGRATIONS,
            "runs",
        ),
        database(
            "history/runs/index.db",
            internals.SqlEventLogStorageMetadata,
            internals.ASSET_DATA_MIGRATIONS,
            "event_logs",
        ),
        database(
            "schedules/schedules.db",
            internals.ScheduleStorageSqlMetadata,
            internals.REQUIRED_SCHEDULE_DATA_MIGRATIONS,
            "jobs",
        ),
    ]


def of_postgres(address: str) -> Sequence[Database]:
    """Return the one database of Dagster's PostgreSQL storage; see ``databases``."""
    if not is_on(HOMES):
        return ()
    return [
        Database(
            with_working_driver(address),
            (
                internals.RunStorageSqlMetadata,
                internals.SqlEventLogStorageMetadata,
                internals.ScheduleStorageSqlMetadata,
            ),
            frozenset(
                {
                    *internals.REQUIRED_DATA_MIGRATIONS,
                    *internals.ASSET_DATA_MIGRATIONS,
                    *internals.REQUIRED_SCHEDULE_DATA_MIGRATIONS,
                }
            ),
            "runs",
        )
    ]


def with_working_driver(address: str) -> sqlalchemy.URL:
    """Return a PostgreSQL address with the driver that dagster-postgres is written for.

    ``postgresql://`` means psycopg 3 from SQLAlchemy 2.1 on. dagster-postgres uses the connection
    as psycopg 2 allows it and psycopg 3 does not: the webserver's connections are closed before
    their first query.
    """
    url = sqlalchemy.make_url(address)
    if url.get_backend_name() == "postgresql" and url.get_driver_name() == "psycopg":
        return url.set(drivername="postgresql+psycopg2")
    return url


def state_of(database: Database, *, to_read: bool = True) -> State:
    """Return the state of a database. Writes nothing.

    Parameters
    ----------
    database:
        The database.
    to_read:
        Whether to open it read-only. SQLite can't read a file so whose writer was killed, as it
        must roll that transaction back first.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        It can't be read.
    """
    tables = database.tables
    if database.file is not None and not database.file.exists():
        return State(missing=frozenset(tables))
    with database.connected(to_read=to_read) as connection:
        present = _names_of_tables(connection)

        # As text: each process of a run asks, and would compile the statements first.
        def read(column: str, table: str) -> frozenset[str]:
            if table not in present:
                return frozenset()
            rows = connection.exec_driver_sql(f"SELECT {column} FROM {table}")  # noqa: S608  # ours
            return frozenset(rows.scalars())

        def is_used() -> bool:
            query = f"SELECT 1 FROM {database.content} LIMIT 1"  # noqa: S608  # Dagster's
            return connection.exec_driver_sql(query).first() is not None

        return State(
            missing=frozenset(tables) - present,
            revisions=tuple(sorted(read("version_num", VERSIONS))),
            # In a database in use they may take long, so the operator decides.
            undone=(
                database.migrations - read("name", INDEXES)
                if database.content in present and not is_used()
                else frozenset()
            ),
            is_empty=not tables.keys() & present,
        )


def _names_of_tables(connection: sqlalchemy.Connection) -> frozenset[str]:
    if connection.dialect.name != "sqlite":
        return frozenset(sqlalchemy.inspect(connection).get_table_names())
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return frozenset(connection.exec_driver_sql(query).scalars())


def create_alone(
    found: Sequence[Database],
    open_storage: Callable[[], S],
    open_complete: Callable[[], S] | None = None,
) -> S:
    """Open a storage, and create it under a lock if it is not complete.

    Parameters
    ----------
    found:
        Its databases.
    open_storage:
        Opens it as Dagster does, which creates what is missing.
    open_complete:
        Opens it if nothing is missing. Left out: as Dagster does.

    Raises
    ------
    InstanceError
        Another process holds the lock for too long, a database can't be repaired, or
        (``StorageAway``) its server can't be reached.
    """
    if is_on(HOMES):
        _name_scripts_by_path()
    if all(map(_is_complete, found)):
        return _knowing_its_columns((open_complete or open_storage)())
    try:
        with _lock(found[0]):
            return _knowing_its_columns(_create(found, open_storage))
    except DBAPIError as error:
        names = ", ".join(database.name for database in found)
        is_away = isinstance(error, OperationalError) and all(each.file is None for each in found)
        raise (StorageAway if is_away else InstanceError)(
            f"Dagster's storage can't be opened ({names}): {error.orig}. Start the database, or "
            "mend its address in dagster.yaml and its permissions. A file that is broken: restore "
            "it from a backup, or move it away; then a new one is created, without its history."
        ) from error


COLUMNS = ("has_run_stats_index_cols", "has_backfill_id_column")
"""What Dagster's run storage asks the database about the table of runs, some seven times a run."""


def _knowing_its_columns(opened: S) -> S:
    """Let a storage ask no more for a column that it has found: none is ever dropped."""
    storage = opened.run_storage
    for name in COLUMNS:
        ask = getattr(storage, name, None)
        if ask is not None:
            setattr(storage, name, _until_true(ask))
    return opened


def _until_true(ask: Callable[[], bool]) -> Callable[[], bool]:
    found = False

    def answer() -> bool:
        nonlocal found
        found = found or ask()
        return found

    return answer


def _create(found: Sequence[Database], open_storage: Callable[[], S]) -> S:
    """Open a storage, and create what it lacks. Call it under the lock."""
    states = {database: state_of(database, to_read=False) for database in found}
    for database, state in states.items():
        if state.is_half_created:
            logger.warning("Dagster's database %s is half created; completing it.", database.name)
            _repair(database)
    opened = open_storage()
    if not all(state.is_complete or state.is_older for state in states.values()):
        _migrate_data(opened)
    for database, state in states.items():
        if state.is_empty and database.file is not None:
            with closing(sqlite3.connect(database.file, isolation_level=None)) as connection:
                rewrite_to_shrink(connection)
    return opened


INCREMENTAL = 2
"""SQLite's ``auto_vacuum`` of a file that gives unused pages back when it is asked to."""


def rewrite_to_shrink(connection: sqlite3.Connection) -> None:
    """Rewrite an SQLite file so that it can give unused pages back to the disk from then on.

    It locks the file for as long as that takes: a new one for some milliseconds.
    """
    connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
    connection.execute("VACUUM")


def _name_scripts_by_path() -> None:
    """Make Dagster's SQLite storages name the folder of their migrations by its path.

    They name it as ``package:folder``. Alembic resolves such a name each time a storage is opened,
    and never frees the result (2 kB, five times a run).
    """
    for storage in (
        internals.sqlite_event_log,
        internals.sqlite_run_storage,
        internals.sqlite_schedule_storage,
    ):
        internals.get_alembic_config(storage.__file__).set_main_option(
            "script_location", str(scripts())
        )


_complete: dict[Path, tuple[object, int]] = {}
"""Of files that are known to be complete: their marks and their sizes then."""


def remember(ref: InstanceRef) -> None:
    """Learn which files of an instance are complete, so that no process forked from here asks.

    A file that was complete still is, unless it is another one or has become smaller: then it was
    replaced in place.
    """
    for database in databases(ref):
        file = database.file
        if file is not None:
            now = (mark_of(file), _size_of(file))
            if _is_complete(database):
                _complete[file] = now


def _is_known(file: Path) -> bool:
    if file not in _complete:
        return False
    mark, size = _complete[file]
    return mark is not None and mark == mark_of(file) and _size_of(file) >= size


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _is_complete(database: Database) -> bool:
    if database.file is not None and _is_known(database.file):
        return True
    try:
        return state_of(database).is_complete
    except DBAPIError:  # locked by its creator, or not reachable: opening it reports that
        return False


def _lock(database: Database) -> AbstractContextManager[None]:
    return _advisory_lock(database) if database.folder is None else _file_lock(database.folder)


@contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK_FILE, timeout=LOCK_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InstanceError(
            f"Another process has been creating Dagster's storage in {str(folder)!r} for more than "
            f"{LOCK_SECONDS:.0f} seconds: it holds the lock of {LOCK_FILE!r} there. End it (a "
            "stopped process holds the lock, too)."
        ) from error
    except OSError as error:
        raise InstanceError(
            f"Dagster's storage can't be created in {str(folder)!r}: {error}."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _advisory_lock(database: Database) -> Iterator[None]:
    # The transaction's, not the session's: it holds through a connection pooler, too.
    with database.connected() as connection:
        for limit in (
            f"lock_timeout = '{LOCK_SECONDS:.0f}s'",
            "statement_timeout = 0",  # this role's would end the wait, or the lock, sooner
            "idle_in_transaction_session_timeout = 0",
        ):
            connection.execute(sqlalchemy.text(f"SET LOCAL {limit}"))
        try:
            connection.execute(
                sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK}
            )
        except DBAPIError as error:
            raise InstanceError(
                f"Another process has been creating Dagster's storage in {database.name} for more "
                f"than {LOCK_SECONDS:.0f} seconds. End it: its connection holds PostgreSQL's "
                f"advisory lock (see pg_locks)."
            ) from error
        yield


def _repair(database: Database) -> None:
    """Complete the tables of a half-created database and note its one revision.

    Raises
    ------
    InstanceError
        A table differs from those of this Dagster, so another Dagster has created it.
    """
    with database.connected() as connection:
        found = sqlalchemy.inspect(connection)
        present = set(found.get_table_names())
        for name, table in database.tables.items():
            if name not in present:
                continue
            columns = {column["name"] for column in found.get_columns(name)}
            if lacking := {column.name for column in table.columns} - columns:
                raise InstanceError(
                    f"Dagster's database {database.name} has not exactly one revision in "
                    f"{VERSIONS!r}, and its table {name!r} lacks {', '.join(sorted(lacking))}: it "
                    f"is of an older Dagster. {_remedy(database)}"
                )
        for schema in database.schemas:
            schema.create_all(connection)
        for table in database.tables.values():
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        if VERSIONS in present:
            connection.execute(sqlalchemy.delete(sqlalchemy.table(VERSIONS)))
        internals.stamp_alembic_rev(
            internals.get_alembic_config(internals.sqlite_run_storage.__file__), connection
        )
    if database.file is not None:
        with database.connected() as connection:
            connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))


def _remedy(database: Database) -> str:
    """Log what to do with a database of an older Dagster."""
    if state_of(database, to_read=False).revisions:
        return (
            f"Leave its oldest revision only in {VERSIONS!r}, then run 'dagster instance migrate'."
        )
    return (
        "No revision says of which, so it can't be migrated: restore it from a backup that has "
        "one, or move it away; then a new one is created, and the history stays in the old one."
    )


def _migrate_data(opened: Storages) -> None:
    """Do the data migrations that are not recorded as done; a new storage has no data yet.

    Dagster does the same, but only after it has created the tables itself without interruption.
    """
    opened.run_storage.migrate()
    opened.run_storage.optimize()
    opened.event_log_storage.reindex_events()
    opened.event_log_storage.reindex_assets()
    if opened.schedule_storage is not None:
        opened.schedule_storage.migrate()
        opened.schedule_storage.optimize()
