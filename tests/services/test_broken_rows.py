"""What saved rows name that is not there: named by checks and lists, refused where it would run."""

import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ValidationError
from django.core.management import call_command, execute_from_command_line
from django.core.management.base import SystemCheckError
from django.db import OperationalError, connection, models
from django.test import Client
from django.utils.timezone import now

from proctree_dagster import triggers
from proctree_dagster.exceptions import FunctionNotNameable, InvalidTree
from proctree_dagster.management.base import TreeCommand
from proctree_dagster.models import (
    Alert,
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import broken_rows, run_outbox
from proctree_dagster.services.system_checks import check_saved_rows
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools import TOP

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore::proctree_dagster.exceptions.UnnameableFunctionWarning"),
]


def row(name: str, func: str = "tests.app.processes:one", **options: Any) -> ProcessTree:
    """Save a tree past every validation, as an older release of the code may have."""
    tree: dict[str, Any] = {"executor": options.pop("executor", "")}
    return ProcessTree.objects.create(
        name=name, processes=[{"name": "p", "func": func, **options}], **tree
    )


def said() -> str:
    return "\n".join(str(each) for each in checks.run_checks(tags=["proctree_dagster"]))


# --- The check (S5) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"func": "tests.app.processes:renamed"}, "'tests.app.processes:renamed' names nothing"),
        ({"func": "tests.app.removed:one"}, "'tests.app.removed:one' can't be imported"),
        ({"func": "os:system"}, "'os:system' is not allowed"),
        ({"func": "gone"}, "No function is registered under the key 'gone'"),
        ({"func": "tests.app.processes:NOT_A_FUNCTION"}, "is int, which can't be called"),
        ({"validation": ["tests.app.processes:renamed"]}, "names nothing"),
        ({"outdated_check": "tests.app.processes:renamed"}, "names nothing"),
        ({"trigger": "nobody"}, "There is no trigger 'nobody'"),
    ],
)
def test_the_check_names_tree_process_and_what_is_wrong(
    options: dict[str, Any], expected: str
) -> None:
    assert "proctree_dagster.E007" not in said()
    row("books", **options)
    found = said()
    assert "process 'p' of tree 'books'" in found
    assert expected in found
    assert "proctree_dagster.E007" in found


def test_the_check_names_executors_and_custom_triggers() -> None:
    row("books", executor="os.system")
    Trigger.objects.create(
        name="asks", trigger_type="custom", configuration={"function": "tests.app.processes:gone"}
    )
    Trigger.objects.create(name="odd", trigger_type="custom", configuration={})
    found = said()
    assert "tree 'books': the executor 'os.system' is not allowed" in found
    assert "trigger 'asks': 'tests.app.processes:gone' names nothing" in found
    assert "trigger 'odd': None is no function" in found


def test_many_trees_with_one_fault_are_one_message_that_says_how_many() -> None:
    ProcessTree.objects.bulk_create(
        ProcessTree(
            name=f"tree {number:02}",
            job_name=f"tree_{number}",
            processes=[{"name": "p", "func": "tests.app.processes:renamed"}],
        )
        for number in range(25)
    )
    [finding] = broken_rows.findings()
    assert len(finding.users) == 25
    assert "process 'p' of tree 'tree 09' and 15 more: " in str(finding)


@pytest.mark.parametrize("written", [{}, "text", [1, "x"], [{}], [{"func": 3}], 7])
def test_the_check_takes_whatever_a_row_says(written: Any) -> None:
    ProcessTree.objects.create(name="odd", job_name="odd", processes=[])
    ProcessTree.objects.update(processes=written)
    Trigger.objects.create(name="odd", trigger_type="custom")
    Trigger.objects.update(configuration=written)
    assert "trigger 'odd'" in said()


def test_the_check_asks_three_queries_however_many_trees_there_are(
    django_assert_num_queries: Any,
) -> None:
    for number in range(5):
        row(f"tree {number}", "tests.app.processes:renamed")
    with django_assert_num_queries(5):
        broken_rows.findings()


@pytest.mark.parametrize("error", [OperationalError("the server is away"), AssertionError("no!")])
def test_a_database_that_is_away_is_logged_and_is_no_fault_of_the_trees(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(broken_rows, "findings", fails)
    with caplog.at_level("INFO"):
        assert check_saved_rows(None) == []
    assert "Saved trees were not checked" in caplog.text


@pytest.mark.django_db(databases=["default", "north"])  # Django 6 asks each what JSON it can do
def test_a_broken_row_keeps_no_command_from_running_but_check() -> None:
    row("books", "tests.app.processes:renamed")
    for argv in (
        ["migrate", "--check"],  # with the checks of the database
        ["makemigrations", "--check", "--dry-run"],
        ["proctree", "list"],
    ):
        execute_from_command_line(["manage.py", *argv])
    for argv in ([], ["--database", "default"]):
        with pytest.raises(SystemCheckError, match="renamed"):
            call_command("check", *argv)
    assert "proctree_dagster.E007" in {each.id for each in checks.run_checks()}


UNREADABLE = {
    "digits": f'{{"a": {"9" * 5000}}}',
    "depth": "[" * 995 + "]" * 995,
    "nesting": '{"a": [' * 200 + "]}" * 200,
}
"""What SQLite and PostgreSQL take for JSON, and Python does not parse, or not walk through."""


@pytest.mark.parametrize(
    ("model", "field"),
    [
        *((ProcessTree, "processes"), (ProcessTreeSchedule, "context"), (OutboxRun, "tags")),
        *((Trigger, "configuration"), (TriggerSubscription, "context")),
        *((OutboxRun, "context"), (OutboxRun, "after")),
        *((ProcessTree, "alert_on"), (ProcessTree, "alert_to"), (Alert, "facts")),
    ],
)
def test_a_row_that_python_cant_read_keeps_no_other_from_being_read(
    model: type[models.Model], field: str, admin_client: Client
) -> None:
    for name in (*UNREADABLE, "healthy"):
        tree = ProcessTreeInstance(name).add_process("one", processes.one)
        run_outbox.add(tree.save(), {}, {})
        tree.register_schedule()
        tree.subscribe_to_trigger(triggers.create_trigger(name, "schedule", {"cron": "0 9 * * *"}))
        moments = dict.fromkeys(("first_at", "last_at", "planned_at", "not_before"), now())
        Alert.objects.create(kind="late", tree=name, facts={"due": "9"}, **moments)
    OutboxRun.objects.update(state="waiting")
    broken = model._base_manager.order_by("pk").values_list("pk", flat=True)[: len(UNREADABLE)]
    with connection.cursor() as cursor:
        for text, key in zip(UNREADABLE.values(), list(broken), strict=True):
            table = model._meta.db_table
            cursor.execute(f"UPDATE {table} SET {field} = %s WHERE id = %s", [text, key])
    for shown in (ProcessTree, ProcessTreeSchedule, Trigger, OutboxRun, Alert):
        page = f"/admin/proctree_dagster/{shown._meta.model_name}/"
        assert admin_client.get(page).status_code == 200
        keys = shown._base_manager.order_by("pk").values_list("pk", flat=True)
        for key in keys[: len(UNREADABLE) if shown is model else 1]:
            change = admin_client.get(f"{page}{key}/change/")
            assert change.status_code == 200, "so that it can be mended"
    call_command("proctree", "list", stdout=StringIO())
    triggers.poll_triggers()
    healthy = [len(triggers.fire_trigger("healthy")), len(run_outbox.open_rows())]
    assert healthy == [1, len(UNREADABLE) + 1]
    assert run_tree("healthy")["success"]
    # From Python 3.12 on it reads as many brackets as SQLite takes: then they are no tree.
    found = [*broken_rows.findings(), *broken_rows.invalid_trees()]
    named = " ".join(user for each in found for user in each.users)
    for name in UNREADABLE:
        assert (name in named) is (model not in (OutboxRun, Alert)), named


@pytest.mark.parametrize(("levels", "is_read"), [(100, True), (101, False)])
def test_json_of_a_row_is_read_up_to_a_hundred_levels(levels: int, is_read: bool) -> None:
    tree = row("books", "tests.app.processes:one")
    text = "[" * levels + "1" + "]" * levels
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_processtree SET alert_on = %s WHERE id = %s", [text, tree.pk]
        )
    assert isinstance(ProcessTree.objects.get(pk=tree.pk).alert_on, list) is is_read


def test_a_broken_row_keeps_no_other_tree_s_command_from_running() -> None:
    class Monthly(TreeCommand):
        tree_name = "monthly"

    ProcessTreeInstance("monthly").add_process("one", func=processes.one).save()
    row("books", "tests.app.processes:renamed")
    out = StringIO()
    Monthly(stdout=out).run_from_argv(["manage.py", "monthly"])
    assert "completed" in out.getvalue()


def test_the_list_names_what_the_check_names() -> None:
    row("books", "tests.app.processes:renamed")
    out = StringIO()
    call_command("proctree", "list", stdout=StringIO(), stderr=out)
    assert "process 'p' of tree 'books': 'tests.app.processes:renamed' names nothing" in (
        out.getvalue()
    )


@pytest.mark.parametrize("migrated", [True, False])
def test_manage_py_check_alone_names_them_and_takes_a_database_without_tables(
    migrated: bool, tmp_path: Path
) -> None:
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "EXAMPLE_DATABASE": str(tmp_path / "db.sqlite3"),
        "DAGSTER_HOME": str(tmp_path),
    }

    def manage(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=env,
            cwd=TOP,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    if migrated:
        script = (
            "from django.core.management import call_command as c; c('migrate', verbosity=0)\n"
            "from proctree_dagster.models import ProcessTree\n"
            "ProcessTree.objects.create(name='books', processes=[{'name': 'p', "
            "'func': 'example.ledger.processes:renamed'}])"
        )
        made = manage("shell", "-v", "0", "-c", script)
        assert made.returncode == 0, made.stderr
    checked = manage("check")
    if migrated:
        assert checked.returncode == 1
        assert "process 'p' of tree 'books': 'example.ledger.processes:renamed'" in checked.stderr
    else:
        assert checked.returncode == 0, checked.stderr
        assert "Traceback" not in checked.stderr


# --- Functions that can't be named, in trees that run by themselves (S4) --------------------------


def nameable() -> ProcessTreeInstance:
    return ProcessTreeInstance("t", overwrite=True).add_process("p", processes.one)


def not_nameable() -> ProcessTreeInstance:
    return ProcessTreeInstance("t", overwrite=True).add_process("p", lambda: 1)


def event() -> Trigger:
    return triggers.create_trigger("posted", "event")


def schedule_it(tree: ProcessTreeInstance) -> None:
    tree.register_schedule()


def subscribe_it(tree: ProcessTreeInstance) -> None:
    event()
    tree.subscribe_to_trigger("posted")


def follow_it(tree: ProcessTreeInstance) -> None:
    ProcessTreeInstance("first").add_process("p", processes.one).add_dependent_tree("t").save()


def accompany_it(tree: ProcessTreeInstance) -> None:
    ProcessTreeInstance("first").add_process("p", processes.one).add_sibling_tree("t").save()


Way = Callable[[ProcessTreeInstance], None]
WAYS: list[tuple[Way, str]] = [
    (schedule_it, "its schedule is on"),
    (subscribe_it, "the trigger 'posted' fires it"),
    (follow_it, "it follows the tree 'first'"),
    (accompany_it, "it follows the tree 'first'"),
]


@pytest.mark.parametrize(("way", "reason"), WAYS)
def test_what_cant_be_named_is_not_saved_while_something_runs_the_tree_by_itself(
    way: Way, reason: str
) -> None:
    tree = nameable()
    saved = tree.save().processes
    way(tree)
    with pytest.raises(FunctionNotNameable) as raised:
        not_nameable().save()
    assert reason in str(raised.value)
    assert "Process 'p': " in str(raised.value)
    assert ProcessTree.objects.get(name="t").processes == saved
    assert run_tree("t")["results"] == {"p": 1}


@pytest.mark.parametrize(("way", "reason"), WAYS)
def test_a_tree_that_cant_be_named_is_not_made_to_run_by_itself(way: Way, reason: str) -> None:
    tree = not_nameable()
    tree.save()
    with pytest.raises((FunctionNotNameable, InvalidTree), match=r"can.t be|can.t run by itself"):
        way(tree)
    assert not ProcessTree.objects.get(name="t").what_runs_it()


def test_what_is_saved_counts_not_what_is_yet_to_be_saved() -> None:
    not_nameable().save()
    tree = nameable()
    with pytest.raises(FunctionNotNameable, match="can't be scheduled"):
        tree.register_schedule()
    with pytest.raises(FunctionNotNameable, match="can't be run by a command"):
        tree.create_command()
    tree.save()
    assert tree.register_schedule().enabled


def test_a_subscription_that_is_yet_to_be_saved_counts() -> None:
    event()
    with pytest.raises(FunctionNotNameable, match="the trigger 'posted' fires it"):
        not_nameable().subscribe_to_trigger("posted").save()
    not_nameable().subscribe_to_trigger("posted", enabled=False).save()
    with pytest.raises(FunctionNotNameable):
        triggers.subscribe_tree_to_trigger("t", "posted", enabled=True)


def test_what_is_switched_off_runs_nothing_by_itself() -> None:
    tree = nameable()
    tree.save()
    tree.register_schedule(enabled=False)
    event()
    tree.subscribe_to_trigger("posted", enabled=False)
    not_nameable().save()
    assert run_tree("t")["results"] == {"p": 1}


def test_a_form_refuses_to_switch_it_on() -> None:
    tree = not_nameable().save()
    first = row("first")
    for made in (
        ProcessTreeSchedule(process_tree=tree, interval_minutes=60),
        TriggerSubscription(process_tree=tree, trigger=event()),
        TreeLink(source=first, target=tree),
    ):
        with pytest.raises(ValidationError, match="can't run by itself"):
            made.full_clean()
    ProcessTreeSchedule(process_tree=tree, interval_minutes=60, enabled=False).full_clean()
    with pytest.raises(ValidationError, match="can't be named"):
        tree.full_clean()


@pytest.mark.parametrize("runs_by_itself", [True, False])
def test_the_check_names_what_cant_be_named_and_what_runs_it(runs_by_itself: bool) -> None:
    tree = not_nameable().save()
    if runs_by_itself:
        ProcessTreeSchedule.objects.create(process_tree=tree, interval_minutes=60)
    [found] = check_saved_rows(None)
    assert "process 'p' of tree 't'" in str(found)
    assert "can't be named" in str(found)
    assert ("its schedule is on" in str(found)) is runs_by_itself
    assert isinstance(found, checks.Error if runs_by_itself else checks.Warning)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"for_each": {"function": "tests.app.processes:gone"}}, "for_each"),
        ({"for_each": {"model": "app.Gone"}}, "app.Gone"),
        ({"business_days": "skip", "calendar": "tests.app.processes:gone"}, "The calendar"),
    ],
)
def test_the_check_names_what_a_schedules_rows_and_calendar_lack(
    field: dict[str, Any], says: str
) -> None:
    nameable().save()
    tree = ProcessTree.objects.get()
    ProcessTreeSchedule.objects.bulk_create(  # past every validation
        [ProcessTreeSchedule(process_tree=tree, name="north", interval_minutes=60, **field)]
    )
    [found] = check_saved_rows(None)
    assert "schedule 'north' of tree 't'" in str(found)
    assert says in str(found)
    named = [str(each) for each in (*broken_rows.findings(), *broken_rows.invalid_trees())]
    assert len(named) == 1, "it is named once"
