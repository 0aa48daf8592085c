"""The storage of a Dagster home: where it is and in which state, found out without writing to it.

Dagster creates what is missing whenever an instance is opened, so whoever only wants to know must
not open one.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._core.storage.sql import get_alembic_config
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import NullPool

VERSIONS = "alembic_version"
"""The table in which alembic keeps the revision that a database is at."""


@dataclass(frozen=True)
class Database:
    """A database in which Dagster keeps something."""

    name: str
    """What a person calls it: the file, or the address without a password."""

    url: sqlalchemy.URL
    """Where it is."""

    tables: frozenset[str]
    """The tables that Dagster needs in it."""

    file: Path | None = None
    """The file, if it is one."""


@dataclass(frozen=True)
class State:
    """What is in a database."""

    missing: frozenset[str]
    """The tables that Dagster needs and that are not there."""

    is_empty: bool
    """Whether none of Dagster's tables is there: it has not been created yet."""

    revisions: tuple[str, ...]
    """The revisions that alembic has noted; exactly one in a database that is in order."""


def databases(home: str) -> Sequence[Database]:
    """Return the databases of a home, as its ``dagster.yaml`` says.

    Parameters
    ----------
    home:
        The folder.

    Returns
    -------
    Sequence[Database]
        None for a kind of storage that is not known here (MySQL, one's own): nothing can be said
        of it without opening it.

    Raises
    ------
    DagsterInvalidConfigError
        ``dagster.yaml`` says something that Dagster does not take.
    """
    data = InstanceRef.from_dir(home).storage_data
    if data is None:
        return ()
    storage = _class_of(data)
    if issubclass(storage, DagsterSqliteStorage):
        return _of_sqlite(Path(_configuration(storage, data)["base_dir"]))
    if any(base.__name__ == "DagsterPostgresStorage" for base in storage.__mro__):
        from dagster_postgres.utils import pg_url_from_config

        return _of_postgres(pg_url_from_config(_configuration(storage, data)))
    return ()


def _class_of(data: ConfigurableClassData) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(data.module_name), data.class_name)
    return found


def _configuration(storage: type[Any], data: ConfigurableClassData) -> Mapping[str, Any]:
    """Return a storage's configuration with the environment's variables filled in."""
    from dagster import DagsterInvalidConfigError

    result = process_config(resolve_to_config_type(storage.config_type()), data.config_dict)
    if not result.success:
        raise DagsterInvalidConfigError(
            "dagster.yaml does not configure the storage as it must be.",
            result.errors,
            data.config_dict,
        )
    value: Mapping[str, Any] = result.value or {}
    return value


def _of_sqlite(folder: Path) -> Sequence[Database]:
    files = {
        "history/runs.db": RunStorageSqlMetadata,
        "history/runs/index.db": SqlEventLogStorageMetadata,
        "schedules/schedules.db": ScheduleStorageSqlMetadata,
    }
    return [
        Database(
            name=str(folder / file),
            url=sqlalchemy.URL.create("sqlite", database=str(folder / file)),
            tables=frozenset(metadata.tables),
            file=folder / file,
        )
        for file, metadata in files.items()
    ]


def _of_postgres(address: str) -> Sequence[Database]:
    url = sqlalchemy.make_url(address)
    tables = (
        frozenset(RunStorageSqlMetadata.tables)
        | frozenset(SqlEventLogStorageMetadata.tables)
        | frozenset(ScheduleStorageSqlMetadata.tables)
    )
    return [Database(url.render_as_string(hide_password=True), url, tables)]


def state_of(database: Database) -> State:
    """Return what is in a database; nothing is written to it.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        It can't be read.
    """
    if database.file is not None and not database.file.exists():
        return State(database.tables, is_empty=True, revisions=())
    engine = sqlalchemy.create_engine(_to_read(database), poolclass=NullPool)
    with engine.connect() as connection:
        present = frozenset(sqlalchemy.inspect(connection).get_table_names())
        revisions = (
            connection.execute(sqlalchemy.text(f"SELECT version_num FROM {VERSIONS}"))  # noqa: S608
            .scalars()
            .all()
            if VERSIONS in present
            else ()
        )
    return State(
        missing=database.tables - present,
        is_empty=not database.tables & present,
        revisions=tuple(sorted(revisions)),
    )


def _to_read(database: Database) -> sqlalchemy.URL:
    """Return the address of a database under which nothing can be written to it."""
    if database.file is None:
        return database.url
    return database.url.set(database=f"file:{database.file}", query={"mode": "ro", "uri": "true"})


def newest_revision() -> str | None:
    """Return the revision of a database that this Dagster has created."""
    from alembic.script import ScriptDirectory
    from dagster._core.storage.runs.sqlite import sqlite_run_storage

    config = get_alembic_config(sqlite_run_storage.__file__)
    return ScriptDirectory.from_config(config).get_current_head()
