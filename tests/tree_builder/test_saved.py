"""What is saved is saved: after a rollback, to another database, as a copy, and in part."""

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import OperationalError, models, transaction

from proctree_dagster.exceptions import InvalidTree, ScheduleError, TreeExists
from proctree_dagster.models import (
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import tree_links
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger, subscribe_tree_to_trigger
from tests.app import processes
from tests.tools.schedules import register, row, utc

pytestmark = pytest.mark.django_db(databases=["default", "north"])


class Undo(Exception):
    """Rolls a transaction back."""


def rolled_back(func: Callable[[], Any]) -> None:
    """Call a function in a transaction that is rolled back, as a caller's may be."""
    with suppress(Undo), transaction.atomic():
        func()
        raise Undo


def tree(name: str = "t", **options: Any) -> ProcessTreeInstance:
    return ProcessTreeInstance(name, **options).add_process("one", func=processes.one)


# --- After a rollback -----------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_tree_is_saved_again_after_a_rollback(overwrite: bool) -> None:
    tree("follower").save()
    create_trigger("e", "event")
    written = tree(overwrite=overwrite).add_dependent_tree("follower")
    written.subscribe_to_trigger("e", {"a": 1})
    rolled_back(written.save)
    written.save()
    saved = ProcessTree.objects.get(name="t")
    assert saved.linked_trees() == {"dependent_trees": ["follower"]}
    assert saved.subscriptions.get().context == {"a": 1}
    assert written.register_schedule().process_tree == saved


def test_a_change_of_a_saved_tree_is_saved_again_after_a_rollback() -> None:
    tree().save()
    changed = ProcessTreeInstance.load("t").set_description("new")
    rolled_back(changed.save)
    changed.save()
    assert ProcessTree.objects.get().description == "new"


def test_a_first_try_that_failed_keeps_nothing_from_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree().save()
    changed = ProcessTreeInstance.load("t").set_description("new")

    def locked(*args: Any) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(tree_links, "set_links", locked)
        with pytest.raises(OperationalError):
            changed.save()
    changed.save()
    assert ProcessTree.objects.get().description == "new"


def test_after_a_rollback_another_tree_with_the_same_key_is_left_alone() -> None:
    written = tree("mine")
    rolled_back(written.save)
    other = tree("other").save()
    written.save()
    assert set(ProcessTree.objects.values_list("name", flat=True)) == {"mine", "other"}
    other.refresh_from_db()
    assert other.name == "other"


def test_after_a_rollback_a_tree_that_somebody_else_has_saved_is_not_replaced() -> None:
    written = tree("t")
    rolled_back(written.save)
    tree("t").set_description("another's").save()
    with pytest.raises(TreeExists):
        written.save()


def test_a_schedule_and_a_trigger_are_saved_again_after_a_rollback() -> None:
    saved = tree().save()
    schedule = ProcessTreeSchedule(process_tree=saved, interval_minutes=30)
    trigger = Trigger(name="t", trigger_type="event")
    link = TreeLink(source=saved, target=tree("follower").save())
    for each in (schedule, trigger, link):
        rolled_back(each.save)
        each.save()
        assert type(each)._default_manager.filter(pk=each.pk).exists()
    assert row(schedule).next_run == schedule.next_run


def test_what_the_clock_writes_is_written_again_after_a_rollback() -> None:
    schedule = register()
    schedule.last_run = utc("2026-01-01 00:00")
    rolled_back(schedule.save)
    schedule.save()
    assert row(schedule).last_run == utc("2026-01-01 00:00")


def test_whatever_is_made_by_a_function_is_made_again_after_a_rollback() -> None:
    written = tree()
    written.save()
    calls: list[tuple[Callable[[], Any], type[Any]]] = [
        (lambda: create_trigger("e", "event"), Trigger),
        (lambda: written.register_schedule(), ProcessTreeSchedule),
    ]
    for call, model in calls:
        rolled_back(call)
        assert not model.objects.exists()
        call()
        assert model.objects.count() == 1
    rolled_back(lambda: written.subscribe_to_trigger("e"))
    written.subscribe_to_trigger("e")
    assert TriggerSubscription.objects.count() == 1


# --- Copies, and other databases ------------------------------------------------------------------


def test_a_copy_of_a_tree_gets_a_job_of_its_own() -> None:
    saved = tree().save()
    job_name = saved.job_name
    saved.pk, saved.name = None, "copy"
    saved.save()
    assert saved.job_name == "copy"
    assert set(ProcessTree.objects.values_list("job_name", flat=True)) == {job_name, "copy"}


def test_several_trees_are_saved_at_once() -> None:
    names = ["a", "b", "with spaces"]
    trees = [ProcessTree(name=name, processes=[]) for name in names]
    ProcessTree.objects.bulk_create(trees)
    assert all(each.job_name for each in ProcessTree.objects.all())


@pytest.mark.parametrize("adding", [True, False])
def test_a_copy_of_a_schedule_begins_without_the_runs_of_the_other(adding: bool) -> None:
    schedule = register()
    ProcessTreeSchedule.objects.update(
        last_run_id="x", claim=utc("2026-01-01 00:00"), last_run=utc("2026-01-01 00:00")
    )
    schedule.refresh_from_db()
    schedule.pk, schedule.process_tree, schedule._state.adding = None, tree("u").save(), adding
    schedule.save()
    copy = ProcessTreeSchedule.objects.get(process_tree__name="u")
    assert (copy.last_run_id, copy.claim, copy.last_run) == ("", None, None)
    assert copy.next_run is not None
    assert ProcessTreeSchedule.objects.count() == 2


def test_a_copy_of_a_trigger_has_not_fired() -> None:
    trigger = create_trigger("t", "event")
    Trigger.objects.update(state="fired", fire_count=5)
    trigger.refresh_from_db()
    trigger.pk, trigger.name = None, "copy"
    trigger.save()
    assert (row_of("copy").state, row_of("copy").fire_count) == ("pending", 0)


def row_of(name: str) -> Trigger:
    return Trigger.objects.get(name=name)


def test_rows_are_saved_to_another_database() -> None:
    schedule, trigger = register(), create_trigger("e", "event")
    saved = schedule.process_tree
    target = tree("follower").save()
    link = TreeLink.objects.create(source=saved, target=target)
    subscription = subscribe_tree_to_trigger(saved, trigger)
    for each in (saved, target, schedule, trigger, link, subscription):
        each.save(using="north")
        each.refresh_from_db(using="north")
        each.save(using="north")
    for model in (ProcessTree, ProcessTreeSchedule, Trigger, TreeLink, TriggerSubscription):
        assert model._default_manager.using("north").exists()
    north = ProcessTree.objects.using("north").get(name=saved.name)
    assert north.job_name == saved.job_name
    ProcessTree(name="x", processes=[]).save(using="north", force_insert=True)
    schedule.save(using="default", update_fields=["enabled"])


def test_a_change_of_somebody_elses_is_not_overwritten_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree().save()
    mine, theirs = ProcessTreeInstance.load("t"), ProcessTreeInstance.load("t")
    theirs.add_process("theirs", processes.one).save()
    theirs.add_process("again", processes.one).save()
    rolled_back(theirs.set_description("undone").save)
    theirs.save()
    tree(overwrite=True).add_process("from code", processes.one).save()
    ProcessTreeInstance.load("t").save()
    assert "overwritten" not in caplog.text
    mine.add_process("mine", processes.one).save()
    assert "that change is overwritten: it had 'one', 'from code'." in caplog.text


# --- Only what is given changes -------------------------------------------------------------------


def test_registering_again_changes_only_what_is_given() -> None:
    written = tree()
    written.save()
    everything: dict[str, Any] = {
        **{"interval_minutes": 60, "start_time": dt.time(9), "enabled": False},
        **{"context": {"a": 1}, "timezone": "Europe/London"},
        **{"allow_overlap": True, "pass_scheduled_for": True},
    }
    written.register_schedule(**everything)
    changes: dict[str, Any] = {
        **{"interval_minutes": 30, "start_time": dt.time(10), "enabled": True},
        **{"context": {}, "timezone": "", "allow_overlap": False, "pass_scheduled_for": False},
    }
    for name, value in changes.items():
        schedule = written.register_schedule(**{name: value})
        everything[name] = value
        assert {key: getattr(row(schedule), key) for key in everything} == everything
    assert written.register_schedule() == schedule


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ({"cron": "garbage", "interval_minutes": None}, {"interval_minutes": 30}),
        ({"cron": "garbage", "interval_minutes": None}, {"cron": "0 9 * * *"}),
        ({"timezone": "Mars/Olympus"}, {"timezone": ""}),
    ],
)
def test_a_schedule_that_makes_no_sense_is_mended_by_registering_again(
    broken: dict[str, Any], mended: dict[str, Any]
) -> None:
    written = tree()
    written.save()
    written.register_schedule(context={"a": 1})
    ProcessTreeSchedule.objects.update(**broken)
    schedule = row(written.register_schedule(**mended))
    assert {name: getattr(schedule, name) for name in mended} == mended
    assert schedule.context == {"a": 1}
    assert schedule.next_run is not None


def test_the_first_registration_has_the_guides_defaults() -> None:
    written = tree()
    written.save()
    schedule = row(written.register_schedule())
    assert (schedule.interval_minutes, schedule.start_time) == (60, None)
    assert (schedule.enabled, schedule.context, schedule.timezone) == (True, {}, "")


def test_a_cron_takes_the_place_of_an_interval_and_the_other_way_round() -> None:
    written = tree()
    written.save()
    written.register_schedule(45, dt.time(9), context={"a": 1})
    schedule = row(written.register_schedule(cron="0  9 * * 1-5"))
    assert (schedule.cron, schedule.interval_minutes) == ("0 9 * * 1-5", None)
    assert schedule.context == {"a": 1}
    with pytest.raises(ScheduleError, match=r"has a cron .*, which says its own times"):
        written.register_schedule(start_time=dt.time(10))
    schedule = row(written.register_schedule(enabled=True))
    assert schedule.cron == "0 9 * * 1-5"
    schedule = row(written.register_schedule(interval_minutes=30))
    assert (schedule.cron, schedule.interval_minutes) == ("", 30)
    assert schedule.start_time == dt.time(9)
    written.register_schedule(cron="0 9 * * *")
    assert row(written.register_schedule(cron="")).interval_minutes == 60


def test_making_a_trigger_again_changes_only_what_is_given() -> None:
    create_trigger("t", "schedule", {"cron": "0 * * * *"}, "what for", enabled=False)
    create_trigger("t", "schedule", enabled=True)
    found = row_of("t")
    assert (found.configuration, found.description) == ({"cron": "0 * * * *"}, "what for")
    assert found.enabled
    create_trigger("t", "schedule", description="")
    assert row_of("t").description == ""


def test_subscribing_again_changes_only_what_is_given() -> None:
    trigger, saved = create_trigger("e", "event"), tree().save()
    subscribe_tree_to_trigger(saved, trigger, {"a": 1})
    subscribe_tree_to_trigger(saved, trigger, enabled=False)
    found = TriggerSubscription.objects.get()
    assert (found.context, found.enabled) == ({"a": 1}, False)
    tree(overwrite=True).subscribe_to_trigger("e").save()
    assert TriggerSubscription.objects.get().context == {"a": 1}
    subscribe_tree_to_trigger(saved, trigger, {})
    assert TriggerSubscription.objects.get().context == {}


# --- What the guide's model promises --------------------------------------------------------------


def test_update_next_run_time_saves_what_was_changed() -> None:
    schedule = register()
    now = utc("2026-01-01 00:00")
    schedule.last_run, schedule.interval_minutes, schedule.enabled = now, 30, False
    schedule.update_next_run_time()
    found = row(schedule)
    assert (found.last_run, found.interval_minutes, found.enabled) == (now, 30, False)
    assert found.next_run == schedule.next_run


def test_update_next_run_time_saves_what_was_changed_in_its_place() -> None:
    schedule = row(register(context={"lines": [1]}))
    schedule.context["lines"].append(2)
    schedule.tags["team"] = "books"
    schedule.update_next_run_time()
    found = row(schedule)
    assert (found.context, found.tags) == ({"lines": [1, 2]}, {"team": "books"})


def test_update_next_run_time_saves_also_after_a_rollback() -> None:
    schedule = ProcessTreeSchedule(process_tree=tree().save())
    rolled_back(schedule.save)
    schedule.update_next_run_time()
    assert row(schedule).next_run == schedule.next_run


# --- A tree that is deleted meanwhile -------------------------------------------------------------


def test_a_follower_that_is_deleted_between_two_reads_follows_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = {name: tree(name).save() for name in "abcd"}
    for source, target in ("ab", "bc", "ad", "cb"):
        link = TreeLink(source=saved[source], target=saved[target])
        models.QuerySet.bulk_create(TreeLink.plain.all(), [link])  # the last one makes a circle
    read = type(TreeLink.objects.all()).reachable_from

    def read_and_delete(self: Any, trees: Any) -> Any:
        found = read(self, trees)
        ProcessTree.objects.filter(name="b").delete()
        return found

    monkeypatch.setattr(type(TreeLink.objects.all()), "reachable_from", read_and_delete)
    first = "00000000-0000-0000-0000-000000000001"
    plan = tree_links.plan_family(saved["a"], first)
    assert [planned.tree.name for planned in plan.runs] == ["d"]
    assert [planned.after for planned in plan.runs] == [(first,)]


def test_a_tree_that_was_deleted_meanwhile_can_be_no_follower() -> None:
    saved = tree().save()
    with pytest.raises(InvalidTree, match="no process tree called 'gone' to follow 't'"):
        tree_links.set_links(saved, ["gone"], [])
