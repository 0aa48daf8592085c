"""Runs that nobody takes, where Dagster's storage is on PostgreSQL."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from pytest_django import Settings

from proctree_dagster.orchestration import homes, tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, lost_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.orchestration.opening import address, yaml_of_postgres

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

MONITORING = """
run_monitoring:
  enabled: false
  start_timeout_seconds: 2
"""


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "UTC", "America/New_York"])
def test_how_long_a_run_is_starting_does_not_depend_on_the_servers_time_zone(
    zone: str, tmp_path: Path, settings: Settings, postgres: "Postgres", real_dagster: None
) -> None:
    database = postgres.new_database()
    with sqlalchemy.create_engine(homes.with_working_driver(address(database))).begin() as sql:
        sql.exec_driver_sql(f"ALTER DATABASE {database['NAME']} SET timezone TO '{zone}'")
    (tmp_path / "dagster.yaml").write_text(yaml_of_postgres(database) + MONITORING)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    row = ProcessTreeInstance("one").add_process("one", func=processes.one).save()
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        run = create.create_run(instance, translator().job(tree_records.from_row(row)), {}, {})
        event = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, run.job_name)
        instance.report_dagster_event(event, run_id=run.run_id)
        assert lost_runs.settle(instance).failed == [], "it has just been launched"
        time.sleep(2.5)
        assert lost_runs.settle(instance).failed == [run.run_id]
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status == DagsterRunStatus.FAILURE
