"""What trees were, on their pages and on those of their runs."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client

from proctree_dagster.models import ProcessTree, TreeChange, TreeRevision
from proctree_dagster.running import dagster_loading
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.dagster_pages import RUNS, execute
from tests.admin.people import ADMIN, OWNS, VIEWS, browser, shown, text_of, user
from tests.app import processes

pytestmark = pytest.mark.django_db


@pytest.fixture
def loaded(dagster_home: Path) -> None:
    assert dagster_loading.wait(60)


def save(description: str = "", func: Any = processes.one) -> ProcessTree:
    made = ProcessTreeInstance("close", description=description, overwrite=True)
    return made.add_process("one", func=func).save()


def two() -> tuple[ProcessTree, str, str]:
    """Save a tree twice, and return it with both revisions."""
    old = save("old").revision
    row = save("<i>new</i>", processes.two)
    return row, old, row.revision


def address(row: ProcessTree, below: str) -> str:
    return f"{ADMIN}/processtree/{row.pk}/{below}"


def test_the_revisions_of_a_tree_are_listed_and_lead_to_what_it_was(admin_client: Client) -> None:
    row, old, new = two()
    answer = admin_client.get(address(row, "revisions/"))
    assert [each["revision"] for each in answer.context["rows"]] == [new, old]
    assert f"{new} now" in text_of(answer)
    page = text_of(admin_client.get(answer.context["rows"][1]["url"]))
    assert 'description "old" "<i>new</i>"' in page
    assert "tests.app.processes:one" in page
    assert "Restore" in page
    assert address(row, "revisions/") in admin_client.get(address(row, "change/")).content.decode()


def test_a_revision_that_is_not_recorded_or_of_no_tree_is_not_found(admin_client: Client) -> None:
    row, _old, _new = two()
    assert admin_client.get(address(row, "revisions/feedbeef/")).status_code == 404
    assert admin_client.get(f"{ADMIN}/processtree/999/revisions/").status_code == 404


def test_what_sql_wrote_is_said_to_be_unrecorded(admin_client: Client) -> None:
    row, _old, _new = two()
    ProcessTree.objects.update(description="by SQL")
    assert "is not recorded: SQL has written it" in text_of(
        admin_client.get(address(row, "revisions/"))
    )


def test_restoring_saves_it_again_and_is_noted(admin_client: Client) -> None:
    row, old, _new = two()
    answer = admin_client.post(address(row, f"revisions/{old}/"), follow=True)
    assert f"Restored the processes and options of revision {old}." in text_of(answer)
    found = ProcessTree.objects.get()
    assert (found.description, found.processes[0]["func"]) == ("old", "tests.app.processes:one")
    assert LogEntry.objects.get().object_id == str(row.pk)
    last = TreeChange.objects.first()
    assert last is not None
    assert (last.revision, last.origin, last.who) == (old, "admin", "admin")
    again = admin_client.post(address(row, f"revisions/{old}/"), follow=True)
    assert "are those of revision" in text_of(again)
    assert LogEntry.objects.count() == 1


def test_what_can_not_be_restored_says_why_and_offers_no_button(admin_client: Client) -> None:
    row, _old, _new = two()
    content = {**row.to_dict(), "processes": [{"name": "x", "func": "tests.app.processes:gone"}]}
    TreeRevision.objects.create(job_name=row.job_name, revision="feedbeef", tree=content)
    answer = admin_client.get(address(row, "revisions/feedbeef/"))
    assert "tests.app.processes:gone" in text_of(answer)
    assert "<form method=" not in answer.content.decode().partition("content-main")[2]
    answer = admin_client.post(address(row, "revisions/feedbeef/"), follow=True)
    assert "It was not restored:" in text_of(answer)
    assert ProcessTree.objects.get().processes[0]["name"] == "one"


@pytest.mark.parametrize("lacks", ["change_processtree", "name_functions"])
def test_who_may_not_change_trees_or_name_functions_may_not_restore(lacks: str) -> None:
    row, old, _new = two()
    client = browser(user("anna", {*VIEWS, *OWNS} - {lacks}))
    assert "Restore" not in text_of(client.get(address(row, f"revisions/{old}/")))
    assert client.post(address(row, f"revisions/{old}/")).status_code == 403
    assert ProcessTree.objects.get().description == "<i>new</i>"


def test_a_save_in_the_admin_is_one_revision_with_its_user(admin_client: Client) -> None:
    row = save()
    data = {**shown(admin_client, address(row, "change/")), "description": "by hand"}
    assert admin_client.post(address(row, "change/"), data).status_code == 302
    changes = list(TreeChange.objects.order_by("pk"))
    assert [(each.origin, each.who) for each in changes] == [("script", ""), ("admin", "admin")]


def test_secrets_of_a_default_context_are_hidden(admin_client: Client) -> None:
    row = save()
    ProcessTreeInstance.load("close").register_schedule(context={"password": "sesame"})
    revision = ProcessTree.objects.get().revision
    page = admin_client.get(address(row, f"revisions/{revision}/")).content.decode()
    assert "(hidden)" in page
    assert "sesame" not in page


# --- A run's page ---------------------------------------------------------------------------------


def of_run(client: Client, run_id: str) -> str:
    return text_of(client.get(f"{RUNS}{run_id}/change/"))


@pytest.mark.usefixtures("loaded")
def test_a_runs_page_shows_the_tree_as_it_was_when_it_ran(admin_client: Client) -> None:
    row = save("old")
    run_id, old = execute(row), row.revision
    assert "The tree is still as it was." in of_run(admin_client, run_id)
    save("new", processes.two)
    page = of_run(admin_client, run_id)
    assert "The tree was changed since: description, func of process 'one'." in page
    assert f"Revision {old}" in page
    assert "tests.app.processes:one" in page
    assert "tests.app.processes:two" not in page
    assert address(row, f"revisions/{old}/") in str(
        admin_client.get(f"{RUNS}{run_id}/change/").content
    )


@pytest.mark.usefixtures("loaded")
def test_a_run_of_a_deleted_tree_still_shows_what_it_was(admin_client: Client) -> None:
    run_id = execute(save("old"))
    ProcessTree.objects.all().delete()
    page = of_run(admin_client, run_id)
    assert "The tree was deleted since." in page
    assert "tests.app.processes:one" in page


@pytest.mark.usefixtures("loaded")
def test_a_run_of_an_unrecorded_revision_shows_nothing_of_it(admin_client: Client) -> None:
    run_id = execute(save("old"))
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM proctree_dagster_treerevision")
    assert "The tree when it ran" not in of_run(admin_client, run_id)
