"""Rows follow the code: ``manage.py proctree sync``."""

import datetime as dt
import importlib
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from proctree_dagster import migrations, triggers
from proctree_dagster.apps import _migrated
from proctree_dagster.exceptions import DeclarationError
from proctree_dagster.models import (
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.tree_builder import (
    ProcessTreeInstance,
    ProcessTreeManager,
    declarations,
)
from tests.app import processes
from tests.app.models import Organisation
from tests.tree_builder.code_of_trees import Code, said, tree

NEWEST = max(each.stem for each in Path(migrations.__path__[0]).glob("0*.py"))

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("dagster_home")]


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Code:
    return Code(monkeypatch)


@pytest.fixture(autouse=True)
def no_logged_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def full(each: ProcessTreeInstance) -> None:
    """Declare a schedule, a trigger, a subscription and a follower."""
    each.register_schedule(cron="0 9 * * *", context={"year": 2026})
    end = dt.date(2099, 12, 31)
    each.register_schedule(name="north", interval_minutes=30, context={"year": 2027}, end_date=end)
    each.create_trigger("paid", "event")
    each.subscribe_to_trigger("paid", context={"year": 1})
    each.add_dependent_tree("report")


def synced(*arguments: str) -> str:
    status, text = said("sync", *arguments)
    assert status == 0, text
    return text


def checked() -> str:
    """Return what a check says of drift, and that there is some."""
    status, text = said("sync", "--check")
    assert status == 1, text
    return text


# --- What is declared is saved --------------------------------------------------------------------


def test_a_declared_tree_is_saved_with_all_that_it_declares(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    text = synced()
    row = tree()
    assert [each["name"] for each in row.processes] == ["one"]
    assert row.schedule.cron == "0 9 * * *"
    assert row.schedule.context == {"year": 2026}
    assert {each.name: each.rule_in_words for each in row.all_schedules()}.keys() == {
        "default",
        "north",
    }
    [subscription] = row.subscriptions.all()
    assert (subscription.trigger.name, subscription.context) == ("paid", {"year": 1})
    assert row.linked_trees() == {"dependent_trees": ["report"]}
    assert "close (tests.app.trees:declare_close)\n  new\n" in text
    assert "its schedule 'north': new" in text


def test_a_second_sync_changes_nothing(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    rows = {m: list(m.objects.values()) for m in (ProcessTree, ProcessTreeSchedule, Trigger)}
    assert synced() == "2 trees as the code says.\n"
    assert {m: list(m.objects.values()) for m in rows} == rows
    assert said("sync", "--check") == (0, "2 trees as the code says.\n")


def test_neither_importing_nor_checking_writes_anything(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    with CaptureQueriesContext(connection) as queries:
        assert "new" in checked()
    reads = ("SELECT", "SAVEPOINT", "RELEASE")
    assert [q["sql"] for q in queries if not q["sql"].strip().startswith(reads)] == []
    assert not ProcessTree.objects.exists()
    assert not Trigger.objects.exists()


def test_a_function_may_return_a_tree_that_it_has_made_and_may_still_be_called(code: Code) -> None:
    def close() -> ProcessTreeInstance:
        made = ProcessTreeInstance("close", description="Closes.")
        made.add_process("one", func=processes.one).save()
        assert made.register_schedule(interval_minutes=5).pk is None
        return made

    close.__module__ = "tests.app.trees"
    assert declarations.process_tree("close")(close) is close
    synced()
    synced()
    assert tree().description == "Closes."
    assert tree().schedule.interval_minutes == 5


def test_a_tree_may_be_declared_from_rows_that_are_read(code: Code) -> None:
    harbour = Organisation.objects.create(name="Harbour")

    def fill(each: ProcessTreeInstance) -> None:
        for organisation in Organisation.objects.all():
            each.register_schedule(name=organisation.name, context={"year": organisation.pk})

    code.says("close", fill)
    synced()
    assert [each.name for each in tree().all_schedules()] == [harbour.name]


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (lambda tree: Organisation.objects.create(name="x"), "write to the database (INSERT"),
        (lambda tree: tree.execute(), "run a tree"),
        (lambda tree: ProcessTreeManager.execute_tree("report"), "run a tree"),
        (lambda tree: tree.create_command(), "use what is saved of it"),
        (lambda tree: triggers.subscribe_tree_to_trigger("close", "t"), "subscribe a saved tree"),
        (lambda tree: tree.add_process("two", func=lambda: 1), "is a lambda"),
        (lambda tree: tree.add_process("two", func="no.such:f"), "'no.such:f'"),
        (lambda tree: tree.subscribe_to_trigger("t"), "trigger 't', which does not exist"),
        (lambda tree: tree.register_schedule(cron="no"), "cron"),
        (lambda tree: tree.register_schedule(context={"a": object()}), "can't be stored"),
        (lambda tree: (tree.register_schedule(), tree.register_schedule()), "twice"),
        (lambda tree: ProcessTreeInstance("other").save(), "can't change 'other'"),
        (lambda tree: 1 / 0, "ZeroDivisionError"),
        (lambda tree: tree.add_dependent_tree("none"), "no process tree called 'none'"),
    ],
)
def test_what_is_no_declaration_or_invalid_is_said_and_stops_no_other_tree(
    code: Code, caplog: pytest.LogCaptureFixture, fill: Any, told: str
) -> None:
    code.says("report")
    synced()
    code.says("close", fill)
    status, text = said("sync")
    assert status == 1
    assert "close: " in text
    assert told in text
    assert tree("report").processes
    caplog.clear()


def test_a_function_that_returns_no_tree_or_another_one_is_an_error(code: Code) -> None:
    def nothing() -> None:
        return None

    nothing.__module__ = "tests.app.trees"
    declarations.process_tree("close")(nothing)
    assert "It returned NoneType" in said("sync")[1]
    code.says_nothing_of("close")

    def other() -> ProcessTreeInstance:
        return ProcessTreeInstance("other").add_process("one", func=processes.one)

    other.__module__ = "tests.app.trees"
    declarations.process_tree("close")(other)
    assert "can't change 'other'" in said("sync")[1]


def test_a_decorator_without_a_name_is_refused_at_once() -> None:
    with pytest.raises(DeclarationError, match="Write @process_tree"):
        declarations.process_tree(full)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="former name"):
        declarations.process_tree("close", renamed_from=5)  # type: ignore[arg-type]


def test_two_places_that_declare_one_name_are_refused_and_both_are_named(code: Code) -> None:
    code.says("close")
    code.also_says("close", module="example.ledger.trees")
    code.says("report")
    status, text = said("sync")
    assert status == 1
    assert "tests.app.trees:declare_close" in text
    assert "example.ledger.trees:declare_close" in text
    assert [each.name for each in ProcessTree.objects.all()] == ["report"]


def test_an_app_whose_module_raises_stops_no_other_and_its_trees_are_not_removed(
    code: Code, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code.says("close", module="example.ledger.trees")
    code.says("report")
    synced()
    import_module = importlib.import_module

    def broken(name: str, *arguments: Any) -> Any:
        if name == "example.ledger.trees":
            raise SystemExit("no such account")
        return import_module(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", broken)
    code.says("report", description="Reports.")
    status, text = said("sync", "--prune")
    assert status == 1
    assert "example.ledger.trees can't be imported: SystemExit: no such account" in text
    assert "not in the code" not in text
    assert tree("report").description == "Reports."
    caplog.clear()


# --- What wins ------------------------------------------------------------------------------------


def test_what_is_changed_in_the_code_is_changed_in_the_rows(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says("close", lambda t: t.register_schedule(cron="0 10 * * *", context={"year": 2030}))
    told = 'cron of its schedule: "0 9 * * *" → "0 10 * * *" (changed in the code)'
    assert told in checked()
    assert told in synced()
    assert tree().schedule.cron == "0 10 * * *"
    assert tree().schedule.context == {"year": 2030}, "no operator has touched it"
    assert tree().linked_trees() == {}


def test_what_operators_own_stays_and_what_they_edited_besides_is_taken_back(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    row = tree()
    ProcessTreeSchedule.objects.filter(name="default").update(enabled=False, context={"year": 1})
    row.description = "edited"
    row.save()
    text = synced()
    assert 'description: "edited" → "" (edited since the last sync)' in text
    assert (
        'context of its schedule: stays as the operators have set it; the code says {"year"' in text
    )
    row = tree()
    assert (row.description, row.schedule.enabled, row.schedule.context) == ("", False, {"year": 1})
    assert said("sync", "--check")[0] == 0


def test_a_tree_may_say_what_operators_own(code: Code) -> None:
    def fill(each: ProcessTreeInstance) -> None:
        each.register_schedule(cron="0 9 * * *", enabled=True)

    code.says("close", fill, operators_own=("cron", "description"))
    synced()
    row = tree()
    row.description = "ours"
    row.save()
    row.schedule.cron, row.schedule.interval_minutes, row.schedule.enabled = "", 5, False
    row.schedule.save()
    assert "its schedule: stays" in synced()
    row = tree()
    assert (row.description, row.schedule.interval_minutes) == ("ours", 5)
    assert row.schedule.enabled, "not among them"
    code.says("close", operators_own=("no_such",))
    assert "operators_own names 'no_such'" in said("sync")[1]


def test_of_what_was_changed_in_both_the_codes_wins_and_that_is_said(code: Code) -> None:
    code.says("close", description="one")
    synced()
    ProcessTree.objects.update(description="two")
    code.says("close", description="three")
    told = 'description: "two" → "three" (changed in the code, and edited since the last sync)'
    assert told in synced()


def test_what_a_script_saved_before_is_taken_over(code: Code) -> None:
    before = ProcessTreeInstance("close")
    before.add_process("zero", func=processes.one)
    before.save()
    before.register_schedule(cron="0 8 * * *", context={"year": 1999}, enabled=False)
    job_name = tree().job_name
    code.says("close", full)
    code.says("report")
    text = synced()
    assert "process 'zero'" in text
    row = tree()
    assert row.job_name == job_name
    assert [each["name"] for each in row.processes] == ["one"]
    assert row.schedule.cron == "0 9 * * *"
    assert (row.schedule.enabled, row.schedule.context) == (False, {"year": 1999})


def test_what_was_deleted_in_the_admin_is_made_again(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    TriggerSubscription.objects.all().delete()
    ProcessTreeSchedule.objects.filter(name="north").delete()
    assert "its schedule 'north': new" in checked()
    synced()
    assert tree().subscriptions.count() == 1
    ProcessTree.objects.filter(name="close").delete()
    synced()
    assert len(tree().all_schedules()) == 2


def test_what_was_added_by_hand_stays(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    ProcessTreeSchedule.objects.create(process_tree=tree(), name="by hand", interval_minutes=9)
    ProcessTreeInstance("mine").add_process("one", func=processes.one).save()
    assert synced("--prune") == "2 trees as the code says.\n"
    assert len(tree().all_schedules()) == 3


def test_a_renamed_tree_keeps_its_row_its_job_and_its_schedule(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    before = tree()
    code.says_nothing_of("close")
    code.says("month_end", full, renamed_from="close")
    assert "renamed from 'close'" in checked()
    synced("--prune")
    after = tree("month_end")
    assert (after.pk, after.job_name) == (before.pk, before.job_name)
    assert after.schedule.pk == before.schedule.pk
    assert after.schedule.enabled
    assert said("sync", "--check")[0] == 0
    assert not ProcessTree.objects.filter(name="close").exists()


def test_names_that_two_trees_claim_are_refused(code: Code) -> None:
    code.says("close")
    code.says("month_end", renamed_from="close")
    status, text = said("sync")
    assert status == 1
    assert "renamed_from='close'" in text
    assert not ProcessTree.objects.exists()


def test_the_former_name_of_a_tree_that_is_there_besides_is_removed_from_the_code(
    code: Code,
) -> None:
    code.says("month_end")
    code.says("close", full)
    code.says("report")
    synced()  # as a rollback of the release that renamed it does
    code.says_nothing_of("close")
    code.says("month_end", full, renamed_from="close")
    assert "not in the code any more, and it still runs" in synced()
    synced("--prune")
    assert tree().what_runs_it() == []
    assert tree("month_end").schedule.enabled


def fails(tree: ProcessTreeInstance) -> None:
    raise SystemExit("no such account")


@pytest.mark.parametrize(
    ("declared", "arguments"),
    [
        ({"fill": fails}, ()),
        ({"fill": full, "module": "example.ledger.trees"}, ("--app", "app")),
        ({"fill": full, "module": "no_app.trees"}, ()),
    ],
)
def test_a_tree_whose_new_name_is_not_synced_is_not_switched_off(
    code: Code, caplog: pytest.LogCaptureFixture, declared: Any, arguments: tuple[str, ...]
) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says_nothing_of("close")
    code.says("month_end", renamed_from="close", **declared)
    _, text = said("sync", "--prune", *arguments)
    assert "not in the code" not in text
    assert tree().schedule.enabled
    caplog.clear()


def test_of_trees_whose_names_moved_on_at_once_none_is_switched_off(code: Code) -> None:
    code.says("close", full)
    code.says("month_end")
    code.says("report")
    synced()
    code.says_nothing_of("close")
    code.says("month_end", full, renamed_from="close")
    code.says("year_end", renamed_from="month_end")
    status, text = said("sync", "--prune")
    assert status == 1
    assert "renamed_from='month_end'" in text
    assert "not in the code" not in text
    assert tree().schedule.enabled


def test_a_function_that_moved_is_said_and_nothing_else_changes(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says("close", full, module="example.ledger.trees")
    assert "declared by tests.app.trees:declare_close before" in checked()
    synced()
    assert tree().source.app_label == "ledger"
    assert said("sync", "--check")[0] == 0


def test_a_tree_that_moved_to_another_app_is_not_removed_by_a_sync_of_the_first(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says("close", full, module="example.ledger.trees")
    assert "not in the code" not in synced("--app", "app", "--prune")
    assert tree().schedule.enabled


# --- Removed from the code ------------------------------------------------------------------------


def test_a_removed_tree_is_said_and_runs_on_until_it_is_pruned(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says_nothing_of("close")
    told = "not in the code any more, and it still runs (its schedule is on"
    assert told in checked()
    assert told in synced()
    assert tree().schedule.enabled
    synced("--prune")
    assert [each.enabled for each in tree().all_schedules()] == [False, False]
    assert [each.enabled for each in tree().subscriptions.all()] == [False]
    assert tree().what_runs_it() == []
    assert said("sync", "--check") == (0, "1 tree as the code says.\n")


def test_a_removed_tree_that_is_declared_again_runs_again_as_it_did(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    ProcessTreeSchedule.objects.filter(name="north").update(enabled=False)
    code.says_nothing_of("close")
    synced("--prune")
    code.says("close", full)
    assert "in the code again" in synced()
    found = {each.name: each.enabled for each in tree().all_schedules()}
    assert found == {"default": True, "north": False}, "that one was the operators' decision"


def test_a_removed_schedule_is_said_until_it_is_pruned_and_is_kept_switched_off(code: Code) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    code.says("close", lambda t: t.register_schedule(cron="0 9 * * *", context={"year": 2026}))
    for _ in range(2):
        text = synced()
        assert "its schedule 'north': not in the code any more, and still on" in text
    assert "its subscription to 'paid': not in the code" in checked()
    assert "its schedule 'north': switched off" in synced("--prune")
    assert not tree().schedules.get(name="north").enabled
    assert said("sync", "--check")[0] == 0


def test_trees_that_follow_each_other_the_other_way_round_now_are_synced(code: Code) -> None:
    code.says("a", lambda t: t.add_dependent_tree("b"))
    code.says("b")
    synced()
    code.says("a")
    code.says("b", lambda t: t.add_dependent_tree("a"))
    synced()
    assert tree("b").linked_trees() == {"dependent_trees": ["a"]}
    assert tree("a").linked_trees() == {}


# --- Releases and databases -----------------------------------------------------------------------


def test_an_older_release_changes_nothing_unless_it_is_a_rollback(
    code: Code, settings: Settings
) -> None:
    def release(number: int | None, description: str) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "RELEASE": number}
        code.says("close", description=description)

    release(2, "new")
    synced()
    release(1, "old")
    assert "Release 2 has synced already" in synced()
    assert tree().description == "new"
    assert "Release 2 has synced already" in said("sync", "--check")[1]
    synced("--older-release")
    assert tree().description == "old"
    release(None, "none")
    synced()
    assert tree().description == "none"


def test_a_database_that_is_behind_is_said_and_not_compared(
    code: Code,
) -> None:
    code.says("close")
    MigrationRecorder(connection).record_unapplied("proctree_dagster", NEWEST)
    for arguments in (("sync", "--check"), ("sync",), ("apply", "none.yaml")):
        status, text = said(*arguments)
        assert status == 1
        assert f"is not applied (proctree_dagster.{NEWEST})" in text
        assert "Run 'manage.py migrate' first." in text
    assert not ProcessTree.objects.exists()


def test_a_database_that_lacks_migrations_of_another_app_is_compared(code: Code) -> None:
    code.says("close")
    MigrationRecorder(connection).record_unapplied("sessions", "0001_initial")
    assert said("sync")[0] == 0
    MigrationRecorder(connection).record_unapplied("ledger", "0001_initial")
    assert "ledger.0001_initial" in said("sync")[1], "it declares trees"


def test_an_unknown_app_is_refused(code: Code) -> None:
    status, text = said("sync", "--app", "no_such")
    assert (status, "There is no app 'no_such'" in text) == (2, True)


def test_without_declared_trees_it_says_how_to_declare_them(code: Code) -> None:
    assert "No app declares a tree" in synced()


def test_a_row_that_sql_has_broken_is_said_and_stops_no_other(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    code.says("close", full)
    code.says("report")
    synced()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_processtree SET created_at = '2026-13-45 00:00'")
    code.says("new")
    status, text = said("sync")
    assert status == 1
    assert "close: " in text
    assert tree("new").processes
    caplog.clear()


# --- After a migration ----------------------------------------------------------------------------


@pytest.fixture
def on_migrate(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SYNC_ON_MIGRATE": True}


def migrated(*arguments: str) -> str:
    out = StringIO()
    call_command("migrate", *arguments, stdout=out)
    return out.getvalue()


def test_migrate_syncs_nothing_unless_the_settings_say_so(code: Code) -> None:
    code.says("close")
    migrated()
    assert not ProcessTree.objects.exists()


@pytest.mark.usefixtures("on_migrate")
def test_migrate_syncs_once_and_prints_what_it_changed(code: Code) -> None:
    calls: list[str] = []
    code.says("close", lambda t: calls.append(t.name))
    assert migrated().count("Process tree close (tests.app.trees:declare_close):\n  new\n") == 1
    assert calls == ["close"]
    assert tree().processes


@pytest.mark.usefixtures("on_migrate")
def test_migrate_does_not_fail_for_a_tree_and_logs_it(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    code.says("close", lambda t: t.execute())
    code.says("report")
    migrated()
    assert "A process tree was not synced with the code: close: " in caplog.text
    assert tree("report").processes
    caplog.clear()


@pytest.mark.usefixtures("on_migrate")
def test_another_database_and_a_flush_sync_nothing(code: Code) -> None:
    code.says("close")
    [*_others, last] = [each for each in apps.get_app_configs() if each.models_module]
    _migrated(last, using="north", plan=[], verbosity=0)
    _migrated(last, using="default", verbosity=0)
    assert not ProcessTree.objects.exists()
    _migrated(last, using="default", plan=[], verbosity=0)
    assert ProcessTree.objects.exists()
