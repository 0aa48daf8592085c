"""Dagster's storage of schedules on SQLite, which asks once for what a database never loses.

Dagster asks before most queries whether an older release has created the database, each time over
a connection of its own: some twenty times for each tick of a sensor.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import OperationalError

from . import homes
from .dagster_internals import ConfigurableClassData, SqliteScheduleStorage


class KnownTables(SqliteScheduleStorage):
    """Dagster's storage; it remembers each table and each data migration that it has found.

    It asks again for what was not there: another process may migrate the database at any time. So
    it does for everything if there is another file in the place of the one that it has asked, or
    if a query fails.
    """

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(conn_string, inst_data)
        self._file = Path(sqlalchemy.make_url(conn_string).database or "")
        self._found: dict[str, object] = {}

    @classmethod
    def like(cls, storage: SqliteScheduleStorage) -> "KnownTables":
        """Return one of the same database."""
        return cls(storage._conn_string, storage.inst_data)

    @contextmanager
    def connect(self) -> Iterator[sqlalchemy.Connection]:
        """Connect to it, as Dagster does; what was found is forgotten if a table is not there."""
        try:
            with super().connect() as connection:
                yield connection
        except OperationalError:
            self._found.clear()
            raise

    def has_instigators_table(self) -> bool:
        """Return whether the states of schedules and sensors have a table of their own."""
        return self._is_found("instigators", super().has_instigators_table)

    def _has_instigators_table(self, conn: sqlalchemy.Connection) -> bool:
        ask = super()._has_instigators_table
        return self._is_found("instigators", lambda: ask(conn))

    def has_secondary_index_table(self) -> bool:
        """Return whether the data migrations that are done have a table."""
        return self._is_found(homes.INDEXES, super().has_secondary_index_table)

    def has_built_index(self, migration_name: str) -> bool:
        """Return whether a data migration is done."""
        ask = super().has_built_index
        return self._is_found(f"migration {migration_name}", lambda: ask(migration_name))

    def _is_found(self, what: str, ask: Callable[[], bool]) -> bool:
        file = homes.mark_of(self._file)  # before it is asked: it may be replaced meanwhile
        if file is None:
            self._found.clear()  # a new file may have the old one's mark
        elif self._found.get(what) == file:
            return True
        is_there = ask()
        if is_there:
            self._found[what] = file
        return is_there
