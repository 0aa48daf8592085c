"""Migrations of filled databases, there and back."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

BEFORE = [("proctree_dagster", "0017_actions_in_dagster")]
AFTER = [("proctree_dagster", "0020_names_of_schedules")]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any, tmp_path: Any
) -> Iterator[None]:
    """Let the default database be one that only this test has."""
    kept, settings = connections["default"], connections.settings["default"]
    if request.param == "postgresql":
        own = request.getfixturevalue("postgres").new_database()
    else:
        own = {"NAME": str(tmp_path / "db.sqlite3")}
    with django_db_blocker.unblock():
        connections.settings["default"] = {**settings, "OPTIONS": {}, **own}
        del connections["default"]
        try:
            call_command("migrate", verbosity=0)
            yield
        finally:
            connections["default"].close()
            connections.settings["default"] = settings
            connections["default"] = kept


def save(name: str) -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name).add_process("one", func=processes.one)
    tree.save()
    return tree


def migrate(targets: list[tuple[str, str]]) -> Any:
    """Migrate the database, and return the model of schedules as it then is."""
    MigrationExecutor(connection).migrate(targets)
    state = MigrationExecutor(connection).loader.project_state(targets)
    return state.apps.get_model("proctree_dagster", "ProcessTreeSchedule")


@pytest.mark.usefixtures("database")
def test_names_of_schedules_keep_rows_claims_and_dagsters_names_there_and_back() -> None:
    due = dt.datetime(2026, 6, 10, 7, tzinfo=dt.UTC)
    for name in ("plain", "it's \U0001f4a5", "class"):
        save(name).register_schedule(cron="0 9 * * *", context={"who": name})
    kept = {"claim": due, "claimed_at": due, "stopped_in_dagster": True, "last_run_id": "r"}
    ProcessTreeSchedule.objects.update(**kept)
    columns = ("pk", "process_tree_id", "context", *kept)
    before = sorted(ProcessTreeSchedule.objects.values_list(*columns))
    called = dict(ProcessTreeSchedule.objects.values_list("pk", "dagster_name"))
    assert sorted(migrate(BEFORE).objects.values_list(*columns)) == before
    new = migrate(AFTER).objects
    assert sorted(new.values_list(*columns)) == before
    assert set(new.values_list("name", flat=True)) == {"default"}
    assert dict(new.values_list("pk", "dagster_name")) == called
    for pk, called_in_dagster in called.items():
        job_name = ProcessTree.objects.values_list("job_name", flat=True).get(schedule=pk)
        assert called_in_dagster == f"{job_name}{run_tags.SCHEDULE_SUFFIX}"


@pytest.mark.usefixtures("database")
def test_names_of_schedules_go_back_only_where_no_schedule_would_be_lost() -> None:
    tree = save("close")
    tree.register_schedule()
    tree.register_schedule(name="night")
    with pytest.raises(RuntimeError, match="'close': 'night'"):
        migrate(BEFORE)
    assert ProcessTreeSchedule.objects.count() == 2
