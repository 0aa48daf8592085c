"""Repeating runs: in full, and once however often it is asked for."""

import datetime as dt

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import RunError
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, repeating
from proctree_dagster.running import tree_runs, waiting
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.running.delivered import run_now

pytestmark = pytest.mark.django_db


@pytest.fixture
def failing() -> ProcessTree:
    tree = ProcessTreeInstance("failing").add_process("one", func=processes.one)
    return tree.add_process("fail", func=processes.fail, dependencies=["one"]).save()


def ran(instance: DagsterInstance, row: ProcessTree) -> DagsterRun:
    run = instance.get_run_by_id(tree_runs.execute_row(row)["run_id"])
    assert run is not None
    return run


def ended(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    instance.report_run_failed(run)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_a_run_is_repeated_in_full_by_whom_it_says(
    failing: ProcessTree, instance: DagsterInstance
) -> None:
    failed = ran(instance, failing)
    resumed = ended(instance, repeating.again(instance, failed, "ann"))
    assert resumed.step_keys_to_execute == ["fail"]
    again = repeating.again(instance, resumed, "bob", everything=True, triggered_by="admin")
    assert again.step_keys_to_execute is None
    assert run_tags.RESUMES not in again.tags
    assert (again.parent_run_id, again.root_run_id) == (resumed.run_id, failed.run_id)
    assert (again.tags[run_tags.USER], again.tags[run_tags.TRIGGERED_BY]) == ("bob", "admin")


def test_what_has_succeeded_is_repeated_in_full_only(instance: DagsterInstance) -> None:
    row = ProcessTreeInstance("good").add_process("one", func=processes.one).save()
    good = ran(instance, row)
    with pytest.raises(RunError, match="has not failed, it is success"):
        repeating.again(instance, good)
    assert repeating.again(instance, good, everything=True).parent_run_id == good.run_id


@pytest.mark.parametrize("in_launchpad", [True, False])
def test_what_the_launchpad_has_hidden_is_added_to_what_was_made_there_and_its_repetitions_alone(
    instance: DagsterInstance, in_launchpad: bool
) -> None:
    """The default context has a null: the Launchpad does not show it, others may leave it out."""
    tree = ProcessTreeInstance("dated").add_process("show", func=processes.echo)
    tree.save()
    tree.register_schedule(context={"org": 1, "options": {"limit": None, "fast": True}})
    given = {"org": 1, "options": {"fast": False}}
    job = translator().job(tree_records.from_row(ProcessTree.objects.get()))
    by = {} if in_launchpad else {run_tags.TRIGGERED_BY: "python"}
    made = create.create_run(instance, job, given, by)
    for _ in range(3):
        run_now(instance, made.run_id)
        shown = waiting.wait(made.run_id, 0)["results"]["show"]
        expected = {"fast": False, **({"limit": None} if in_launchpad else {})}
        assert shown["options"] == expected
        failed = instance.get_run_by_id(made.run_id)
        assert failed is not None
        made = repeating.again(instance, failed, everything=True)


def test_a_run_that_is_being_repeated_is_not_repeated_again(
    failing: ProcessTree, instance: DagsterInstance
) -> None:
    failed = ran(instance, failing)
    first = repeating.again(instance, failed)
    for everything in (False, True):
        with pytest.raises(RunError, match=f"by run {first.run_id}: queued"):
            repeating.again(instance, failed, everything=everything)
    ended(instance, first)
    second = repeating.again(instance, failed)
    assert second.run_id != first.run_id


def test_of_two_who_ask_at_the_same_moment_one_is_refused(
    failing: ProcessTree, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ran(instance, failing)
    seed = repeating._check(instance, failed, everything=False)
    monkeypatch.setattr(repeating, "_check", lambda *args, **kwargs: seed)  # both were in time
    repeating.again(instance, failed)
    with pytest.raises(RunError, match="is being repeated already"):
        repeating.again(instance, failed, everything=True)
    assert len(instance.get_runs()) == 2


def test_what_dagster_will_repeat_and_what_has_not_ended_is_refused(
    failing: ProcessTree, instance: DagsterInstance
) -> None:
    failed = ran(instance, failing)
    instance.add_run_tags(failed.run_id, {run_tags.WILL_RETRY: "true"})
    retried = instance.get_run_by_id(failed.run_id)
    assert retried is not None
    with pytest.raises(RunError, match="by Dagster itself"):
        repeating.again(instance, retried)
    queued = repeating.again(instance, failed)
    with pytest.raises(RunError, match="has not ended, it is not_started"):
        repeating.again(instance, queued, everything=True)


def test_a_repetition_that_was_never_queued_prevents_no_other(
    failing: ProcessTree, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ran(instance, failing)

    def die(*args: object) -> None:
        raise SystemExit

    monkeypatch.setattr(create, "submit", die)
    with pytest.raises(SystemExit):
        repeating.again(instance, failed)
    with pytest.raises(RunError, match="not_started"):
        repeating.again(instance, failed)
    monkeypatch.undo()
    monkeypatch.setattr(repeating, "ORPHANED_AFTER", dt.timedelta(0))
    assert repeating.again(instance, failed).status == DagsterRunStatus.NOT_STARTED


def test_the_last_run_of_each_tree_is_chosen_where_it_failed(
    failing: ProcessTree, instance: DagsterInstance
) -> None:
    start = timezone.now()
    healed = ProcessTreeInstance("healed").add_process("fail", func=processes.fail).save()
    ran(instance, healed)
    for _ in range(2):
        last = ran(instance, failing)
    mended = ProcessTreeInstance("healed", overwrite=True).add_process("one", func=processes.one)
    ran(instance, mended.save())
    found = repeating.last_failed(instance, start)
    assert [run.run_id for run in found.chosen] == [last.run_id]
    assert (found.others, found.is_cut) == (2, False)
    assert repeating.last_failed(instance, start, most_trees=1).is_cut
    assert repeating.last_failed(instance, timezone.now()).chosen == ()
