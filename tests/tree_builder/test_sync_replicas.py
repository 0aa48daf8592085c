"""What a sync compares and writes, it reads from the database that is written.

Django's router reads from a replica here, to which nothing has come yet.
"""

import pytest
from pytest_django import Settings

from proctree_dagster.models import (
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import tree_links
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.tools.replicas import Replicated
from tests.tree_builder.code_of_trees import Code, said

pytestmark = [
    pytest.mark.django_db(databases=["default", "north"]),
    pytest.mark.usefixtures("dagster_home"),
]


@pytest.fixture(autouse=True)
def replica(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [Replicated()]


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Code:
    found = Code(monkeypatch)
    found.says("close", full)
    found.says("report")
    return found


def full(tree: ProcessTreeInstance) -> None:
    """Declare a schedule, triggers, a subscription and a follower."""
    tree.register_schedule(cron="0 9 * * *", context={"year": 2026})
    tree.create_trigger("paid", "event")
    tree.create_trigger("sent", "event")
    tree.subscribe_to_trigger("paid", context={"year": 1})
    tree.add_process("waits", func=processes.one, trigger="sent")
    tree.add_dependent_tree("report")


def row(name: str = "close") -> ProcessTree:
    return ProcessTree.objects.get(name=name)


def test_a_tree_with_all_its_parts_is_saved_and_then_as_the_code_says(code: Code) -> None:
    status, text = said("sync")
    assert status == 0, text
    assert row().linked_trees() == {"dependent_trees": ["report"]}
    assert [each.cron for each in row().all_schedules()] == ["0 9 * * *"]
    assert TriggerSubscription.objects.get().trigger_id == Trigger.objects.get(name="paid").pk
    assert said("sync") == (0, "2 trees as the code says.\n")
    assert said("sync", "--check") == (0, "2 trees as the code says.\n")


def test_what_the_operators_own_stays(code: Code) -> None:
    said("sync")
    ProcessTreeSchedule.objects.update(enabled=False)
    TriggerSubscription.objects.update(enabled=False)
    status, text = said("sync")
    assert status == 0, text
    assert not ProcessTreeSchedule.objects.get().enabled
    assert not TriggerSubscription.objects.get().enabled


def test_an_edit_is_found_and_a_kept_one_stays(code: Code) -> None:
    said("sync")
    edited = row()
    edited.description = "By hand."
    edited.save()
    assert 'description: "By hand."' in said("sync", "--check")[1]
    status, text = said("keep", "close", "description")
    assert status == 0, text
    said("sync")
    assert row().description == "By hand."


def test_a_removed_tree_is_pruned(code: Code) -> None:
    said("sync")
    assert row().what_runs_it()
    code.says_nothing_of("close")
    assert "it still runs (its schedule is on" in said("sync")[1]
    said("sync", "--prune")
    assert row().what_runs_it() == []


def test_a_family_has_the_link_that_was_just_added() -> None:
    for name in ("close", "report"):
        ProcessTreeInstance(name).add_process("one", func=processes.one).save()
    tree_links.set_links(row(), ["report"], [])
    plan = tree_links.plan_family(row(), "0" * 32)
    assert [each.tree.name for each in plan.runs] == ["report"]


def test_followers_in_a_circle_are_refused_before_they_are_written() -> None:
    for name in ("close", "report"):
        ProcessTreeInstance(name).add_process("one", func=processes.one).save()
    tree_links.set_links(row(), ["report"], [])
    [problem] = tree_links.problems("report", row("report"), ["close"])
    assert "in a circle" in problem


def test_a_saved_tree_is_loaded_and_saved_again_with_its_parts(code: Code) -> None:
    said("sync")
    tree = ProcessTreeManager.get_tree("close")
    before = row().to_dict()
    tree.save()
    assert row().to_dict() == before
