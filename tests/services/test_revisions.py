"""What trees were: recorded by whatever saves them, found by hash and by date, and restored."""

import datetime as dt
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from proctree_dagster import triggers
from proctree_dagster.models import (
    Origin,
    ProcessTree,
    ProcessTreeSchedule,
    TreeChange,
    TreeLink,
    TreeRevision,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import revisions
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.tree_builder.code_of_trees import Code, said

pytestmark = pytest.mark.django_db


def make(name: str = "close", description: str = "") -> ProcessTree:
    tree = ProcessTreeInstance(name, description=description, overwrite=True)
    return tree.add_process("one", func=processes.one).save()


def recorded(name: str = "close") -> list[str]:
    """Return the revisions of a tree, the oldest first; the last one must be the present."""
    row = ProcessTree.objects.get(name=name)
    found = [each.revision for each in revisions.history(row.job_name)][::-1]
    assert found[-1] == row.revision
    assert {each.revision for each in TreeRevision.objects.filter(job_name=row.job_name)} == {
        *found
    }
    return found


def test_every_way_of_saving_records_what_it_has_made() -> None:
    follower, row = make("report"), make()
    trigger = triggers.create_trigger("paid", "event")
    ways: list[Any] = [
        lambda: make(description="by the builder"),
        lambda: ProcessTree(pk=row.pk, **{**fresh(row), "description": "by the model"}).save(),
        lambda: ProcessTreeInstance.load("close").register_schedule(context={"year": 1}),
        lambda: triggers.subscribe_tree_to_trigger("close", "paid"),
        lambda: TriggerSubscription.objects.get().delete(),
        lambda: TreeLink(source=row, target=follower).save(),
        lambda: ProcessTree.objects.filter(name="report").delete(),
        lambda: ProcessTreeSchedule.objects.get().delete(),
        lambda: ProcessTreeInstance.load("close").subscribe_to_trigger(trigger).save(),
    ]
    for number, way in enumerate(ways, 2):
        way()
        assert len(recorded()) == number


def fresh(row: ProcessTree) -> dict[str, Any]:
    fields = ("name", "job_name", "processes", "created_at")
    return {name: getattr(row, name) for name in fields}


def test_a_save_of_several_rows_is_one_revision() -> None:
    make("report")
    triggers.create_trigger("paid", "event")
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.add_dependent_tree("report").subscribe_to_trigger("paid").save()
    assert len(recorded()) == 1
    tree.remove_dependent_tree("report").set_description("changed").save()
    assert len(recorded()) == 2


def test_what_is_in_no_revision_records_none() -> None:
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.save()
    tree.register_schedule(cron="0 9 * * *", context={"year": 1})
    tree.register_schedule(name="north", context={"year": 2})
    count = len(recorded())
    tree.register_schedule(cron="0 10 * * *", enabled=False)
    tree.register_schedule(name="north", context={"year": 3})
    tree.save()
    assert len(recorded()) == count


def test_a_tree_that_is_as_it_was_before_has_one_content_and_two_changes() -> None:
    make(description="a")
    make(description="b")
    make(description="a")
    first, second, third = recorded()
    assert first == third != second
    assert TreeRevision.objects.count() == 2


def test_a_rollback_records_nothing() -> None:
    make()
    with transaction.atomic():
        make(description="rolled back")
        transaction.set_rollback(True)
    assert len(recorded()) == 1


def test_renaming_a_tree_or_a_trigger_changes_the_trees_that_name_it() -> None:
    report = make("report")
    triggers.create_trigger("paid", "event")
    tree = ProcessTreeInstance("close").add_process("one", func=processes.one)
    tree.add_dependent_tree("report").subscribe_to_trigger("paid").save()
    report.name = "reports"
    report.save()
    assert len(recorded()) == 2
    trigger = Trigger.objects.get()
    trigger.name = "was paid"
    trigger.save()
    assert len(recorded()) == 3


def test_who_has_saved_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    code = Code(monkeypatch)
    code.says("close")
    said("sync")
    with revisions.saved_by(Origin.ADMIN, "anna"):
        make(description="edited")
    make(description="by a script")
    found = [(each.origin, each.who) for each in TreeChange.objects.order_by("pk")]
    assert found == [("code", ""), ("admin", "anna"), ("script", "")]


def test_a_revision_never_changes() -> None:
    make()
    with pytest.raises(TypeError):
        TreeRevision.objects.update(tree={})
    with pytest.raises(TypeError):
        TreeRevision.objects.get().save()


def test_what_sql_wrote_is_recorded_when_a_run_sees_it() -> None:
    row = make()
    ProcessTree.objects.update(description="by SQL")
    ProcessTreeManager.execute_tree("close")
    first, second = recorded()
    assert first != second
    change = TreeChange.objects.order_by("pk").last()
    assert change is not None
    assert change.origin == Origin.SEEN
    ProcessTreeManager.execute_tree("close")
    assert len(recorded()) == 2
    stored = revisions.find(row.job_name, second)
    assert stored is not None
    assert stored.tree["description"] == "by SQL"


def test_what_sql_wrote_is_recorded_by_a_sync_before_it_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Code(monkeypatch).says("close")
    said("sync")
    ProcessTree.objects.update(description="by SQL")
    said("sync")
    assert [each.origin for each in TreeChange.objects.order_by("pk")] == ["code", "seen", "code"]


def test_a_deleted_tree_leaves_what_old_runs_need() -> None:
    row = make()
    ProcessTree.objects.update(description="by SQL, and seen by nothing")
    revision = ProcessTree.objects.get().revision
    row.delete()
    found = revisions.find(row.job_name, revision)
    assert found is not None
    assert revisions.as_row(found).processes[0]["name"] == "one"


def test_a_tree_is_deleted_with_its_parts_and_of_these_nothing_is_recorded() -> None:
    make()
    ProcessTreeInstance.load("close").register_schedule(context={"year": 1})
    count = TreeChange.objects.count()
    ProcessTree.objects.all().delete()
    assert TreeChange.objects.count() == count


def test_a_fixture_is_loaded_and_seen_later() -> None:
    make()
    text = json.dumps(
        [
            {
                "model": "proctree_dagster.processtree",
                "pk": 77,
                "fields": {
                    "name": "loaded",
                    "job_name": "loaded",
                    "processes": [],
                    "created_at": "2026-01-01T00:00:00Z",
                    "updated_at": "2026-01-01T00:00:00Z",
                },
            }
        ]
    )
    from django.core import serializers

    for each in serializers.deserialize("json", text):
        each.save()
    revisions.see("loaded")
    assert len(recorded("loaded")) == 1


# --- Finding and restoring ------------------------------------------------------------------------


def at(revision: str, moment: dt.datetime) -> None:
    """Let a change have been made at a moment."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_treechange SET at = %s WHERE revision = %s",
            [moment.strftime("%Y-%m-%d %H:%M:%S"), revision],
        )


def test_a_revision_is_named_by_its_beginning_or_by_a_date() -> None:
    make(description="old")
    make(description="new")
    old, new = recorded()
    at(old, timezone.now() - dt.timedelta(days=10))
    at(new, timezone.now() - dt.timedelta(days=2))
    day = (timezone.now() - dt.timedelta(days=5)).date().isoformat()
    for named in (old, old[:5], day):
        status, text = said("show", "close", "--at", named)
        assert status == 0
        assert text.startswith(f"close: old\nRevision {old}\n")
        assert 'description: "old" → "new"' in text
    assert "Nothing has changed since then." in said("show", "close", "--at", new)[1]
    assert said("show", "close", "--at", new, "--mermaid")[1].startswith("flowchart LR")
    for named, why in (("abc", "at least 4"), ("zzzzz", "No revision of 'close'")):
        status, text = said("show", "close", "--at", named)
        assert (status, why in text) == (1, True)
    assert "is recorded until 2020-01-01" in said("show", "close", "--at", "2020-01-01")[1]
    assert said("show", "close", "--at", "2020-13-01")[0] == 2


def test_the_revisions_of_a_tree_are_listed_with_who_and_when() -> None:
    make(description="old")
    with revisions.saved_by(Origin.ADMIN, "anna"):
        make(description="new")
    old, new = recorded()
    lines = said("revisions", "close")[1].splitlines()
    assert [line.split("\t")[0] for line in lines] == [new, old]
    assert lines[0].split("\t")[2:] == ["the admin", "anna", "now"]
    assert 'description: "old" → "new"' in said("revisions", "close", "--diff", old[:6])[1]
    assert 'description: "new" → "old"' in said("revisions", "close", "--diff", new, old)[1]
    assert "Nothing has changed." in said("revisions", "close", "--diff", new)[1]
    found = json.loads(said("revisions", "close", "--json")[1])
    assert [each["user"] for each in found["revisions"]] == ["anna", ""]
    ProcessTree.objects.update(description="by SQL")
    assert "is saved now; a run or a sync records it" in said("revisions", "close")[1]


def test_secrets_of_a_context_are_not_shown() -> None:
    make()
    ProcessTreeInstance.load("close").register_schedule(context={"password": "sesame"})
    ProcessTreeInstance.load("close").register_schedule(context={"password": "open"})
    first = recorded()[1]
    for arguments in (
        ("show", "close", "--at", first),
        ("revisions", "close", "--diff", first),
        ("show", "close", "--at", first, "--json"),
    ):
        assert "sesame" not in said(*arguments)[1]


def test_restoring_is_a_new_save_of_processes_and_options() -> None:
    make(description="old")
    ProcessTreeInstance.load("close").register_schedule(context={"year": 1})
    old = recorded()[0]
    tree = ProcessTreeInstance("close", description="new", overwrite=True)
    tree.add_process("two", func=processes.two).set_executor("in_process", 2).save()
    assert said("restore", "close", old[:6]) == (0, f"close: saved again as in {old}.\n")
    row = ProcessTree.objects.get()
    assert [each["name"] for each in row.processes] == ["one"]
    assert (row.description, row.executor, row.max_concurrent) == ("old", "", None)
    assert row.default_context == {"year": 1}, "a schedule's, so it stays"
    assert len(recorded()) == 4
    assert "are those of" in said("restore", "close", old)[1]


def test_restoring_is_refused_where_functions_are_gone_and_they_are_named() -> None:
    row = make(description="old")
    content = {**row.to_dict(), "processes": [{"name": "x", "func": "tests.app.processes:gone"}]}
    TreeRevision.objects.create(job_name=row.job_name, revision="feedbeef", tree=content)
    status, text = said("restore", "close", "feed")
    assert status == 1
    assert "tests.app.processes:gone" in text
    assert ProcessTree.objects.get().processes[0]["name"] == "one"


def test_dumpdata_and_loaddata_keep_revisions(tmp_path: Any) -> None:
    make()
    file = tmp_path / "dump.json"
    call_command("dumpdata", "proctree_dagster", output=str(file))
    TreeRevision.objects.all().delete()
    call_command("loaddata", str(file), verbosity=0)
    assert TreeRevision.objects.count() == 1
