"""Edits of declared trees on their pages: they are named, taken back, or kept."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, TreeChange
from proctree_dagster.models.tree_sources import place_of
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, OWNS, VIEWS, browser, text_of, user
from tests.app import processes
from tests.tree_builder.code_of_trees import Code, said, tree
from tests.tree_builder.test_sync import full

pytestmark = pytest.mark.django_db

RULE = place_of(("schedules", "default", "rule"))


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Code:
    made = Code(monkeypatch)
    made.says("close", full)
    made.says("report")
    assert said("sync")[0] == 0
    return made


def edit() -> None:
    ProcessTreeSchedule.objects.filter(name="default").update(cron="0 7 * * *")
    ProcessTree.objects.filter(name="close").update(description="<b>edited</b>")


def page(client: Client, below: str = "code/") -> str:
    return text_of(client.get(f"{ADMIN}/processtree/{tree().pk}/{below}"))


def decide(client: Client, action: str, *places: str) -> Any:
    data = {"action": action, "place": list(places)}
    return client.post(f"{ADMIN}/processtree/{tree().pk}/code/", data, follow=True)


def test_a_trees_page_says_where_it_comes_from_and_what_was_edited(
    code: Code, admin_client: Client
) -> None:
    assert "tests.app.trees:declare_close declares it" in page(admin_client, "change/")
    assert "Edited since the deploy" not in page(admin_client, "change/")
    edit()
    shown = page(admin_client, "change/")
    assert (
        "Edited since the deploy, until the next sync: description, cron of its schedule" in shown
    )
    assert "Take the code’s, or keep it" in shown
    code.says_nothing_of("close")
    said("sync")
    assert "Not in the code any more, and still on: the tree" in page(admin_client, "change/")


def test_a_tree_of_a_script_or_of_the_admin_says_so(admin_client: Client) -> None:
    ProcessTreeInstance("close").add_process("one", func=processes.one).save()
    assert "A script has saved it" in page(admin_client, "change/")
    edit()
    assert "Edited since a script saved it: tree" in page(admin_client, "change/")
    ProcessTree.objects.update(saved_by_code="")
    assert "It was made in the admin." in page(admin_client, "change/")
    answer = admin_client.get(f"{ADMIN}/processtree/{tree().pk}/code/")
    assert answer.status_code == 404


def test_the_page_shows_what_the_code_said_and_what_is_there(
    code: Code, admin_client: Client
) -> None:
    assert "Nothing was edited since then." in page(admin_client)
    edit()
    shown = page(admin_client)
    assert 'description "" "<b>edited</b>"' in shown
    assert 'cron of its schedule "0 9 * * *" "0 7 * * *"' in shown


def test_what_was_chosen_is_taken_and_noted_in_the_log(code: Code, admin_client: Client) -> None:
    edit()
    shown = text_of(decide(admin_client, "take", RULE))
    assert "As the code said: cron of its schedule." in shown
    assert tree().schedule.cron == "0 9 * * *"
    assert tree().description == "<b>edited</b>"
    entry = LogEntry.objects.get()
    assert entry.get_change_message() == "As the code said: cron of its schedule."
    decide(admin_client, "take", "description")
    change = TreeChange.objects.first()
    assert change is not None
    assert (change.origin, change.who) == ("admin", "admin")


def test_what_was_chosen_is_kept_and_says_by_whom(code: Code, admin_client: Client) -> None:
    edit()
    decide(admin_client, "keep", "description", RULE)
    assert said("sync")[0] == 0
    assert tree().description == "<b>edited</b>"
    assert "Kept as edited: description, cron of its schedule" in page(admin_client, "change/")
    assert "admin 20" in page(admin_client), "who, and when"
    assert "description: kept by admin" in said("sync")[1]
    decide(admin_client, "take", "description")
    assert tree().description == ""


def test_what_does_not_differ_any_more_is_said(code: Code, admin_client: Client) -> None:
    edit()
    said("sync")
    assert "Nothing was chosen that differs." in text_of(decide(admin_client, "take", RULE))


def test_what_the_code_said_and_is_not_valid_any_more_changes_nothing(
    code: Code, admin_client: Client
) -> None:
    source = tree().source
    source.said = {**source.said, "processes": [{"name": "x", "func": "tests.app.processes:gone"}]}
    source.save()
    shown = text_of(decide(admin_client, "take", "processes"))
    assert "Nothing was changed:" in shown
    assert "tests.app.processes:gone" in shown
    assert tree().processes[0]["name"] == "one"


@pytest.mark.parametrize(
    ("lacks", "may", "may_not"),
    [
        ("change_processtreeschedule", "description", RULE),
        ("name_functions", "description", "processes"),
        ("run_processtree", "description", RULE),
    ],
)
def test_who_lacks_a_permission_may_decide_on_other_places_only(
    code: Code, lacks: str, may: str, may_not: str
) -> None:
    edit()
    row = tree()
    row.processes = [{**row.processes[0], "timeout": 5}]
    row.save()
    rights = {*VIEWS, *OWNS, "run_processtree", "fire_trigger"} - {lacks}
    client = browser(user("anna", rights))
    assert "You may not change it." in page(client)
    for action in ("take", "keep"):
        assert decide(client, action, may, may_not).status_code == 403
    assert tree().source.kept == {}
    assert decide(client, "keep", may).status_code == 200
    assert list(tree().source.kept) == [may]


def test_who_may_only_view_can_choose_nothing(code: Code) -> None:
    edit()
    client = browser(user("anna", VIEWS))
    assert "0 7 * * *" in page(client)
    assert "Take the code" not in page(client)
    assert decide(client, "take").status_code == 403


def test_an_unknown_deed_is_refused(code: Code) -> None:
    client = browser(User.objects.create_superuser("root"))
    assert decide(client, "destroy", "description").status_code == 403
