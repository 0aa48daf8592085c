"""The PostgreSQL storage that ``dagster.yaml`` names (extra ``proctree-dagster[postgres]``)."""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

from . import homes
from .dagster_internals import ConfigurableClassData


class PostgresStorage(homes.Guarded, DagsterPostgresStorage):
    """Dagster's PostgreSQL storage, created by one process at a time, with the driver that works.

    It takes the configuration of ``DagsterPostgresStorage``.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PostgresStorage":
        """Open it as ``dagster.yaml`` says."""
        address = pg_url_from_config(config_value)
        autocreate = config_value.get("should_autocreate_tables", True)
        url = homes.with_working_driver(address).render_as_string(hide_password=False)
        return homes.create_alone(
            homes.of_postgres(address) if autocreate else (),
            lambda: cls(url, autocreate, inst_data, get_token_provider_from_config(config_value)),
        )
