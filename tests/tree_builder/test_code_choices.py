"""Edits of declared trees are named, and taken back or kept."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, TriggerSubscription
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tree_builder.code_of_trees import Code, said, tree
from tests.tree_builder.test_sync import full

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("dagster_home")]


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Code:
    made = Code(monkeypatch)
    made.says("close", full)
    made.says("report")
    assert said("sync")[0] == 0
    return made


def edit() -> None:
    """Edit a rule, what operators own, and a description."""
    ProcessTreeSchedule.objects.filter(name="default").update(
        cron="0 7 * * *", context={"year": 1}, enabled=False
    )
    ProcessTree.objects.filter(name="close").update(description="edited")


def listed(name: str = "close") -> dict[str, Any]:
    out = StringIO()
    call_command("proctree", "list", "--json", stdout=out, stderr=StringIO())
    found = json.loads(out.getvalue())
    [row] = [each for each in found["trees"] if each["name"] == name]
    return dict(row)


def test_the_list_says_what_was_edited_and_what_to_do(code: Code) -> None:
    assert "edited" not in said("list")[1]
    edit()
    text = said("list")[1]
    assert (
        "close: edited since the deploy: description, cron of its schedule; the next sync undoes "
        "that, or 'proctree take close' now; 'proctree keep close' keeps it."
    ) in text
    assert "edited since the deploy" in said("show", "close")[1]
    row = listed()
    assert row["edited"] == ["tree", "schedule"]
    assert row["edited_places"] == ["description", "cron of its schedule"]
    assert (row["origin"], row["declared_by"]) == ("code", "tests.app.trees:declare_close")


def test_what_operators_own_is_not_called_edited(code: Code) -> None:
    ProcessTreeSchedule.objects.update(context={"year": 1}, enabled=False)
    assert listed()["edited"] == []


def test_where_a_tree_comes_from_is_listed(code: Code) -> None:
    ProcessTreeInstance("script").add_process("one", func=processes.one).save()
    ProcessTree.objects.create(name="by_hand", processes=[])
    found = {name: listed(name)["origin"] for name in ("close", "script", "by_hand")}
    assert found == {"close": "code", "script": "script", "by_hand": "admin"}


def test_deleted_and_changed_subscriptions_and_followers_are_edits_too(code: Code) -> None:
    TriggerSubscription.objects.all().delete()
    tree().links_out.all().delete()
    places = ["its subscription to 'paid'", "dependent_trees"]
    assert listed()["edited_places"] == places


def test_taking_makes_the_rows_say_what_the_code_said(code: Code) -> None:
    edit()
    TriggerSubscription.objects.all().delete()
    status, text = said("take", "close")
    assert status == 0
    assert "as the code said it: its subscription to 'paid', description, cron of" in text
    row = tree()
    assert (row.description, row.schedule.cron) == ("", "0 9 * * *")
    assert (row.schedule.context, row.schedule.enabled) == ({"year": 1}, False), "operators' own"
    assert row.subscriptions.count() == 1
    assert said("sync", "--check")[0] == 0
    assert "nothing was edited" in said("take", "close")[1]


def test_one_place_is_taken_and_others_stay(code: Code) -> None:
    edit()
    assert said("take", "close", "cron")[0] == 0
    assert (tree().description, tree().schedule.cron) == ("edited", "0 9 * * *")


def test_what_is_kept_survives_syncs_and_is_said_until_it_is_taken(code: Code) -> None:
    edit()
    assert said("keep", "close")[0] == 0
    assert said("sync", "--check")[0] == 0
    code.says("close", full, description="changed in the code, too")
    status, text = said("sync")
    assert status == 0
    assert 'the code says "changed in the code, too"' in text
    assert "description: kept" in text
    row = tree()
    assert (row.description, row.schedule.cron) == ("edited", "0 7 * * *")
    assert listed()["edited"] == []
    assert listed()["kept"] == ["description", "cron of its schedule"]
    assert "close: kept as edited: description, cron of its schedule" in said("list")[1]
    assert said("take", "close", "description", "schedules/default/rule")[0] == 0
    assert tree().description == "changed in the code, too"
    assert tree().schedule.cron == "0 9 * * *"
    assert listed()["kept"] == []


def test_a_deleted_schedule_may_be_kept_deleted(code: Code) -> None:
    ProcessTreeSchedule.objects.filter(name="north").delete()
    assert said("keep", "close")[0] == 0
    assert said("sync")[0] == 0
    assert not tree().schedules.filter(name="north").exists()
    assert said("take", "close", "schedules/north")[0] == 0
    assert tree().schedules.filter(name="north").exists()


def test_what_was_not_edited_can_be_neither_taken_nor_kept(code: Code) -> None:
    edit()
    status, text = said("keep", "close", "executor")
    assert status == 1
    assert "What was: description, schedules/default/rule." in text
    ProcessTreeInstance("script").add_process("one", func=processes.one).save()
    assert "is not declared in code" in said("take", "script")[1]


def test_a_removed_tree_that_is_still_on_is_listed(code: Code) -> None:
    code.says_nothing_of("close")
    assert said("sync")[0] == 0
    assert listed()["removed_from_code"] == ["the tree"]
    assert "not in the code any more, and still on: the tree" in said("list")[1]
    assert said("sync", "--prune")[0] == 0
    assert listed()["removed_from_code"] == []


def test_the_list_makes_few_queries_for_declared_trees_without_drift(
    code: Code, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        code.says(f"t{number}", lambda t: t.register_schedule(cron="0 9 * * *"))
    assert said("sync")[0] == 0
    with django_assert_max_num_queries(30):
        said("list", "--json")
