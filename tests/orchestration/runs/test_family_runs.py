"""Trees that follow others: planned when the first run starts, linked both ways, run once each."""

import logging
import re
import sys
import threading
import uuid
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG, WILL_RETRY_TAG
from django.core.management import call_command
from django.db import connection, transaction
from pytest_django import Settings

from proctree_dagster import triggers
from proctree_dagster.domain import run_tags as tags
from proctree_dagster.exceptions import ProctreeError
from proctree_dagster.functions import process_function
from proctree_dagster.management.base import TreeCommand
from proctree_dagster.models import OutboxRun, OutboxState, ProcessTree
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import local_runs
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.services import run_outbox
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.tools import TOP

pytestmark = pytest.mark.django_db


def save(
    name: str, func: Any = processes.echo, then: tuple[str, ...] = (), beside: tuple[str, ...] = ()
) -> ProcessTree:
    """Save a tree of one process, and what follows it."""
    tree = ProcessTreeInstance(name, overwrite=True).add_process("only", func=func)
    for each in then:
        tree.add_dependent_tree(each)
    for each in beside:
        tree.add_sibling_tree(each)
    return tree.save()


@process_function("tests.look_into_the_outbox")
def look_into_the_outbox() -> dict[str, str]:
    """Return how far the other runs have come."""
    return dict(OutboxRun.objects.values_list("process_tree__name", "state"))


@pytest.fixture
def diamond() -> None:
    """A → B and C → D, and S beside A."""
    save("d")
    save("b", then=("d",))
    save("c", then=("d",))
    save("s")
    save("a", func=look_into_the_outbox, then=("b", "c"), beside=("s",))


def followers(first: str) -> dict[str, OutboxRun]:
    """Return the rows of a family by the names of their trees."""
    return {row.process_tree.name: row for row in run_outbox.family(first)}


def states(first: str) -> dict[str, str]:
    return {name: row.state for name, row in followers(first).items()}


def execute(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Do what a worker does."""
    event = DagsterEvent(DagsterEventType.RUN_STARTING.value, run.job_name)
    instance.report_dagster_event(event, run_id=run.run_id)
    run = fetch(instance, run.run_id)
    job = translator().job(from_row(ProcessTree.objects.get(job_name=run.job_name)))
    return local_runs.execute_here(instance, job, run).success


def fetch(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def work(instance: DagsterInstance) -> list[str]:
    """Do what the daemon does until there is nothing to do; return the trees in their order."""
    done: list[str] = []
    while True:
        tree_runs.deliver()
        queued = [run for run in instance.get_runs() if run.status == DagsterRunStatus.QUEUED]
        if not queued:
            return done
        for run in sorted(queued, key=lambda run: run.job_name):
            execute(instance, run)
            done.append(run.tags[tags.TREE])


def repeat(
    instance: DagsterInstance, parent: DagsterRun, run_tags: Mapping[str, str] | None = None
) -> DagsterRun:
    """Create the run that executes another again, as the UI does."""
    root = parent.root_run_id or parent.run_id
    return instance.create_run_for_job(
        translator().job(from_row(ProcessTree.objects.get(job_name=parent.job_name))),
        run_config=parent.run_config,
        tags={
            **(parent.tags if run_tags is None else run_tags),
            **{PARENT_RUN_ID_TAG: parent.run_id, ROOT_RUN_ID_TAG: root},
        },
        parent_run_id=parent.run_id,
        root_run_id=root,
    )


def execute_again(
    instance: DagsterInstance, parent: DagsterRun, run_tags: Mapping[str, str] | None = None
) -> DagsterRun:
    """Do what the UI does, and run it."""
    run = repeat(instance, parent, run_tags)
    job = translator().job(from_row(ProcessTree.objects.get(job_name=run.job_name)))
    local_runs.execute_here(instance, job, run)
    return fetch(instance, run.run_id)


@pytest.mark.usefixtures("diamond")
class TestAFamilyOfFive:
    def test_each_runs_once_in_order_and_the_sibling_with_the_first(
        self, instance: DagsterInstance
    ) -> None:
        results = ProcessTreeManager.execute_tree("a")
        # While the first process of the first tree runs, the sibling is Dagster's already.
        assert results["results"]["only"] == {
            "s": "delivered", "b": "waiting", "c": "waiting", "d": "waiting"
        }  # fmt: skip
        # Now that it has succeeded, so are those that depend on it.
        assert states(results["run_id"])["b"] == states(results["run_id"])["c"] == "delivered"
        assert work(instance) == ["b", "c", "s", "d"]
        assert len(instance.get_runs()) == 5
        assert work(instance) == []

    def test_they_are_linked_both_ways(self, instance: DagsterInstance) -> None:
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        work(instance)
        runs_by_name = {run.tags[tags.TREE]: run for run in instance.get_runs()}
        assert {run.tags[tags.FAMILY] for run in runs_by_name.values()} == {first}

        def linked(name: str, tag: str) -> set[str]:
            ids = tags.split(runs_by_name[name].tags.get(tag))
            return {each for each, run in runs_by_name.items() if run.run_id in ids}

        assert {name: linked(name, tags.FOLLOWS) for name in "abcds"} == {
            "a": set(), "b": {"a"}, "c": {"a"}, "s": {"a"}, "d": {"b", "c"}
        }  # fmt: skip
        assert {name: linked(name, tags.FOLLOWED_BY) for name in "abcds"} == {
            "a": {"b", "c", "s"}, "b": {"d"}, "c": {"d"}, "d": set(), "s": set()
        }  # fmt: skip
        assert runs_by_name["a"].tags[tags.TRIGGERED_BY] == "python"
        assert runs_by_name["d"].tags[tags.TRIGGERED_BY] == "tree"

    def test_a_runs_page_links_to_those_before_and_behind(self, instance: DagsterInstance) -> None:
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        work(instance)
        second = str(followers(first)["b"].run_id)
        [event] = [
            entry.dagster_event
            for entry in instance.all_logs(second, of_type=DagsterEventType.ENGINE_EVENT)
            if entry.dagster_event and "Follows" in (entry.dagster_event.message or "")
        ]
        assert event.message == "Follows a. Is followed by d."
        metadata = {key: value.value for key, value in event.engine_event_data.metadata.items()}
        assert metadata == {
            "Follows: a": first,
            "Is followed by: d": str(followers(first)["d"].run_id),
        }

    def test_the_context_is_handed_on_and_updates_each_trees_own(
        self, instance: DagsterInstance
    ) -> None:
        for name in "ad":
            tree = ProcessTreeInstance.load(name)
            tree.register_schedule(context={"from": name, name: 1}, enabled=False)
        first = ProcessTreeManager.execute_tree("a", {"more": 2})["run_id"]
        work(instance)
        run = fetch(instance, str(followers(first)["d"].run_id))
        assert run.run_config == {"context": {"from": "a", "a": 1, "d": 1, "more": 2}}

    def test_a_family_that_is_planned_twice_is_the_same(self, instance: DagsterInstance) -> None:
        tree = ProcessTree.objects.get(name="a")
        run = fetch(instance, tree_runs.submit_row(tree).run_id)
        execute(instance, run)
        before = {name: row.run_id for name, row in followers(run.run_id).items()}
        assert run.remote_job_origin is not None
        instance.run_storage.replace_job_origin(run, run.remote_job_origin)  # as before its start
        execute(instance, run)  # it is resumed after its worker died
        assert {name: row.run_id for name, row in followers(run.run_id).items()} == before
        work(instance)
        assert len(instance.get_runs()) == 5

    def test_links_that_are_changed_meanwhile_count_for_the_next_run(
        self, instance: DagsterInstance
    ) -> None:
        ProcessTreeManager.execute_tree("a")
        ProcessTreeInstance.load("b").remove_dependent_tree("d").save()
        ProcessTreeInstance.load("s").add_dependent_tree("d").save()
        assert work(instance) == ["b", "c", "s", "d"]

    def test_a_trigger_starts_a_family_too_and_hands_its_context_on(
        self, instance: DagsterInstance
    ) -> None:
        triggers.create_trigger("books are in", "event")
        triggers.subscribe_tree_to_trigger("a", "books are in", {"from": "subscription"})
        [fired] = triggers.fire_trigger("books are in", {"day": "2026-11-24"})
        assert work(instance) == ["a", "b", "c", "s", "d"]
        made = {run.tags[tags.TREE]: run for run in instance.get_runs()}
        assert len(made) == 5
        assert made["a"].run_id == fired.run_id
        assert {run.tags[tags.FAMILY] for run in made.values()} == {fired.run_id}
        assert made["a"].tags[tags.TRIGGER] == "books are in"
        for run in made.values():
            context = {"from": "subscription", "day": "2026-11-24"}
            assert run.run_config == {"context": context}


class TestFailure:
    def test_what_depends_on_a_failed_tree_is_dropped_and_what_does_not_runs(
        self, instance: DagsterInstance
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("c")
        results = ProcessTreeManager.execute_tree(save("a", then=("b", "c")).name)
        assert work(instance) == ["b", "c"]
        rows = followers(results["run_id"])
        assert rows["d"].state == OutboxState.DROPPED
        assert rows["d"].reason == f"Run {rows['b'].run_id} of b has failed."
        assert fetch(instance, results["run_id"]).status == DagsterRunStatus.SUCCESS

    def test_what_waits_for_a_tree_that_was_deleted_is_dropped(
        self, instance: DagsterInstance
    ) -> None:
        save("d")
        save("c", then=("d",))
        save("b", then=("c",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        ProcessTree.objects.get(name="c").delete()
        assert work(instance) == ["b"]
        assert "is gone" in followers(first)["d"].reason

    def test_a_sibling_runs_though_the_first_fails(self, instance: DagsterInstance) -> None:
        save("s")
        save("b")
        save("a", func=processes.fail, then=("b",), beside=("s",))
        results = ProcessTreeManager.execute_tree("a")
        assert not results["success"]
        assert work(instance) == ["s"]
        assert states(results["run_id"]) == {"b": "dropped", "s": "started"}

    def test_a_failed_run_that_is_executed_again_lets_the_family_go_on(
        self, instance: DagsterInstance
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        work(instance)
        assert states(first)["d"] == OutboxState.DROPPED
        failed = fetch(instance, str(followers(first)["b"].run_id))
        save("b", then=("d",))  # mended
        again = execute_again(instance, failed)
        assert again.status == DagsterRunStatus.SUCCESS
        assert work(instance) == ["d"]
        last = fetch(instance, str(followers(first)["d"].run_id))
        assert last.tags[tags.FOLLOWS] == again.run_id

    @pytest.mark.parametrize("which", ["the first", "one in the middle"])
    @pytest.mark.parametrize("of", ["the original", "the last one"])
    def test_what_fails_again_and_again_lets_the_family_go_on_when_it_succeeds(
        self, instance: DagsterInstance, which: str, of: str
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("a", then=("b",))
        name = "b" if which == "the first" else "a"
        first = ProcessTreeManager.execute_tree(name)["run_id"]
        work(instance)
        run = first if name == "b" else str(followers(first)["b"].run_id)
        original = last = fetch(instance, run)
        for _ in range(2):
            last = execute_again(instance, original if of == "the original" else last)
            assert work(instance) == []
            assert states(first)["d"] == OutboxState.DROPPED
        save("b", then=("d",))  # mended
        last = execute_again(instance, original if of == "the original" else last)
        assert work(instance) == ["d"]
        run_of_d = fetch(instance, str(followers(first)["d"].run_id))
        assert run_of_d.tags[tags.FOLLOWS] == last.run_id

    def test_one_of_several_executions_that_was_canceled_in_the_queue_does_not_matter(
        self, instance: DagsterInstance
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        work(instance)
        canceled = repeat(instance, fetch(instance, str(followers(first)["b"].run_id)))
        instance.report_run_canceled(canceled)
        save("b", then=("d",))
        execute_again(instance, fetch(instance, canceled.run_id))
        assert work(instance) == ["d"]

    def test_what_waits_for_a_retry_is_dropped_if_that_is_canceled_before_it_starts(
        self, instance: DagsterInstance
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        tree_runs.deliver()
        failed = fetch(instance, str(followers(first)["b"].run_id))
        instance.add_run_tags(failed.run_id, {WILL_RETRY_TAG: "true"})  # as Dagster does
        execute(instance, failed)
        assert work(instance) == []
        assert states(first)["d"] == OutboxState.WAITING
        retry = repeat(instance, failed)
        tree_runs.deliver()
        assert states(first)["d"] == OutboxState.WAITING
        instance.report_run_canceled(retry)
        tree_runs.deliver()
        assert followers(first)["d"].reason == f"Run {retry.run_id} of b was canceled."

    @pytest.mark.parametrize("family", ["nonsense", "", str(uuid.UUID(int=1)), None])
    def test_tags_that_were_edited_do_not_part_an_execution_from_its_family(
        self, instance: DagsterInstance, family: str | None
    ) -> None:
        save("d")
        save("b", func=processes.fail, then=("d",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        work(instance)
        failed = fetch(instance, str(followers(first)["b"].run_id))
        edited = {**failed.tags, tags.FOLLOWED_BY: "x,y, z", tags.FAMILY: family or ""}
        if family is None:
            del edited[tags.FAMILY]
        save("b", then=("d",))
        assert execute_again(instance, failed, edited).status == DagsterRunStatus.SUCCESS
        assert work(instance) == ["d"]

    def test_a_first_run_that_is_executed_again_before_anything_was_dropped(
        self, instance: DagsterInstance
    ) -> None:
        save("b")
        save("a", func=processes.fail, then=("b",))
        run = fetch(instance, tree_runs.submit_row(ProcessTree.objects.get(name="a")).run_id)
        execute(instance, run)
        save("a", then=("b",))
        assert states(run.run_id) == {"b": "waiting"}
        execute_again(instance, fetch(instance, run.run_id))
        assert work(instance) == ["b"]

    def test_a_run_that_has_succeeded_is_followed_once(self, instance: DagsterInstance) -> None:
        save("b")
        save("a", then=("b",))
        first = fetch(instance, ProcessTreeManager.execute_tree("a")["run_id"])
        assert work(instance) == ["b"]
        execute_again(instance, first)
        assert work(instance) == []

    def test_a_run_that_failed_before_it_began_is_followed_when_it_is_executed_again(
        self, instance: DagsterInstance
    ) -> None:
        save("b")
        save("a", then=("b",))
        run = fetch(instance, tree_runs.submit_row(ProcessTree.objects.get(name="a")).run_id)
        instance.report_run_failed(run)
        execute_again(instance, fetch(instance, run.run_id))
        assert work(instance) == ["b"]

    @pytest.mark.parametrize("family", [None, "typed by somebody"])
    def test_a_launch_that_has_copied_the_tags_of_another_run_begins_a_family_of_its_own(
        self, instance: DagsterInstance, family: str | None
    ) -> None:
        save("b")
        save("a", then=("b",))
        first = fetch(instance, ProcessTreeManager.execute_tree("a")["run_id"])
        assert work(instance) == ["b"]
        copied = {**first.tags, **({} if family is None else {tags.FAMILY: family})}
        row = ProcessTree.objects.get(name="a")
        second = tree_runs.execute_row(row, run_tags=copied)["run_id"]
        assert work(instance) == ["b"]
        assert fetch(instance, second).tags[tags.FAMILY] == second

    def test_a_circle_that_sql_has_made_ends_where_it_began_and_the_log_says_so(
        self, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
    ) -> None:
        b = save("b")
        a = save("a", then=("b",))
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO proctree_dagster_treelink (source_id, target_id, kind) "
                "VALUES (%s, %s, 'dependent')",
                [b.pk, a.pk],
            )
        results = ProcessTreeManager.execute_tree("a")
        assert work(instance) == ["b"]
        assert "'a' does not run again after 'b'" in caplog.text
        messages = [entry.user_message for entry in instance.all_logs(results["run_id"])]
        assert any("'a' does not run again after 'b'" in message for message in messages)


class TestDelivery:
    def test_a_run_does_not_fail_because_its_followers_cannot_be_delivered(
        self,
        instance: DagsterInstance,
        dagster_home: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        save("s")
        save("b")
        save("a", then=("b",), beside=("s",))
        config = (dagster_home / "dagster.yaml").read_text()
        (dagster_home / "dagster.yaml").write_text(
            f"{config}run_coordinator:\n  module: dagster._core.run_coordinator\n"
            "  class: DefaultRunCoordinator\n"
        )
        results = ProcessTreeManager.execute_tree("a")
        assert results["success"]
        assert "left to the sensor" in caplog.text
        assert states(results["run_id"]) == {"s": "waiting", "b": "waiting"}
        (dagster_home / "dagster.yaml").write_text(config)
        assert sorted(work(instance)) == ["b", "s"]
        assert len(instance.get_runs()) == 3

    @pytest.mark.usefixtures("real_dagster")
    def test_without_a_home_nothing_follows_and_the_run_says_so(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        save("b")
        save("a", then=("b",))
        with caplog.at_level(logging.WARNING):
            assert run_tree("a")["success"]
        assert "The trees that follow this one are not run" in caplog.text
        assert not OutboxRun.objects.exists()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("kept", [True, False])
    def test_in_a_transaction_what_follows_does_so_after_the_commit(
        self, instance: DagsterInstance, kept: bool
    ) -> None:
        save("s")
        save("b")
        save("a", then=("b",), beside=("s",))
        with transaction.atomic():
            ProcessTreeManager.execute_tree("a")
            assert len(instance.get_runs()) == 1
            transaction.set_rollback(not kept)
        queued = [run for run in instance.get_runs() if run.status == DagsterRunStatus.QUEUED]
        assert len(queued) == (2 if kept else 0)
        assert OutboxRun.objects.count() == (2 if kept else 0)


class Close(TreeCommand):
    """What a generated command is."""

    tree_name = "a"


@pytest.mark.usefixtures("diamond")
def test_a_command_prints_where_its_followers_are(
    instance: DagsterInstance, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "http://dagster"}
    call_command(Close())
    lines = capsys.readouterr().out.splitlines()
    first = next(line.split()[1] for line in lines if line.startswith("Run "))
    rows = followers(first)
    shown = lines[lines.index("Followed by:") + 1 :]
    assert len(shown) == 4
    for name in "bs":
        run_id = rows[name].run_id
        assert f"  delivered {name}, run {run_id} http://dagster/runs/{run_id}" in shown
    assert any(line.startswith("  waiting   d, run ") for line in shown)


def test_the_documented_example_runs_as_it_says(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (TOP / "docs" / "families.md").read_text()
    block = page.split("```python\n")[1].split("```")[0].replace("close.create_command()\n", "")
    called = re.findall(r"processes\.(\w+)", block)
    bookkeeping = SimpleNamespace(
        processes=SimpleNamespace(**dict.fromkeys(called, processes.echo))
    )
    monkeypatch.setitem(sys.modules, "bookkeeping", bookkeeping)
    exec(block, {})
    ProcessTreeManager.execute_tree("close", {"month": "2026-03"})
    assert work(instance) == ["debtors", "rates", "vat_return", "board_report"]


@pytest.mark.django_db(transaction=True)
class TestTogether:
    def test_a_family_runs_here_and_all_results_are_returned(
        self, instance: DagsterInstance, diamond: None
    ) -> None:
        results = ProcessTreeManager.execute_with_dependents("a", {"n": 1})
        assert results["success"]
        assert set(results["followers"]) == set("bcds")
        assert results["failed_followers"] == []
        assert results["followers"]["d"]["results"] == {"only": {"n": 1}}
        made = {run.run_id: run for run in instance.get_runs()}
        assert len(made) == 5
        assert {run.tags[tags.FAMILY] for run in made.values()} == {results["run_id"]}
        last = made[results["followers"]["d"]["run_id"]]
        assert set(tags.split(last.tags[tags.FOLLOWS])) == {
            results["followers"][name]["run_id"] for name in "bc"
        }
        assert not OutboxRun.objects.exists()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("fails", [False, True])
    def test_a_follower_that_is_deleted_meanwhile_is_named_and_the_results_are_returned(
        self, instance: DagsterInstance, fails: bool
    ) -> None:
        def delete() -> None:
            ProcessTree.objects.filter(name="b").delete()
            if fails:
                raise ValueError("no")

        process_function("tests.delete_b")(delete)
        save("b")
        save("c")
        save("a", func="tests.delete_b", then=("b", "c"))
        results = ProcessTreeManager.execute_with_dependents("a")
        assert set(results["failed_followers"]) == ({"b", "c"} if fails else {"b"})
        assert results["status"] == {"only": "failed" if fails else "completed"}
        assert not results["success"]
        assert "b" in results["errors"]

    def test_siblings_run_at_the_same_time(self, instance: DagsterInstance) -> None:
        all_of_them = threading.Barrier(3)

        def meet() -> bool:
            return all_of_them.wait(30) >= 0  # alone, it would wait in vain

        process_function("tests.meet")(meet)
        save("s", func="tests.meet")
        save("t", func="tests.meet")
        save("a", func="tests.meet", beside=("s", "t"))
        results = ProcessTreeManager.execute_with_siblings("a")
        assert results["success"]
        assert results["failed_followers"] == []

    def test_a_failed_follower_fails_the_family_and_is_named(
        self, instance: DagsterInstance
    ) -> None:
        save("e")
        save("d", then=("e",))
        save("b", func=processes.fail, then=("d",))
        save("s")
        save("a", then=("b",), beside=("s",))
        results = ProcessTreeManager.execute_with_dependents("a")
        assert not results["success"]
        assert results["status"] == {"only": "completed"}
        assert "always fails" in results["errors"]["b"]
        assert results["errors"]["d"] == "Not run: 'b' did not succeed."
        assert results["errors"]["e"] == "Not run: 'd' did not succeed."
        assert sorted(results["failed_followers"]) == ["b", "d", "e"]
        assert "always fails" in results["followers"]["b"]["errors"]["only"]
        assert results["followers"]["d"]["errors"] == {"d": "Not run: 'b' did not succeed."}
        assert results["followers"]["e"]["errors"] == {"e": "Not run: 'd' did not succeed."}
        assert results["followers"]["s"]["success"]
        # Executed again in Dagster, what failed lets the rest go on there.
        failed = fetch(instance, results["followers"]["b"]["run_id"])
        save("b", then=("d",))
        execute_again(instance, failed)
        assert work(instance) == ["d", "e"]

    def test_a_first_tree_that_fails_is_followed_by_its_siblings_only(
        self, instance: DagsterInstance
    ) -> None:
        save("s")
        save("b")
        save("a", func=processes.fail, then=("b",), beside=("s",))
        results = ProcessTreeManager.execute_with_siblings("a")
        assert not results["success"]
        assert results["failed_followers"] == ["b"]

    def test_it_is_refused_in_a_transaction(self, instance: DagsterInstance, diamond: None) -> None:
        with transaction.atomic(), pytest.raises(ProctreeError, match="inside a transaction"):
            ProcessTreeManager.execute_with_dependents("a")
        assert instance.get_runs() == []


called: list[str] = []


@process_function("tests.called_in_its_place")
def called_in_its_place() -> None:
    """Note a call that should not come."""
    called.append("another")


@process_function("tests.rename_the_follower")
def rename_the_follower() -> None:
    """Rename the tree that follows, and let another one take its name."""
    ProcessTree.objects.filter(name="b").update(name="b2")
    save("b", called_in_its_place)


def test_a_follower_that_is_renamed_meanwhile_runs_and_no_other_that_takes_its_name() -> None:
    save("b", processes.one)
    save("a", rename_the_follower, then=("b",))
    found = ProcessTreeManager.execute_with_dependents("a")
    assert found["followers"]["b"]["results"] == {"only": 1}
    assert called == []
