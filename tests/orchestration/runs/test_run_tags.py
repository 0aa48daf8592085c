"""The tags of runs: which of them people see, and those that an earlier release has written."""

import os
import uuid

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.tags import TagType, get_tag_type

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import RunError
from proctree_dagster.models import OutboxRun, ProcessTree
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.launching.workers import Worker
from proctree_dagster.orchestration.runs import create, local_runs, repeating
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.services import run_outbox, tree_links
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.orchestration.runs.test_family_runs import execute, fetch, save, work

pytestmark = pytest.mark.django_db

HIDDEN = {
    run_tags.REVISION: "proctree/revision",
    run_tags.WORKER: "proctree/worker",
    run_tags.IN_MEMORY: "proctree/in_memory",
    run_tags.FOLLOWS: "proctree/follows",
    run_tags.FOLLOWED_BY: "proctree/followed_by",
}
"""The tags that only the package reads, and their names in release 0.1."""


def as_before(written: dict[str, str]) -> dict[str, str]:
    """Return tags as release 0.1 has written them."""
    return {HIDDEN.get(name, name): text for name, text in written.items()}


def shown(instance: DagsterInstance, run_id: str) -> set[str]:
    """Return the tags of a run that Dagster's webserver shows."""
    names = fetch(instance, run_id).tags
    return {name for name in names if get_tag_type(name) != TagType.HIDDEN}


class TestNames:
    @pytest.mark.parametrize("name", HIDDEN)
    def test_what_only_the_package_reads_is_hidden_from_people(self, name: str) -> None:
        assert get_tag_type(name) == TagType.HIDDEN

    def test_what_release_0_1_needs_of_a_run_that_it_executes_keeps_its_name(self) -> None:
        # Without its family it would plan the followers of a follower once more.
        assert run_tags.FAMILY == "proctree/family"
        assert run_tags.NO_CACHE == "proctree/no_cache"
        assert (run_tags.TREE, run_tags.DUE) == ("proctree/tree", "proctree/due")

    @pytest.mark.parametrize(("name", "before"), HIDDEN.items())
    def test_both_names_of_a_tag_are_read_and_todays_counts(self, name: str, before: str) -> None:
        assert run_tags.value({}, name) is None
        assert run_tags.value({before: "old"}, name) == "old"
        assert run_tags.value({before: "old", name: "new"}, name) == "new"
        assert run_tags.values({before: "old", name: "new"}, name) == ["new", "old"]

    def test_tags_under_old_names_get_todays_and_lose_nothing(self) -> None:
        before = {"proctree/follows": "a", "proctree/worker": "b", "proctree/tree": "c", "x": "d"}
        today = {run_tags.FOLLOWS: "a", run_tags.WORKER: "b", "proctree/tree": "c", "x": "d"}
        assert run_tags.renamed(before) == today
        assert run_tags.renamed(today) == today
        assert run_tags.renamed({**before, run_tags.FOLLOWS: "new"})[run_tags.FOLLOWS] == "new"


def test_a_run_shows_what_people_filter_by_and_no_more(instance: DagsterInstance) -> None:
    save("b")
    save("a", then=("b",))
    first = ProcessTreeManager.execute_tree("a")["run_id"]
    work(instance)
    [follower] = run_outbox.family(first)
    expected = {"proctree/tree", "proctree/triggered_by", "proctree/family"}
    assert shown(instance, first) - {"dagster/code_location"} == expected
    of_follower = shown(instance, str(follower.run_id)) - {"dagster/code_location"}
    assert of_follower == {*expected, "dagster/sensor_name"}


class TestRunsOfAnEarlierRelease:
    def test_its_worker_is_known(self, instance: DagsterInstance) -> None:
        run_id = tree_runs.submit_row(save("a")).run_id
        worker = Worker.of_process(run_id, os.getpid())
        instance.add_run_tags(run_id, {"proctree/worker": worker.as_text()})
        assert Worker.of_run(fetch(instance, run_id)) == worker

    def test_its_worker_is_known_beside_the_one_of_the_run_that_it_repeats(
        self, instance: DagsterInstance
    ) -> None:
        run_id = tree_runs.submit_row(save("a")).run_id
        worker = Worker.of_process(run_id, os.getpid())
        copied = Worker.of_process("another run", os.getpid())
        both = {**copied.as_tags(), "proctree/worker": worker.as_text()}
        instance.add_run_tags(run_id, both)
        assert Worker.of_run(fetch(instance, run_id)) == worker

    def test_a_tree_that_has_changed_since_is_said(self, instance: DagsterInstance) -> None:
        job = translator().job(from_row(save("a")))
        run = create.create_run(instance, job, {}, {})
        before = run.with_tags({**as_before(dict(run.tags)), "proctree/revision": "another"})
        assert local_runs.execute_here(instance, job, before).success
        said = [entry.message for entry in instance.all_logs(run.run_id)]
        assert any("revision another was asked for" in message for message in said)

    def test_one_with_functions_in_memory_is_not_repeated(self, instance: DagsterInstance) -> None:
        job = translator().job(from_row(save("a", func=processes.fail)))
        run = create.create_run(instance, job, {}, {})
        instance.add_run_tags(run.run_id, {"proctree/in_memory": "true"})
        instance.report_run_failed(run)
        with pytest.raises(RunError, match="functions that only its process had"):
            repeating.again(instance, fetch(instance, run.run_id))

    def test_what_repeats_it_has_todays_names_only(self, instance: DagsterInstance) -> None:
        run = fetch(instance, tree_runs.submit_row(save("a", func=processes.fail)).run_id)
        instance.add_run_tags(run.run_id, {"proctree/revision": "old", "proctree/worker": "{}"})
        instance.report_run_failed(run)
        repeated = repeating.again(instance, fetch(instance, run.run_id))
        assert not set(HIDDEN.values()) & set(repeated.tags)
        assert repeated.tags[run_tags.REVISION] == ProcessTree.objects.get().revision
        assert run_tags.WORKER not in repeated.tags

    def test_what_waits_in_the_outbox_is_run_once_and_followed_once(
        self, instance: DagsterInstance
    ) -> None:
        save("c")
        save("b", then=("c",))
        save("a", then=("b",))
        first = ProcessTreeManager.execute_tree("a")["run_id"]
        for row in OutboxRun.objects.all():
            OutboxRun.objects.filter(pk=row.pk).update(tags=as_before(row.tags))
        assert work(instance) == ["b", "c"]
        made = {run.tags[run_tags.TREE]: run for run in instance.get_runs()}
        assert {run.tags[run_tags.FAMILY] for run in made.values()} == {first}
        assert made["c"].tags[run_tags.FOLLOWS] == made["b"].run_id
        assert "proctree/follows" not in made["c"].tags

    def test_one_that_it_has_queued_knows_its_family(self, instance: DagsterInstance) -> None:
        tree = save("b")
        save("c")
        ProcessTreeInstance.load("b").add_dependent_tree("c").save()
        family = str(uuid.uuid4())
        plan = tree_links.plan_family(tree, family)
        [planned] = plan.runs
        job = translator().job(from_row(ProcessTree.objects.get(name="b")))
        run = create.create_run(instance, job, {}, as_before(plan.first_tags), run_id=family)
        run_outbox.add(planned.tree, {}, as_before(planned.tags), planned.after, planned.run_id)
        create.submit(instance, run)
        assert execute(instance, fetch(instance, family))
        assert work(instance) == ["c"]
        assert fetch(instance, planned.run_id).status == DagsterRunStatus.SUCCESS
