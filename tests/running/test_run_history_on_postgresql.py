"""Dagster's history of runs, as pages read it, where Dagster's storage is on PostgreSQL."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain.runs import RunQuery
from proctree_dagster.models import Event
from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.automation import alerts_sensor
from proctree_dagster.running import dagster_loading, run_history, tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.orchestration.opening import address, yaml_of_postgres

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres


def failed_runs(history: run_history.History) -> list[str]:
    """Make a pass over what has happened, and return the runs that have failed."""
    assert "can't" not in alerts_sensor.look(history._instance)
    return list(Event.objects.filter(kind="run_failed").values_list("subject", flat=True))


@pytest.mark.django_db
def test_runs_are_found_and_what_failed_is_read_at_once_whatever_the_servers_zone(
    tmp_path: Path, settings: Settings, postgres: "Postgres", real_dagster: None
) -> None:
    database = postgres.new_database()
    with sqlalchemy.create_engine(homes.with_working_driver(address(database))).begin() as sql:
        sql.exec_driver_sql(f"ALTER DATABASE {database['NAME']} SET timezone TO 'Asia/Tokyo'")
    (tmp_path / "dagster.yaml").write_text(yaml_of_postgres(database))
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    row = ProcessTreeInstance("fails").add_process("only", func=processes.fail).save()
    made = [
        tree_runs.execute_row(row, {"tenant": "a"}, run_tags={"team": "books"})["run_id"]
        for _ in range(2)
    ]
    now = timezone.now()
    minute = dt.timedelta(minutes=5)
    assert dagster_loading.wait(60)
    with run_history.opened() as history:
        query = RunQuery(
            job_name=row.job_name,
            statuses=("failure",),
            tags={"team": "books"},
            since=now - minute,
            until=now + minute,
        )
        page = history.recent(query)
        assert [run.run_id for run in page.runs] == made[::-1]
        assert {run.failures["only"] for run in page.runs} == {
            "ValueError: this process always fails"
        }
        assert all(abs(run.created_at - now) < minute for run in page.runs)
        assert history.counts(("failure",), since=now - minute) == {"failure": 2}
        assert history.counts(("failure",), since=now + minute) == {"failure": 0}
        assert len(history.last_failed(now - minute).chosen) == 1
        assert history.ids_that_begin_with(made[0][:8]) == [made[0]]
        assert history.detail(made[0]).processes[0].status == "failed"
        assert not history.log(made[0], most=1000).is_cut
        assert [failed_runs(history) for _ in range(2)] == [made, made], "and once only"
        repeated = history.repeat(made[0], "ann")
        assert history.summaries([repeated])[repeated].launched_by == "ann"
        assert history.cancel(repeated, "ann")
