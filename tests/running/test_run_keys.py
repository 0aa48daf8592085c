"""Runs with a key, and runs that are not made before a time."""

import datetime as dt
import itertools
import logging
import uuid
import zoneinfo
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.storage.tags import WILL_RETRY_TAG
from django.db import connection, transaction
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import SubmissionError
from proctree_dagster.models import OutboxRun, OutboxState, ProcessTree
from proctree_dagster.orchestration.runs import family_runs, history, outbox_delivery, repeating
from proctree_dagster.running import tree_runs
from proctree_dagster.running.submitted_run import SubmittedRun
from proctree_dagster.services import run_keys
from proctree_dagster.testing import submitted
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def books(db: None) -> None:
    """A tree to submit."""
    ProcessTreeInstance("books").add_process("only", func=processes.one).save()


def submit(key: str | None = "harbour", on_conflict: Any = None, **given: Any) -> SubmittedRun:
    return ProcessTreeManager.submit_tree("books", key=key, on_conflict=on_conflict, **given)


def in_dagster(instance: DagsterInstance) -> list[str]:
    """Return the ids of the unfinished runs in Dagster."""
    return [run.run_id for run in instance.get_runs() if not run.is_finished]


def end(instance: DagsterInstance, run_id: str, event: str = "RUN_SUCCESS") -> None:
    """Let a run start and end; then do what its worker does then."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    for name in ("RUN_START", event):
        kind = DagsterEventType[name].value
        instance.report_dagster_event(DagsterEvent(kind, run.job_name), run_id=run_id)
    family_runs.end(instance, run_id)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"priority": 10**5000}, "from -1,000,000 to 1,000,000"),
        ({"priority": -1_000_001}, "from -1,000,000 to 1,000,000"),
        ({"run_after": dt.datetime.max.replace(tzinfo=dt.UTC)}, "years 2 to 9998"),
        ({"run_after": dt.datetime.min.replace(tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))}, "years"),
    ],
)
def test_what_no_database_or_page_could_show_is_refused(given: Any, told: str) -> None:
    with pytest.raises(SubmissionError, match=told):
        submit(**given)


class TestQueue:
    def test_runs_with_a_key_run_one_after_the_other_first_in_first_out(
        self, instance: DagsterInstance
    ) -> None:
        ids = [submit(on_conflict="queue").run_id for _ in range(4)]
        other = submit("brook", on_conflict="queue").run_id
        assert set(in_dagster(instance)) == {ids[0], other}
        for before, after in itertools.pairwise(ids):
            end(instance, before)
            assert set(in_dagster(instance)) == {after, other}, "at once, not with the sensor"
        end(instance, ids[-1], "RUN_FAILURE")
        assert not OutboxRun.objects.filter(key="harbour").filter(run_keys.UNFINISHED).exists()

    def test_a_run_shows_its_key_and_its_priority_as_tags(self, instance: DagsterInstance) -> None:
        run = instance.get_run_by_id(submit(priority=7, tags={"team": "books"}).run_id)
        assert run is not None
        found = {name: run.tags[name] for name in (run_tags.KEY, "dagster/priority", "team")}
        assert found == {run_tags.KEY: "harbour", "dagster/priority": "7", "team": "books"}

    def test_it_says_which_run_is_unfinished(self, instance: DagsterInstance) -> None:
        first = submit(on_conflict="queue")
        second = submit(on_conflict="queue")
        assert (first.outcome, first.unfinished) == ("requested", "")
        assert (second.outcome, second.unfinished) == ("requested", first.run_id)

    def test_one_that_cannot_be_made_keeps_those_behind_it_waiting_until_it_is_withdrawn(
        self, instance: DagsterInstance
    ) -> None:
        submit(on_conflict="queue")
        ProcessTree.objects.create(name="broken", processes=[])
        OutboxRun.objects.all().update(process_tree=ProcessTree.objects.get(name="broken"))
        for run in instance.get_runs():
            instance.delete_run(run.run_id)
        OutboxRun.objects.update(state=OutboxState.WAITING)
        second = submit(on_conflict="queue").run_id
        assert in_dagster(instance) == []
        OutboxRun.objects.exclude(run_id=second).delete()
        assert tree_runs.deliver() == [second]


class TestReturnAndSkip:
    def test_return_gives_the_unfinished_runs_id_and_requests_nothing(
        self, instance: DagsterInstance
    ) -> None:
        first = submit()
        again = submit()
        assert (again.run_id, again.outcome) == (first.run_id, "returned")
        end(instance, first.run_id)
        assert submit().run_id not in ("", first.run_id)
        assert OutboxRun.objects.count() == 2

    def test_skip_requests_nothing_and_says_so(
        self, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = submit(on_conflict="skip")
        with caplog.at_level(logging.INFO):
            second = submit(on_conflict="skip")
        assert (second.run_id, second.url) == ("", None)
        assert (second.skipped, second.unfinished) == (True, first.run_id)
        assert first.run_id in caplog.text
        assert OutboxRun.objects.count() == 1

    def test_a_run_that_has_ended_is_not_returned_though_no_pass_has_noticed_yet(
        self, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = submit().run_id
        run = instance.get_run_by_id(first)
        assert run is not None
        instance.report_run_failed(run)
        assert submit().run_id == first, "it never started: another run takes its place"
        event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        instance.report_dagster_event(event, run_id=first)
        instance.report_run_failed(run)
        second = submit().run_id
        assert second != first
        assert in_dagster(instance) == [second]

    def test_a_key_in_a_transaction_or_savepoint_that_is_rolled_back_is_free(
        self, instance: DagsterInstance
    ) -> None:
        with transaction.atomic():
            submit()
            transaction.set_rollback(True)
        with transaction.atomic():
            outer = submit()
            assert submit().run_id == outer.run_id
            with transaction.atomic():
                other = submit("brook")
                transaction.set_rollback(True)
        assert other.outcome == outer.outcome == "requested"
        assert submit("brook").run_id != other.run_id
        assert submit().run_id == outer.run_id


class TestReplace:
    def test_a_waiting_one_is_withdrawn_and_a_queued_one_canceled(
        self, instance: DagsterInstance
    ) -> None:
        running = submit().run_id
        waiting = submit(on_conflict="queue").run_id
        new = submit(on_conflict="replace").run_id
        dropped = OutboxRun.objects.get(run_id=waiting)
        assert dropped.state == OutboxState.DROPPED
        assert f"Run {new} with the same key has replaced it." == dropped.reason
        old = instance.get_run_by_id(running)
        assert old is not None
        assert old.status == DagsterRunStatus.CANCELED
        assert in_dagster(instance) == [new]

    def test_it_starts_when_a_running_one_has_ended(
        self, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        launcher = type(instance.run_launcher)
        monkeypatch.setattr(launcher, "terminate", lambda _, run_id: asked.append(run_id))
        old = submit().run_id
        run = instance.get_run_by_id(old)
        assert run is not None
        event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        instance.report_dagster_event(event, run_id=old)
        new = submit(on_conflict="replace").run_id
        assert set(asked) == {old}
        assert in_dagster(instance) == [old]
        instance.report_run_canceled(run)
        family_runs.end(instance, old)
        assert in_dagster(instance) == [new]

    def test_the_last_one_counts(self, instance: DagsterInstance) -> None:
        for _ in range(3):
            last = submit(on_conflict="replace").run_id
        assert in_dagster(instance) == [last]


class TestRunsThatAreUnfinished:
    def test_one_that_dagster_will_retry_is(self, instance: DagsterInstance) -> None:
        first = submit().run_id
        instance.add_run_tags(first, {WILL_RETRY_TAG: "true"})
        end(instance, first, "RUN_FAILURE")
        assert submit().run_id == first

    def test_a_repeated_one_is_and_keeps_the_next_one_waiting(
        self, instance: DagsterInstance
    ) -> None:
        first = submit().run_id
        end(instance, first, "RUN_FAILURE")
        again = repeating.again(instance, history.find(instance, first).dagster_run).run_id
        assert submit().run_id == again, "the retry has the key"
        next_one = submit(on_conflict="queue").run_id
        assert in_dagster(instance) == [again]
        end(instance, again)
        assert in_dagster(instance) == [next_one]

    @pytest.mark.parametrize("lost", ["the row", "the tree"])
    def test_one_whose_row_is_gone_is(self, instance: DagsterInstance, lost: str) -> None:
        first = submit().run_id
        if lost == "the tree":
            ProcessTree.objects.all().delete()
            ProcessTreeInstance("books").add_process("only", func=processes.one).save()
        OutboxRun.objects.all().delete()
        assert submit().run_id == first
        second = submit(on_conflict="queue").run_id
        assert in_dagster(instance) == [first]
        end(instance, first)
        assert in_dagster(instance) == [second]

    def test_one_that_was_deleted_in_dagster_is_not(self, instance: DagsterInstance) -> None:
        first = submit().run_id
        instance.delete_run(first)
        second = submit(on_conflict="queue").run_id
        assert in_dagster(instance) == [second]


class TestLater:
    def test_a_run_is_not_made_before_its_time(self, instance: DagsterInstance) -> None:
        later = timezone.now() + dt.timedelta(hours=1)
        run_id = submit(None, run_after=later).run_id
        assert tree_runs.deliver() == []
        assert str(outbox_delivery.deliver(instance)) == "Nothing to do."
        OutboxRun.objects.update(run_after=timezone.now())
        assert tree_runs.deliver() == [run_id]

    def test_one_of_a_later_time_keeps_no_other_with_its_key_waiting_but_is_unfinished(
        self, instance: DagsterInstance
    ) -> None:
        later = submit(run_after=timezone.now() + dt.timedelta(hours=1)).run_id
        assert submit().run_id == later
        now = submit(on_conflict="queue").run_id
        assert in_dagster(instance) == [now]

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"run_after": dt.datetime(2030, 1, 1)}, "of which time zone"),
            ({"run_after": "tomorrow"}, "must be a datetime"),
            ({"priority": "high"}, "whole number"),
            ({"priority": True}, "whole number"),
            ({"key": " "}, "not blank"),
            ({"key": "x" * 201}, "at most 200"),
            ({"key": "a\0"}, "NUL"),
            ({"key": "a", "on_conflict": "wait"}, "return, skip, replace, queue"),
            ({"on_conflict": "skip"}, "needs a key"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, given: dict[str, Any], why: str) -> None:
        with pytest.raises(SubmissionError, match=why):
            ProcessTreeManager.submit_tree("books", **given)
        assert not OutboxRun.objects.exists()


def test_in_a_test_a_recorded_run_with_the_key_is_unfinished() -> None:
    first = submit()
    assert submit().run_id == first.run_id
    assert submit(on_conflict="skip").skipped
    queued = submit(on_conflict="queue")
    assert [run.run_id for run in submitted()] == [first.run_id, queued.run_id]


def test_of_rows_without_a_key_none_is_compared_with_all_the_others() -> None:
    """SQLite's steps for a page of rows do not grow with the table."""
    tree = ProcessTree.objects.get()

    def steps_with(rows: int) -> int:
        OutboxRun.objects.bulk_create(
            OutboxRun(run_id=uuid.uuid4(), process_tree=tree) for _ in range(rows)
        )
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.ensure_connection()
        connection.connection.set_progress_handler(count, 100)
        try:
            found = list(run_keys.with_those_before(OutboxRun.objects.order_by("pk"))[:10])
        finally:
            connection.connection.set_progress_handler(None, 0)
        assert [each.before for each in found] == [None] * 10  # type: ignore[attr-defined]
        return steps

    few = steps_with(100)
    assert steps_with(3000) <= 2 * few + 10
