"""The instance and the SQLite storage that ``dagster.yaml`` names; see ``homes`` for the reason.

Dagster's webserver or daemon may be the first to open a home. ``instance_class`` and ``storage``
are all that they load of proctree-dagster before the storage is created.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, Field

from . import homes
from .dagster_features import RUN_FILES, SCHEDULE_TABLES, is_on
from .dagster_internals import (
    ConfigurableClassData,
    DagsterSqliteStorage,
    InstanceRef,
)


class SqliteStorage(homes.Guarded, DagsterSqliteStorage):
    """Dagster's SQLite storage, created by one process at a time.

    It takes the configuration of ``DagsterSqliteStorage``.
    """

    def __init__(
        self,
        base_dir: str,
        inst_data: ConfigurableClassData | None = None,
        *,
        is_complete: bool = False,
    ) -> None:
        """Open it.

        Parameters
        ----------
        base_dir:
            Its folder.
        inst_data:
            Where ``dagster.yaml`` names it.
        is_complete:
            Whether its databases are known to be complete: alembic is not asked then.
        """
        self._open(base_dir, inst_data, is_complete=is_complete)
        if is_on(SCHEDULE_TABLES):
            from .schedule_tables import KnownTables

            self._schedule_storage = KnownTables.like(self._schedule_storage)

    def _open(
        self, base_dir: str, inst_data: ConfigurableClassData | None, *, is_complete: bool
    ) -> None:
        found = homes.of_sqlite(base_dir) if is_on(RUN_FILES) else ()
        if not found:
            super().__init__(base_dir, inst_data)
            return
        from .dagster_internals import sqlite_run_storage, sqlite_schedule_storage
        from .run_files import RunFileStorage

        runs, events, schedules = (str(each.file) for each in found)
        if is_complete:
            self._run_storage = sqlite_run_storage.SqliteRunStorage(_address(runs))
            self._schedule_storage = sqlite_schedule_storage.SqliteScheduleStorage(
                _address(schedules)
            )
            self.base_dir, self._inst_data = base_dir, inst_data
            super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        else:
            super().__init__(base_dir, inst_data)
        self._event_log_storage = RunFileStorage(str(Path(events).parent))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "SqliteStorage":
        """Open it as ``dagster.yaml`` says."""
        folder = config_value["base_dir"]
        return homes.create_alone(
            homes.of_sqlite(folder),
            lambda: cls.from_local(folder, inst_data),
            lambda: cls(folder, inst_data, is_complete=True),
        )


def _address(file: str) -> str:
    """Return the address of a database as Dagster writes it."""
    from .dagster_internals import create_db_conn_string

    return create_db_conn_string(str(Path(file).parent), Path(file).stem)


class ProctreeInstance(DagsterInstance):
    """Dagster's instance, with ``SqliteStorage`` where ``dagster.yaml`` names no storage."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Field]:
        """Return the additional config schema of ``dagster.yaml``: none."""
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Mapping[str, ConfigurableClassData | None]:
        """Return the defaults of ``dagster.yaml``.

        Parameters
        ----------
        base_dir:
            Dagster's home.
        """
        storage = ConfigurableClassData(
            SqliteStorage.__module__,
            SqliteStorage.__name__,
            yaml.dump({"base_dir": base_dir}, default_flow_style=False),
        )
        return {**InstanceRef.config_defaults(base_dir), "storage": storage}
