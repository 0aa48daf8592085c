"""A submitted run is written down in the caller's transaction, and made once whatever happens."""

import signal
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from proctree_dagster.exceptions import ContextError, InstanceError
from proctree_dagster.models import OutboxRun, OutboxState, ProcessTree
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.tools.code_files import code_of
from tests.tools.project import Project

NOWHERE = """
storage:
  postgres:
    postgres_url: "postgresql+psycopg2://nobody:nothing@127.0.0.1:1/none?connect_timeout=1"
"""
"""A Dagster whose database can't be reached."""


@pytest.fixture
def books() -> None:
    """A tree to submit."""
    ProcessTreeInstance("books").add_process("only", func=processes.one).save()


def test_what_a_process_submits_that_is_killed_right_after_its_commit_is_made_once(
    tmp_path: Path, empty_home: Path
) -> None:
    project = Project(tmp_path, empty_home)
    program = str(code_of(__file__) / "killed_after_commit.py")
    killed = project.run(program, "submit")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    delivered = project.run(program, "deliver")
    assert delivered.stdout == killed.stdout, delivered.stderr


@pytest.mark.django_db(transaction=True)
def test_a_run_is_written_down_with_its_id_in_the_callers_transaction(
    books: None, instance: DagsterInstance
) -> None:
    with transaction.atomic():
        run_id, _ = ProcessTreeManager.submit_tree("books")
        assert str(OutboxRun.objects.get(state=OutboxState.WAITING).run_id) == run_id
        assert instance.get_runs() == []
    assert [run.run_id for run in instance.get_runs()] == [run_id]
    assert OutboxRun.objects.get().state == OutboxState.DELIVERED
    with transaction.atomic():
        ProcessTreeManager.submit_tree("books")
        transaction.set_rollback(True)
    assert OutboxRun.objects.count() == len(instance.get_runs()) == 1


@pytest.mark.django_db(transaction=True)
def test_what_a_transaction_changes_after_a_submit_is_what_the_run_is_made_of(
    books: None, instance: DagsterInstance
) -> None:
    with transaction.atomic():
        ProcessTreeManager.submit_tree("books")
        ProcessTreeInstance.load("books").register_schedule(
            interval_minutes=60, context={"tenant": 7}
        )
    [run] = instance.get_runs()
    assert run.run_config["context"] == {"tenant": 7}


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_a_submit_reads_its_tree_once(
    books: None, instance: DagsterInstance
) -> None:
    with CaptureQueriesContext(connection) as captured:
        ProcessTreeManager.submit_tree("books")
    reads = [each["sql"] for each in captured if each["sql"].startswith("SELECT")]
    of_trees = f'FROM "{ProcessTree._meta.db_table}" '
    assert sum(of_trees in read for read in reads) == 1
    assert len(instance.get_runs()) == 1


@pytest.mark.django_db
def test_while_dagsters_database_is_away_runs_wait_and_the_caller_is_warned(
    books: None,
    instance: DagsterInstance,
    dagster_home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configuration = dagster_home / "dagster.yaml"
    before = configuration.read_text()
    configuration.write_text(before + NOWHERE)
    run_id, _ = ProcessTreeManager.submit_tree("books")
    assert "Dagster's database is away, the run waits" in caplog.text
    assert OutboxRun.objects.get().state == OutboxState.WAITING
    configuration.write_text(before)
    assert tree_runs.deliver() == [run_id]
    assert tree_runs.deliver() == []
    [run] = instance.get_runs()
    assert (run.run_id, run.status) == (run_id, DagsterRunStatus.QUEUED)


@pytest.mark.django_db
@pytest.mark.usefixtures("real_dagster")
def test_a_dagster_without_a_home_or_with_a_broken_one_is_refused_at_once(
    books: None, settings: Settings, tmp_path: Path
) -> None:
    for home in (None, str(tmp_path / "missing"), str(tmp_path)):
        (tmp_path / "dagster.yaml").write_text("storage: nonsense")
        settings.PROCTREE = {"DAGSTER_HOME": home}
        with pytest.raises(InstanceError):
            ProcessTreeManager.submit_tree("books")
    assert not OutboxRun.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("dagster_home")
def test_a_context_that_no_run_may_have_is_refused_at_once(books: None) -> None:
    with pytest.raises(ContextError, match="__class__"):
        ProcessTreeManager.submit_tree("books", {"__class__": 1})
    assert not OutboxRun.objects.exists()
