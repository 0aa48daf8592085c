"""Dagster's storage of schedules on SQLite, which asks once for what a database never loses."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from dagster import DagsterInstance
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.schedules.migration import SCHEDULE_JOBS_SELECTOR_ID
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.schedule_tables import KnownTables
from proctree_dagster.support.project import create_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the ``dagster.yaml`` of a project that has written none."""
    home = tmp_path / "home"
    create_home(str(home))
    return home


@pytest.fixture
def opened(home: Path) -> Iterator[DagsterInstance]:
    with homes.open_home(str(home)):  # creates it
        pass
    with homes.open_home(str(home)) as instance:
        yield instance


@pytest.fixture
def file(home: Path, opened: DagsterInstance) -> Path:
    return home / "schedules" / "schedules.db"


@pytest.fixture
def storage(opened: DagsterInstance) -> KnownTables:
    assert isinstance(opened.schedule_storage, KnownTables)
    return opened.schedule_storage


def state_of(name: str) -> InstigatorState:
    location = GrpcServerCodeLocationOrigin(host="localhost", port=1)
    repository = RemoteRepositoryOrigin(location, "process_trees")
    return InstigatorState(
        RemoteInstigatorOrigin(repository, name),
        InstigatorType.SCHEDULE,
        InstigatorStatus.RUNNING,
        ScheduleInstigatorData("* * * * *"),
    )


def knows(storage: SqliteScheduleStorage) -> list[bool]:
    """Return the answers to the three questions."""
    return [
        storage.has_instigators_table(),
        storage.has_secondary_index_table(),
        storage.has_built_index(SCHEDULE_JOBS_SELECTOR_ID),
    ]


def names(storage: SqliteScheduleStorage) -> list[str]:
    return [each.instigator_name for each in storage.all_instigator_state()]


@contextmanager
def asked() -> Iterator[list[str]]:
    """Collect the statements of every engine."""
    found: list[str] = []

    def note(*arguments: Any) -> None:
        found.append(arguments[2])

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def make_older(file: Path) -> None:
    """Take from a database what later releases of Dagster have added."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP TABLE instigators")
        connection.execute("DELETE FROM secondary_indexes")


def test_who_creates_a_home_has_it_and_so_has_who_finds_it_complete(home: Path) -> None:
    for _ in range(2):
        with homes.open_home(str(home)) as instance:
            assert type(instance.schedule_storage) is KnownTables


def test_what_was_found_is_not_asked_for_again(storage: KnownTables) -> None:
    state = storage.add_instigator_state(state_of("nightly"))
    storage.update_instigator_state(state)
    with asked() as statements:
        storage.update_instigator_state(state)
        assert names(storage) == ["nightly"]
        assert storage.get_ticks(state.instigator_origin_id, state.selector_id) == []
    assert statements
    assert not [each for each in statements if "sqlite_master" in each or "secondary_ind" in each]


def test_what_was_not_there_is_found_when_another_process_has_migrated_the_database(
    storage: KnownTables, file: Path
) -> None:
    storage.add_instigator_state(state_of("nightly"))
    make_older(file)
    older = KnownTables.like(storage)
    assert knows(older) == [False, True, False]
    assert names(older) == ["nightly"], "of the table that older releases have"
    other = SqliteScheduleStorage(storage._conn_string)
    with other.connect() as connection:
        ScheduleStorageSqlMetadata.create_all(connection)
    other.migrate()
    assert knows(older) == [True, True, True]
    with asked() as statements:
        assert names(older) == ["nightly"]
    assert ["FROM instigators" in each.replace("\n", "") for each in statements] == [True]


def test_its_own_migration_is_noticed(storage: KnownTables, file: Path) -> None:
    make_older(file)
    older = KnownTables.like(storage)
    assert not older.has_built_index("mine")
    older.mark_index_built("mine")
    assert older.has_built_index("mine")
    assert not older.has_built_index("yours")


def test_a_database_in_the_place_of_the_one_that_was_asked_is_asked_again(
    storage: KnownTables, file: Path, tmp_path: Path
) -> None:
    storage.add_instigator_state(state_of("nightly"))
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(file, backup)
    make_older(backup)
    assert knows(storage) == [True, True, True]
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    backup.replace(file)
    assert knows(storage) == [False, True, False]
    assert names(storage) == ["nightly"]


def test_a_database_that_was_removed_has_nothing(storage: KnownTables, file: Path) -> None:
    assert knows(storage) == [True, True, True]
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    assert knows(storage) == [False, False, False]


def test_a_table_that_is_gone_from_the_same_file_is_noticed_by_the_first_query_that_fails(
    storage: KnownTables, file: Path
) -> None:
    storage.add_instigator_state(state_of("nightly"))
    assert names(storage) == ["nightly"]
    make_older(file)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
        storage.all_instigator_state()
    assert names(storage) == ["nightly"]


def test_wiping_it_takes_its_rows_only(storage: KnownTables) -> None:
    storage.add_instigator_state(state_of("nightly"))
    storage.wipe()
    assert names(storage) == []
    storage.add_instigator_state(state_of("weekly"))
    assert names(storage) == ["weekly"]
    assert knows(SqliteScheduleStorage(storage._conn_string)) == knows(storage)


def test_a_question_that_fails_is_asked_again(
    storage: KnownTables, file: Path, tmp_path: Path
) -> None:
    away = file.rename(tmp_path / "away.db")
    file.mkdir()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        storage.has_instigators_table()
    file.rmdir()
    away.rename(file)
    assert storage.has_instigators_table()
