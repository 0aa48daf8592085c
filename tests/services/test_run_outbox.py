"""Runs that are to be made: written down first, delivered once, whatever happens in between."""

import datetime as dt
import logging
import uuid
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    SkipReason,
    build_sensor_context,
)
from dagster._core.errors import DagsterConfigMappingFunctionError
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.system_config.objects import ResolvedRunConfig
from django.db import connection, models, transaction
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ContextError
from proctree_dagster.models import (
    OutboxRun,
    OutboxState,
    Pause,
    ProcessTree,
    ProcessTreeSchedule,
)
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import create as runs
from proctree_dagster.orchestration.runs import outbox_delivery
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.services import health, run_outbox, tree_metrics
from proctree_dagster.support.connections import after_commit
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db


@pytest.fixture
def tree() -> ProcessTree:
    """A tree whose schedule gives it a default context."""
    tree = ProcessTreeInstance("books").add_process("only", func=processes.echo)
    tree.save()
    tree.register_schedule(context={"a": 1, "b": 1})
    return ProcessTree.objects.get()


def state(row: OutboxRun) -> str:
    row.refresh_from_db()
    return row.state


def queued(instance: DagsterInstance) -> list[str]:
    """Return the ids of the runs in Dagster's queue."""
    return [run.run_id for run in instance.get_runs() if run.status == DagsterRunStatus.QUEUED]


def end(instance: DagsterInstance, run_id: str, status: str, *, started: bool = True) -> None:
    """Let a run start, or not, and end."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    if started:
        event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        instance.report_dagster_event(event, run_id=run_id)
    if status == "failed":
        instance.report_run_failed(run)
    elif status == "canceled":
        instance.report_run_canceled(run)
    elif status == "succeeded":
        event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name)
        instance.report_dagster_event(event, run_id=run_id)


def wait_for(
    instance: DagsterInstance, tree: ProcessTree, *before: str
) -> tuple[OutboxRun, list[str]]:
    """Return a row that waits for runs, and their ids; they are in Dagster's queue."""
    ids = [tree_runs.submit_row(tree).run_id for _ in before]
    return run_outbox.add(tree, {}, {}, ids), ids


class TestDelivery:
    def test_a_run_gets_the_id_the_context_and_the_tags_of_its_row(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {"b": 2, "when": dt.date(2026, 6, 10)}, {"team": "books"})
        assert tree_runs.deliver() == [str(row.run_id)]
        run = instance.get_run_by_id(str(row.run_id))
        assert run is not None
        assert run.status == DagsterRunStatus.QUEUED
        assert run.run_config == {"context": {"a": 1, "b": 2, "when": {"$date": "2026-06-10"}}}
        assert run.tags["team"] == "books"
        assert run.tags[run_tags.TREE] == "books"
        assert state(row) == OutboxState.DELIVERED
        assert (row.attempts, row.leased_until) == (1, None)
        assert row.delivered_at is not None

    def test_what_is_delivered_twice_is_one_run(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        tree_runs.deliver()
        OutboxRun.objects.update(state=OutboxState.WAITING)  # whoever delivered it died before
        tree_runs.deliver()
        assert queued(instance) == [str(row.run_id)]
        events = instance.all_logs(str(row.run_id), of_type=DagsterEventType.RUN_ENQUEUED)
        assert len(events) == 1

    def test_a_run_that_was_created_and_not_queued_is_queued(
        self, instance: DagsterInstance, tree: ProcessTree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = run_outbox.add(tree, {}, {})

        def die(*args: object) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(runs, "submit", die)
            with pytest.raises(SystemExit):
                tree_runs.deliver()
        assert tree_runs.deliver() == []  # the lease of the one that died
        OutboxRun.objects.update(leased_until=timezone.now())
        assert tree_runs.deliver() == [str(row.run_id)]
        assert queued(instance) == [str(row.run_id)]

    @pytest.mark.usefixtures("real_dagster")
    def test_of_two_at_once_one_has_the_lease(self, tree: ProcessTree) -> None:
        one = run_outbox.add(tree, {}, {})
        other = OutboxRun.objects.get()
        now = timezone.now()
        assert run_outbox.lease(one, now)
        assert not run_outbox.lease(other, now)
        assert run_outbox.lease(other, now + run_outbox.LEASE)
        # The first was held up, and has lost it: it may not go on.
        assert not run_outbox.renew(one)
        run_outbox.mark_delivered(one)
        assert state(one) == OutboxState.WAITING
        assert run_outbox.renew(other)

    def test_whoever_was_held_up_and_lost_the_lease_queues_nothing(
        self, instance: DagsterInstance, tree: ProcessTree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        create = runs.create_run

        def slowly(*args: object, **kwargs: object) -> None:
            create(*args, **kwargs)  # type: ignore[arg-type]
            OutboxRun.objects.update(leased_until=timezone.now() + dt.timedelta(minutes=9))

        monkeypatch.setattr(runs, "create_run", slowly)
        tree_runs.deliver()
        assert queued(instance) == []
        assert state(row) == OutboxState.WAITING

    def test_a_row_that_is_broken_is_kept_with_its_reason_and_others_go_on(
        self, instance: DagsterInstance, tree: ProcessTree, caplog: pytest.LogCaptureFixture
    ) -> None:
        ProcessTree.objects.create(name="broken", processes=[{"name": "a", "func": "os:system"}])
        broken = run_outbox.add(ProcessTree.objects.get(name="broken"), {}, {})
        good = run_outbox.add(tree, {}, {})
        with caplog.at_level(logging.ERROR):
            assert tree_runs.deliver() == [str(good.run_id)]
        assert "'broken' could not be delivered" in caplog.text
        assert state(broken) == OutboxState.WAITING
        assert "'os:system' is not allowed" in broken.reason
        ProcessTree.objects.filter(name="broken").update(processes=tree.processes)
        assert tree_runs.deliver() == []  # not before a minute has passed
        OutboxRun.objects.update(leased_until=timezone.now())
        assert tree_runs.deliver() == [str(broken.run_id)]

    def test_a_context_that_sql_has_put_there_and_makes_no_sense_is_kept_too(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        with connection.cursor() as cursor:
            nonsense = '{"when": {"$date": "not a day"}}'
            cursor.execute("UPDATE proctree_dagster_outboxrun SET context = %s", [nonsense])
        assert tree_runs.deliver() == []
        assert state(row) == OutboxState.WAITING
        assert "$date" in row.reason

    def test_a_context_that_cannot_be_stored_is_refused_at_once(self, tree: ProcessTree) -> None:
        with pytest.raises(ContextError, match=r"context\['a'\]"):
            run_outbox.add(tree, {"a": object()}, {})

    def test_only_the_rows_that_are_asked_for_are_looked_at(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        run_outbox.add(tree, {}, {})
        mine = str(run_outbox.add(tree, {}, {}).run_id)
        assert tree_runs.deliver([mine]) == [mine]
        assert queued(instance) == [mine]

    def test_a_row_is_written_once_for_an_id(self, tree: ProcessTree) -> None:
        run_id = uuid.uuid4()
        first = run_outbox.add(tree, {"a": 1}, {}, run_id=run_id)
        assert run_outbox.add(tree, {"a": 2}, {}, run_id=str(run_id)) == first
        assert OutboxRun.objects.get().context == {"a": 1}


class TestDagsterIsAway:
    def test_what_waits_meanwhile_is_delivered_once_when_it_is_back(
        self,
        instance: DagsterInstance,
        tree: ProcessTree,
        dagster_home: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        away = dagster_home.rename(dagster_home.with_name("away"))
        assert tree_runs.deliver() == []
        assert "wait in the outbox" in caplog.text
        assert state(row) == OutboxState.WAITING
        away.rename(dagster_home)
        assert tree_runs.deliver() == [str(row.run_id)]
        assert tree_runs.deliver() == []
        assert queued(instance) == [str(row.run_id)]

    @pytest.mark.usefixtures("real_dagster")
    def test_without_a_home_nothing_is_delivered_and_nothing_lost(
        self, tree: ProcessTree, caplog: pytest.LogCaptureFixture
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        assert tree_runs.deliver() == []
        assert "Dagster has no home" in caplog.text
        assert state(row) == OutboxState.WAITING

    @pytest.mark.django_db(transaction=True)
    def test_a_transaction_that_rolls_back_leaves_nothing(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        with transaction.atomic():
            row = run_outbox.add(tree, {}, {})
            after_commit(lambda: tree_runs.deliver([str(row.run_id)]))
            transaction.set_rollback(True)
        assert not OutboxRun.objects.exists()
        assert queued(instance) == []

    @pytest.mark.django_db(transaction=True)
    def test_a_transaction_that_commits_has_its_run_at_once(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        with transaction.atomic():
            row = run_outbox.add(tree, {}, {})
            after_commit(lambda: tree_runs.deliver([str(row.run_id)]))
            assert queued(instance) == []
        assert queued(instance) == [str(row.run_id)]


class TestOrder:
    def test_a_row_waits_until_all_runs_before_it_have_succeeded(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row, (one, two) = wait_for(instance, tree, "one", "two")
        assert tree_runs.deliver() == []
        end(instance, one, "succeeded")
        assert tree_runs.deliver() == []
        end(instance, two, "running")
        assert tree_runs.deliver() == []
        end(instance, two, "succeeded")
        assert tree_runs.deliver() == [str(row.run_id)]

    @pytest.mark.parametrize(("how", "said"), [("failed", "has failed"), ("canceled", "canceled")])
    def test_a_row_is_dropped_when_a_run_before_it_has_failed_and_so_are_those_behind_it(
        self, instance: DagsterInstance, tree: ProcessTree, how: str, said: str
    ) -> None:
        row, (one, two) = wait_for(instance, tree, "one", "two")
        behind = run_outbox.add(tree, {}, {}, [str(row.run_id)])
        end(instance, two, "succeeded")
        end(instance, one, how)
        tree_runs.deliver()
        assert state(row) == state(behind) == OutboxState.DROPPED
        assert f"Run {one} of books" in row.reason
        assert said in row.reason
        assert row.reason == behind.reason

    def test_a_run_that_dagster_tries_again_is_waited_for(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row, (one,) = wait_for(instance, tree, "one")
        instance.add_run_tags(one, {WILL_RETRY_TAG: "true"})
        end(instance, one, "failed")
        tree_runs.deliver()
        assert state(row) == OutboxState.WAITING

    def test_a_row_is_dropped_when_what_it_waits_for_is_gone(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row, (one,) = wait_for(instance, tree, "one")
        instance.delete_run(one)
        tree_runs.deliver()
        assert state(row) == OutboxState.DROPPED
        assert "is gone" in row.reason

    def test_a_row_waits_for_one_that_waits(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row, _ = wait_for(instance, tree, "one")
        behind = run_outbox.add(tree, {}, {}, [str(row.run_id)])
        tree_runs.deliver()
        assert state(row) == state(behind) == OutboxState.WAITING

    def test_what_was_dropped_waits_again_for_the_run_that_takes_the_failed_ones_place(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        failed, good, new = (tree_runs.submit_row(tree).run_id for _ in range(3))
        family = {run_tags.FAMILY: failed}
        row = run_outbox.add(tree, {}, family, [failed, good])
        behind = run_outbox.add(tree, {}, family, [str(row.run_id)])
        other = run_outbox.add(tree, {}, {run_tags.FAMILY: good}, [failed])
        end(instance, failed, "failed")
        tree_runs.deliver()
        run_outbox.replace(failed, failed, new)
        assert state(row) == state(behind) == OutboxState.WAITING
        assert (row.after, row.reason) == ([new, good], "")
        assert state(other) == OutboxState.DROPPED
        end(instance, good, "succeeded")
        end(instance, new, "succeeded")
        assert tree_runs.deliver() == [str(row.run_id)]


class TestLaunches:
    def deliver(self, row: OutboxRun) -> str:
        """Deliver a row, and return the id of its run."""
        row.refresh_from_db()
        tree_runs.deliver([str(row.run_id)])
        return str(row.run_id)

    def test_a_run_that_has_started_is_not_looked_at_again(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        end(instance, self.deliver(row), "failed")
        tree_runs.deliver()
        assert state(row) == OutboxState.STARTED
        assert len(instance.get_runs()) == 1
        assert not run_outbox.is_open()

    def test_a_run_that_failed_before_it_started_is_followed_by_another(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        first = tree_runs.submit_row(tree).run_id
        end(instance, first, "succeeded")
        row = run_outbox.add(tree, {"b": 2}, {run_tags.FAMILY: first})
        behind = run_outbox.add(tree, {}, {run_tags.FAMILY: first}, [str(row.run_id)])
        failed = self.deliver(row)
        end(instance, failed, "failed", started=False)  # the daemon died in the launch
        tree_runs.deliver()
        assert state(row) == state(behind) == OutboxState.WAITING
        again = str(row.run_id)
        assert again != failed
        assert behind.after == [again]
        assert tree_runs.deliver() == [again]
        run = instance.get_run_by_id(again)
        assert run is not None
        assert run.tags[run_tags.INSTEAD_OF] == failed
        end(instance, again, "succeeded")
        assert tree_runs.deliver() == [str(behind.run_id)]

    def test_it_is_left_at_that_after_ten_runs(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        behind = run_outbox.add(tree, {}, {}, [str(row.run_id)])
        OutboxRun.objects.filter(pk=row.pk).update(launches=run_outbox.MAX_LAUNCHES)
        end(instance, self.deliver(row), "failed", started=False)
        tree_runs.deliver()
        assert state(row) == OutboxState.STARTED
        assert "10 runs failed before they started" in row.reason
        assert state(behind) == OutboxState.DROPPED

    @pytest.mark.parametrize("retried", [True, False])
    def test_a_run_that_was_canceled_or_that_dagster_tries_again_is_not(
        self, instance: DagsterInstance, tree: ProcessTree, retried: bool
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        run_id = self.deliver(row)
        if retried:
            instance.add_run_tags(run_id, {WILL_RETRY_TAG: "true"})
        end(instance, run_id, "failed" if retried else "canceled", started=False)
        tree_runs.deliver()
        assert state(row) == OutboxState.STARTED
        assert len(instance.get_runs()) == 1


class TestSensor:
    def test_it_is_always_there_because_any_run_may_be_lost(self, db: None) -> None:
        live = LiveRepositoryData(ProcessTreeTranslator())
        sensor, *_others = live.get_all_sensors()
        assert sensor.name == "proctree_outbox"
        assert sensor.default_status == DefaultSensorStatus.RUNNING
        assert live.has_sensor("proctree_outbox")

    def test_it_delivers_and_says_so(self, instance: DagsterInstance, tree: ProcessTree) -> None:
        row = run_outbox.add(tree, {}, {})
        run_outbox.add(tree, {}, {}, [str(row.run_id)])
        sensor = LiveRepositoryData(ProcessTreeTranslator()).get_sensor("proctree_outbox")
        answer = sensor(build_sensor_context(instance))
        assert isinstance(answer, SkipReason)
        assert answer.skip_message == "1 delivered, 1 waiting"
        assert queued(instance) == [str(row.run_id)]

    def test_it_begins_no_delivery_when_its_time_is_over(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        assert outbox_delivery.deliver(instance, seconds=0).waiting == [str(row.run_id)]
        assert queued(instance) == []

    def test_so_does_whoever_looks_for_due_times_without_a_daemon(
        self, instance: DagsterInstance, tree: ProcessTree
    ) -> None:
        row = run_outbox.add(tree, {}, {})
        check_and_run_scheduled_tasks()
        assert queued(instance) == [str(row.run_id)]


def test_what_somebody_has_withdrawn_is_not_made_because_a_run_before_it_is_repeated(
    tree: ProcessTree,
) -> None:
    first, again = uuid.uuid4(), str(uuid.uuid4())
    rows = {
        name: OutboxRun.objects.create(
            process_tree=tree, after=[str(first)], family=str(first), tags={}
        )
        for name in ("withdrawn", "dropped")
    }
    assert run_outbox.withdraw_one(rows["withdrawn"], "Withdrawn by ada.", timezone.now())
    run_outbox.drop(rows["dropped"], "The run before it failed.")
    run_outbox.revive(str(first))
    assert {name: state(row) for name, row in rows.items()} == {
        "withdrawn": OutboxState.DROPPED,
        "dropped": OutboxState.WAITING,
    }
    run_outbox.drop(rows["dropped"], "The run before it failed.")
    run_outbox.replace(str(first), str(first), again)
    assert [state(row) for row in rows.values()] == [OutboxState.DROPPED, OutboxState.WAITING]
    assert rows["withdrawn"].reason == "Withdrawn by ada."
    assert (rows["withdrawn"].after, rows["dropped"].after) == ([str(first)], [again])


def test_a_row_whose_tags_sql_has_broken_can_be_withdrawn(tree: ProcessTree) -> None:
    row = OutboxRun.objects.create(process_tree=tree)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_outboxrun SET tags = '[5]'")
    row.refresh_from_db()
    assert run_outbox.withdraw_one(row, "Withdrawn by ada.", timezone.now())
    assert OutboxRun.objects.get().state == OutboxState.DROPPED


def test_a_row_that_a_pause_holds_is_no_reason_for_concern(tree: ProcessTree) -> None:
    schedule, now = ProcessTreeSchedule.objects.get(), timezone.now()
    OutboxRun.objects.create(process_tree=tree, schedule=schedule)
    OutboxRun.objects.update(created_at=now - dt.timedelta(hours=1))
    assert not health.check_outbox(now).ok
    Pause.objects.create(reason="audit", since=now - dt.timedelta(hours=2))
    assert health.check_outbox(now).ok
    [age] = [each for each in tree_metrics._of_outbox(now) if each.name.endswith("age_seconds")]
    assert age.samples == {"": 0.0}


@pytest.mark.usefixtures("real_dagster")
def test_rows_are_kept_for_a_month_after_their_end(tree: ProcessTree, settings: Settings) -> None:
    old, waiting = run_outbox.add(tree, {}, {}), run_outbox.add(tree, {}, {})
    OutboxRun.objects.filter(pk=old.pk).update(state=OutboxState.STARTED)
    run_outbox.forget(timezone.now() + dt.timedelta(days=29))
    assert OutboxRun.objects.count() == 2
    run_outbox.forget(timezone.now() + dt.timedelta(days=31))
    assert OutboxRun.objects.get() == waiting


NO_TEXTS = "Its tags are no texts by their names."
NO_IDS = "What it waits for is no list of ids of runs."
SENSELESS: list[tuple[str, Any, str]] = [
    *(("tags", "x", NO_TEXTS), ("tags", 5, NO_TEXTS), ("tags", {run_tags.FOLLOWS: 5}, NO_TEXTS)),
    ("tags", {"__class__": "x"}, "Its tags have a name that Dagster keeps for itself."),
    ("context", [1], "Its context is no dictionary."),
    *(("after", 5, NO_IDS), ("after", "x", NO_IDS), ("after", {}, NO_IDS), ("after", [5], NO_IDS)),
    *(("after", [None], NO_IDS), ("after", [{}], NO_IDS), ("after", ["x"], NO_IDS)),
    ("after", ["\ud800"], NO_IDS),
]


@pytest.mark.parametrize(("field", "written", "why"), SENSELESS, ids=str)
def test_a_row_that_makes_no_sense_says_so_and_keeps_no_other_from_being_delivered(
    field: str, written: Any, why: str, tree: ProcessTree, instance: DagsterInstance
) -> None:
    broken, healthy = run_outbox.add(tree, {}, {}), run_outbox.add(tree, {}, {})
    as_it_is = models.Value(written, output_field=models.JSONField())
    models.QuerySet(OutboxRun).filter(pk=broken.pk).update(**{field: as_it_is})
    assert outbox_delivery.deliver(instance).delivered == [str(healthy.run_id)]
    assert queued(instance) == [str(healthy.run_id)]
    assert state(broken) == OutboxState.WAITING, "so that it can be mended"
    assert broken.reason == why


def test_no_run_is_stored_that_keeps_every_other_from_being_read(
    tree: ProcessTree, instance: DagsterInstance
) -> None:
    ProcessTreeInstance("__class__").add_process("__class__", func=processes.echo).save()
    assert ProcessTreeManager.execute_tree("__class__")["success"]
    row = run_outbox.add(tree, {}, {})
    models.QuerySet(OutboxRun).update(
        context=models.Value({"__class__": "x"}, output_field=models.JSONField())
    )
    assert outbox_delivery.deliver(instance).failed == [str(row.run_id)]
    row.refresh_from_db()
    assert "the key '__class__', which Dagster keeps for itself" in row.reason
    models.QuerySet(ProcessTreeSchedule).update(
        context=models.Value({"a": [{"__enum__": "x.y"}]}, output_field=models.JSONField())
    )
    with pytest.raises(ContextError, match="'__enum__'"):
        ProcessTreeManager.execute_tree("books")
    job = translator().job(from_row(ProcessTree.objects.get(name="__class__")))
    with pytest.raises(DagsterConfigMappingFunctionError):
        ResolvedRunConfig.build(job, {"context": {"typed": {"__set__": []}}})
    assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.SUCCESS]
