"""What was edited since the code saved it is named by ``proctree list`` and ``proctree show``."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain import tree_spec
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("dagster_home")]


def deploy() -> ProcessTreeInstance:
    """Save a tree and its schedule, as the code does on each deployment."""
    tree = ProcessTreeInstance("close", overwrite=True)
    tree.add_process("one", func=processes.one, metadata={"limit": 1e16}, timeout=60.0)
    tree.save()
    tree.register_schedule(cron="0 9 * * *", context={"year": 2026})
    return tree


def edited() -> list[str]:
    """Return what the list says was edited of the tree."""
    out = StringIO()
    call_command("proctree", "list", "--json", stdout=out, stderr=StringIO())
    found: dict[str, Any] = json.loads(out.getvalue())
    [row] = found["trees"]
    return list(row["edited"])


def warned(*arguments: str) -> str:
    err = StringIO()
    call_command("proctree", *arguments, stdout=StringIO(), stderr=err, no_color=True)
    return err.getvalue()


def test_what_is_as_the_code_saved_it_is_not_edited() -> None:
    deploy()
    assert edited() == []
    deploy()
    assert edited() == []
    assert "edited" not in warned("list")


def test_a_tree_edited_in_the_admin_is_named_until_the_code_saves_it_again() -> None:
    deploy()
    row = ProcessTree.objects.get()
    row.processes[0]["timeout"] = 5
    row.save()
    assert edited() == ["tree"]
    said = (
        "close: its tree was edited since the code saved it; the next save() or "
        "register_schedule() in the code undoes that."
    )
    assert said in warned("list")
    assert said in warned("show", "close")
    deploy()
    assert edited() == []


def test_an_edit_that_is_undone_is_none() -> None:
    deploy()
    row = ProcessTree.objects.get()
    for description in ("for a day", ""):
        row.description = description
        row.save()
    assert edited() == []


def test_a_schedule_edited_in_sql_is_named() -> None:
    deploy()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_processtreeschedule SET cron = '0 10 * * *'")
    assert edited() == ["schedule"]


def test_both_are_named_in_one_sentence() -> None:
    deploy()
    ProcessTree.objects.update(description="Closes the books.")
    ProcessTreeSchedule.objects.update(context={"year": 2027})
    assert "close: its tree and its schedule were edited since" in warned("list")


def test_a_schedule_that_an_operator_set_on_the_command_line_is_named() -> None:
    deploy()
    call_command("proctree", "schedule", "close", "--every", "45", stdout=StringIO())
    assert edited() == ["schedule"]


def test_switching_a_schedule_off_and_on_is_no_drift_and_hides_none() -> None:
    deploy()
    for action in ("disable", "enable", "disable"):
        call_command("proctree", action, "close", stdout=StringIO())
        assert edited() == []
    ProcessTreeSchedule.objects.update(cron="0 10 * * *")
    call_command("proctree", "enable", "close", stdout=StringIO())
    assert edited() == ["schedule"]


def test_of_what_the_code_never_saved_nothing_is_said() -> None:
    row = ProcessTree.objects.create(name="by_hand", processes=[])
    ProcessTreeSchedule.objects.create(process_tree=row, interval_minutes=60)
    assert edited() == []


def test_a_copy_in_the_admin_is_not_what_the_code_saved() -> None:
    deploy()
    row = ProcessTree.objects.get()
    row.pk, row.name = None, "copy"
    row.save()
    assert row.saved_by_code == ""


def test_rows_of_before_are_noted_by_the_next_deployment_without_being_written_anew() -> None:
    deploy()
    ProcessTree.objects.update(saved_by_code="")
    ProcessTreeSchedule.objects.update(saved_by_code="", next_run_rule="as it was")
    before = ProcessTree.objects.get().updated_at
    deploy()
    row = ProcessTree.objects.get()
    assert row.updated_at == before
    assert row.saved_by_code
    assert row.schedule.saved_by_code
    assert row.schedule.next_run_rule == "as it was"


def test_a_tree_that_cannot_be_read_is_listed_all_the_same() -> None:
    deploy()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_processtree SET processes = '9' || %s", ["9" * 5000]
        )
    assert edited() == ["tree"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_the_database_gives_back_as_a_whole_one_is_the_same(number: float) -> None:
    whole = int(number) if number.is_integer() else number
    assert tree_spec.digest({"a": [number]}) == tree_spec.digest({"a": [whole]})
