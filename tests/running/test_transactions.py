"""A run that is asked for in a transaction waits for the commit, on whatever database that is."""

from typing import Any

import pytest
from dagster import DagsterInstance
from django.db import router, transaction
from pytest_django import Settings

from proctree_dagster import tasks
from proctree_dagster.exceptions import InvalidTree, ScheduleError
from proctree_dagster.models import OutboxRun, ProcessTree, ProcessTreeSchedule, TreeLink, Trigger
from proctree_dagster.services import run_outbox
from proctree_dagster.support.connections import after_commit, in_transaction
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from proctree_dagster.triggers import create_trigger, fire_trigger
from tests.app import processes
from tests.tree_builder.test_saved import Undo

pytestmark = pytest.mark.django_db(databases=["default", "north"], transaction=True)


class Routed:
    """Keeps this package's tables, and nothing else, in another database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "north" if model._meta.app_label == "proctree_dagster" else None

    db_for_write = db_for_read


@pytest.fixture(params=["together", "apart"])
def other(request: pytest.FixtureRequest, settings: Settings) -> str:
    """The alias of a database that this package's tables are not in."""
    if request.param == "apart":
        settings.DATABASE_ROUTERS = ["tests.running.test_transactions.Routed"]
        return "default"
    return "north"


@pytest.fixture
def tree(other: str) -> ProcessTree:
    tree = ProcessTreeInstance("t").add_process("one", func=processes.one).save()
    create_trigger("e", "event")
    ProcessTreeInstance.load("t").subscribe_to_trigger("e")
    return tree


class TestAfterCommit:
    def test_it_is_called_once_when_all_transactions_have_committed(self) -> None:
        called: list[str] = []
        with transaction.atomic(using="north"):
            with transaction.atomic():
                after_commit(lambda: called.append("inner"))
                assert in_transaction()
            assert called == []
        assert called == ["inner"]
        after_commit(lambda: called.append("at once"))
        assert called == ["inner", "at once"]

    @pytest.mark.parametrize("lost", ["default", "north"])
    @pytest.mark.parametrize("inner", ["default", "north"])
    def test_it_is_not_called_if_one_of_them_is_rolled_back(self, lost: str, inner: str) -> None:
        called: list[str] = []
        outer = {"default": "north", "north": "default"}[inner]

        def within(alias: str) -> Any:
            return transaction.atomic(using=alias)

        try:
            with within(outer):
                try:
                    with within(inner):
                        after_commit(lambda: called.append("called"))
                        if lost == inner:
                            raise Undo
                except Undo:
                    pass
                if lost == outer:
                    raise Undo
        except Undo:
            pass
        assert called == []

    def test_a_savepoint_that_is_rolled_back_counts(self) -> None:
        called: list[str] = []
        with transaction.atomic(using="north"):
            rolled_back_on("north", lambda: after_commit(lambda: called.append("called")))
        assert called == []


def rolled_back_on(alias: str, func: Any) -> None:
    try:
        with transaction.atomic(using=alias):
            func()
            raise Undo
    except Undo:
        pass


def test_what_is_submitted_in_a_transaction_that_is_rolled_back_does_not_run(
    tree: ProcessTree, other: str, instance: DagsterInstance
) -> None:
    rolled_back_on(other, lambda: ProcessTreeManager.submit_tree("t"))
    assert instance.get_runs() == []
    with transaction.atomic(using=other):
        run_id, _ = ProcessTreeManager.submit_tree("t")
        assert instance.get_runs() == []
    assert [run.run_id for run in instance.get_runs()] == [run_id]


def test_a_trigger_that_is_fired_in_a_transaction_that_is_rolled_back_has_not_fired(
    tree: ProcessTree, other: str
) -> None:
    rolled_back_on(other, lambda: fire_trigger("e"))
    assert not OutboxRun.objects.exists()
    assert Trigger.objects.get().fire_count == 0
    with transaction.atomic(using=other):
        [run] = fire_trigger("e", {"a": 1})
        assert not OutboxRun.objects.exists(), "no transaction spans two databases"
    assert [str(each.run_id) for each in OutboxRun.objects.all()] == [run.run_id]
    assert OutboxRun.objects.get().context == {"a": 1}
    assert Trigger.objects.get().fire_count == 1


def test_a_disabled_trigger_does_not_fire_after_the_commit_either(
    tree: ProcessTree, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction.atomic(using=other):
        assert len(fire_trigger("e")) == 1
        Trigger.objects.update(enabled=False)
    assert not OutboxRun.objects.exists()
    assert "is disabled or was deleted" in caplog.text
    with transaction.atomic(using=other):
        assert fire_trigger("e") == []


def test_scheduled_trees_are_not_run_in_a_transaction_of_any_database(
    tree: ProcessTree, other: str
) -> None:
    with transaction.atomic(using=other), pytest.raises(ScheduleError, match="inside a transact"):
        tasks.check_and_run_scheduled_tasks()


def test_what_is_written_together_is_written_where_the_tables_are(
    tree: ProcessTree, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fire that fails half-way has not fired, and a tree that fails half-way is not saved."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise Undo

    with monkeypatch.context() as patch:
        patch.setattr(run_outbox, "add", fail)
        with pytest.raises(Undo):
            fire_trigger("e")
    assert Trigger.objects.get().fire_count == 0
    with monkeypatch.context() as patch:
        patch.setattr("proctree_dagster.triggers.subscribe_tree_to_trigger", fail)
        unsaved = ProcessTreeInstance("u").add_process("one", processes.one)
        with pytest.raises(Undo):
            unsaved.subscribe_to_trigger("e").save()
    assert not ProcessTree.objects.filter(name="u").exists()


def test_a_due_time_of_tables_in_another_database_runs_once(tree: ProcessTree, other: str) -> None:
    ProcessTreeInstance.load("t").register_schedule()
    ProcessTreeSchedule.objects.update(next_run=None)
    results = tasks.check_and_run_scheduled_tasks()
    assert results["t"]["success"]
    assert tasks.check_and_run_scheduled_tasks() == {}
    assert router.db_for_write(ProcessTree) == ProcessTreeSchedule.objects.get()._state.db


def test_links_are_checked_where_they_are_written_not_on_a_replica(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = ["tests.tools.replicas.Replicated"]
    one, two = (ProcessTree.objects.create(name=name, processes=[]) for name in ("a", "b"))
    TreeLink.objects.bulk_create([TreeLink(source=one, target=two)])
    with pytest.raises(InvalidTree, match="in a circle"):
        TreeLink.objects.bulk_create([TreeLink(source=two, target=one)])
    assert TreeLink.objects.using("default").count() == 1
