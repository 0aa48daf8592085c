"""The instance and the SQLite storage that ``dagster.yaml`` names; see ``homes`` for the reason.

Dagster's webserver or daemon may be the first to open a home. ``instance_class`` and ``storage``
are all that they load of proctree-dagster before the storage is created.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from dagster import DagsterInstance, Field

from . import homes
from .dagster_internals import ConfigurableClassData, DagsterSqliteStorage, InstanceRef


class SqliteStorage(homes.Guarded, DagsterSqliteStorage):
    """Dagster's SQLite storage, created by one process at a time.

    It takes the configuration of ``DagsterSqliteStorage``.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "SqliteStorage":
        """Open it as ``dagster.yaml`` says."""
        folder = config_value["base_dir"]
        return homes.create_alone(
            homes.of_sqlite(folder), lambda: cls.from_local(folder, inst_data)
        )


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
