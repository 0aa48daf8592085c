"""What the runs of an open claim come to."""

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.orchestration.runs import schedule_claims
from proctree_dagster.running import tree_runs
from proctree_dagster.services import due_time_claims
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.tools.schedules import HOUR, utc

pytestmark = pytest.mark.django_db

DUE = utc("2026-06-10 07:00")


@pytest.fixture
def schedule(instance: DagsterInstance) -> ProcessTreeSchedule:
    """A schedule whose due time is claimed and has no run."""
    tree = ProcessTreeInstance("tree").add_process("only", func="tests.app.processes:one")
    tree.save()
    tree.register_schedule(interval_minutes=1440)
    schedule = ProcessTreeSchedule.objects.get()
    ProcessTreeSchedule.objects.update(next_run=DUE)
    assert isinstance(
        due_time_claims.request(
            schedule.pk, timezone.now(), schedule_claims.ScheduleHistory(instance, schedule.pk)
        ),
        due_time_claims.Due,
    )
    ProcessTreeSchedule.objects.update(claimed_at=DUE)  # long ago
    return schedule


def submitted(instance: DagsterInstance) -> str:
    """Return the id of a run for the claim, as the daemon's queue has it."""
    run_id, _ = tree_runs.submit_row(ProcessTree.objects.get())
    instance.add_run_tags(run_id, {run_tags.DUE: schedule_claims.due_tag(DUE)})
    return run_id


def fail(instance: DagsterInstance, run_id: str, *, started: bool) -> None:
    """Let a run fail, before or after its worker came up."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    if started:
        event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        instance.report_dagster_event(event, run_id=run_id)
    instance.report_run_failed(run)


@pytest.mark.parametrize("started", [False, True])
def test_a_claim_whose_run_failed_before_taking_it_is_requested_again(
    instance: DagsterInstance, schedule: ProcessTreeSchedule, started: bool
) -> None:
    fail(instance, submitted(instance), started=started)  # no worker, or no database in it
    assert schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(DUE) == "none"
    assert check_and_run_scheduled_tasks()["tree"]["success"]
    schedule.refresh_from_db()
    assert (schedule.claim, schedule.last_due) == (None, DUE)


def test_a_claim_is_given_up_when_ten_runs_failed_before_taking_it(
    instance: DagsterInstance, schedule: ProcessTreeSchedule
) -> None:
    for progress in [*["none"] * 9, "finished"]:
        fail(instance, submitted(instance), started=False)
        assert schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(DUE) == progress
    assert check_and_run_scheduled_tasks() == {}
    schedule.refresh_from_db()
    assert (schedule.claim, schedule.last_due) == (None, None)


def test_a_second_run_of_a_claim_is_waited_for(
    instance: DagsterInstance, schedule: ProcessTreeSchedule
) -> None:
    fail(instance, submitted(instance), started=False)
    submitted(instance)
    assert schedule_claims.ScheduleHistory(instance, schedule.pk).of_claim(DUE) == "under way"
    assert check_and_run_scheduled_tasks() == {}


def test_a_claim_made_before_the_clock_was_set_back_is_requested_again(
    instance: DagsterInstance, schedule: ProcessTreeSchedule
) -> None:
    ProcessTreeSchedule.objects.update(claimed_at=timezone.now() + HOUR)
    assert check_and_run_scheduled_tasks()["tree"]["success"]
