"""What decides a write is read from the database that is written: a replica may be stale."""

import datetime as dt
import uuid

import pytest
from dagster import DagsterInstance
from django.apps import apps
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain.submissions import Submission
from proctree_dagster.models import (
    Alert,
    Backfill,
    BackfillState,
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
)
from proctree_dagster.models.primary import PrimaryQuerySet
from proctree_dagster.orchestration.runs import outbox_delivery
from proctree_dagster.running import requested_runs, submissions
from proctree_dagster.services import alert_delivery, alerts, backfills, run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.replicas import Replicated

pytestmark = pytest.mark.django_db(databases=["default", "north"])


@pytest.fixture
def books(settings: Settings) -> ProcessTree:
    """A tree with a schedule, which the replica has, too."""
    tree = ProcessTreeInstance("books").add_process("only", func=processes.one)
    tree.save()
    tree.register_schedule(cron="0 9 * * *", timezone="UTC")
    row = ProcessTree.objects.get()
    for each in (row, ProcessTreeSchedule.objects.get()):
        each.save(using="north", force_insert=True)
    settings.DATABASE_ROUTERS = [Replicated()]
    return row


def test_every_row_and_each_relation_to_one_is_read_where_it_is_written() -> None:
    models = apps.get_app_config("proctree_dagster").get_models()
    managed = [each for each in models if each._meta.managed]
    assert len(managed) > 15
    for each in managed:
        assert isinstance(each._default_manager.all(), PrimaryQuerySet), each
        assert isinstance(each._base_manager.all(), PrimaryQuerySet), each


def test_the_tree_of_a_row_that_the_replica_lacks_is_found(books: ProcessTree) -> None:
    ProcessTree.objects.using("north").delete()
    assert ProcessTreeSchedule.objects.get().process_tree == books


def test_of_two_runs_with_a_key_the_second_is_skipped(
    books: ProcessTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "_seen_in_dagster", lambda key: None)
    submission = Submission(key="close", on_conflict="skip")
    written = [submissions.write_down(books, {}, {}, submission=submission) for _ in range(2)]
    outcomes = [each.outcome for each in written]
    assert outcomes == ["requested", "skipped"]
    assert OutboxRun.objects.using("default").count() == 1


def test_a_run_is_found_and_delivered_as_soon_as_it_is_requested(books: ProcessTree) -> None:
    run_id = str(OutboxRun.objects.create(run_id=uuid.uuid4(), process_tree=books).run_id)
    assert [str(each.run_id) for each in run_outbox.open_rows([run_id])] == [run_id]
    assert requested_runs.find(run_id) is not None


def test_a_run_is_not_dropped_as_the_one_before_it_is_not_seen(
    books: ProcessTree, instance: DagsterInstance
) -> None:
    run_id = str(OutboxRun.objects.create(run_id=uuid.uuid4(), process_tree=books).run_id)
    verdict = outbox_delivery._verdicts(instance, [run_id], {})[run_id]
    assert not isinstance(verdict, run_outbox.Drop)


def test_events_of_one_kind_are_one_alert(books: ProcessTree) -> None:
    now = timezone.now()
    with transaction.atomic(using="default"):
        for _ in range(3):
            alerts._add_to("a@example.org", "failure", books, "books", "", {}, now, now)
    [alert] = Alert.objects.using("default")
    assert alert.count == 3


def test_a_message_tells_what_was_counted_until_it_is_sent(books: ProcessTree) -> None:
    now = timezone.now()
    alerts._add_to("a@example.org", "failure", books, "books", "", {}, now, now)
    alert = Alert.objects.using("default").get()
    alert.save(using="north", force_insert=True)
    Alert.objects.using("default").update(count=3)
    assert alert_delivery._lease(alert)
    assert alert.count == 3


def test_a_backfill_runs_until_its_runs_have_ended(books: ProcessTree) -> None:
    first = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
    last = first + dt.timedelta(days=2)
    row = backfills.start(ProcessTreeSchedule.objects.get(), first, last)
    row.save(using="north", force_insert=True)
    assert backfills.request(row.pk, lambda *_: [])
    assert Backfill.objects.using("default").get().state == BackfillState.RUNNING
