"""One row that can't be read hides no other, whatever SQL has put into it."""

import datetime as dt
from io import StringIO

import pytest
from dagster import DagsterInstance, build_sensor_context
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from proctree_dagster import triggers
from proctree_dagster.domain import run_tags
from proctree_dagster.models import OutboxRun, ProcessTree, ProcessTreeSchedule, RunWorker
from proctree_dagster.orchestration.automation import outbox_sensor
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import lost_runs
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.running import tree_runs
from proctree_dagster.services import broken_rows, run_outbox
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db

NO_DAY = "2026-13-45 00:00:00"
NO_NUMBER = f'{{"a": {"9" * 5000}}}'

UNREADABLE = [
    ("processtree", "created_at", NO_DAY),
    ("processtree", "processes", NO_NUMBER),
    ("processtreeschedule", "next_run", NO_DAY),
    ("processtreeschedule", "claim", NO_DAY),
    ("processtreeschedule", "last_due", NO_DAY),
    ("processtreeschedule", "context", NO_NUMBER),
    ("trigger", "last_checked", NO_DAY),
    ("trigger", "configuration", NO_NUMBER),
    ("triggersubscription", "context", NO_NUMBER),
    ("processtree", "run_tags", NO_NUMBER),
    ("processtreeschedule", "tags", NO_NUMBER),
    ("triggersubscription", "tags", NO_NUMBER),
]


@pytest.fixture
def trees() -> None:
    """Two trees, each with a schedule, and both subscribed to two triggers."""
    for name in ("good", "bad"):
        tree = ProcessTreeInstance(name).add_process("only", func=processes.echo)
        tree.save()
        tree.register_schedule(interval_minutes=60)
    for name in ("good", "bad"):
        function = {"function": "tests.app.processes:one"}
        triggers.create_trigger(f"{name}_trigger", "custom", function)
        triggers.subscribe_tree_to_trigger("bad", f"{name}_trigger")
        triggers.subscribe_tree_to_trigger("good", f"{name}_trigger")


def put(table: str, column: str, value: str) -> None:
    """Let SQL write a value into what is bad."""
    table = f"proctree_dagster_{table}"
    with connection.cursor() as cursor:
        columns = [
            each.name for each in connection.introspection.get_table_description(cursor, table)
        ]
        of_tree = "process_tree_id = (SELECT id FROM proctree_dagster_processtree WHERE name='bad')"
        which = of_tree if "process_tree_id" in columns else "name LIKE 'bad%%'"
        cursor.execute(f"UPDATE {table} SET {column} = %s WHERE {which}", [value])
        assert cursor.rowcount


@pytest.mark.parametrize(("table", "column", "value"), UNREADABLE)
@pytest.mark.usefixtures("trees")
def test_the_code_location_serves_the_other_trees_schedules_and_triggers(
    table: str, column: str, value: str
) -> None:
    put(table, column, value)
    live = LiveRepositoryData(ProcessTreeTranslator())
    assert {job.name for job in live.get_all_jobs()} == {"good", "bad"}
    schedules = {schedule.name for schedule in live.get_all_schedules()}
    assert schedules == {"good_schedule", "bad_schedule"}  # Dagster forgets what vanishes
    found = {sensor.name for sensor in live.get_all_sensors()}
    assert {"good_trigger_trigger", "bad_trigger_trigger"} <= found
    for name in ("good", "bad"):
        assert live.get_job(name).name == name
        assert live.get_schedule(f"{name}_schedule").name == f"{name}_schedule"
        assert live.get_sensor(f"{name}_trigger_trigger").name == f"{name}_trigger_trigger"
    assert [node.name for node in live.get_job("good").graph.nodes] == ["only"]


@pytest.mark.parametrize(("table", "column", "value"), UNREADABLE)
@pytest.mark.usefixtures("trees")
def test_the_other_trees_run_and_the_other_triggers_fire(
    table: str, column: str, value: str, instance: DagsterInstance
) -> None:
    overdue = timezone.now() - dt.timedelta(minutes=5)
    ProcessTreeSchedule.objects.update(next_run=overdue)
    put(table, column, value)
    assert check_and_run_scheduled_tasks()["good"]["success"]
    fired = OutboxRun.objects.filter(process_tree__name="good").values_list("tags", flat=True)
    assert "good_trigger" in {each[run_tags.TRIGGER] for each in fired}
    assert ProcessTreeManager.execute_tree("good")["success"]


@pytest.mark.parametrize(("table", "column", "value"), UNREADABLE)
@pytest.mark.usefixtures("trees")
def test_the_list_shows_the_other_trees_and_says_what_is_wrong_with_this_one(
    table: str, column: str, value: str, instance: DagsterInstance
) -> None:
    put(table, column, value)
    output = StringIO()
    call_command("proctree", "list", stdout=output)
    lines = output.getvalue().splitlines()
    assert any(line.startswith("good\tevery hour") for line in lines)
    assert any(line.startswith("bad\t") for line in lines)
    if column == "next_run":
        assert "can't be read: ValueError" in output.getvalue()
    if value == NO_NUMBER:
        assert any("bad" in user for each in broken_rows.findings() for user in each.users)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("run_id", "no id"),
        ("leased_until", NO_DAY),
        ("context", NO_NUMBER),
        ("after", "[1]"),
        ("after", "5"),
        ("tags", "[]"),
        ("tags", '{"a": 1}'),
    ],
)
@pytest.mark.usefixtures("trees")
def test_a_row_of_the_outbox_that_makes_no_sense_keeps_no_other_from_its_run(
    column: str, value: str, instance: DagsterInstance
) -> None:
    bad = run_outbox.add(ProcessTree.objects.get(name="bad"), {}, {})
    good = run_outbox.add(ProcessTree.objects.get(name="good"), {}, {})
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE proctree_dagster_outboxrun SET {column} = %s WHERE id = %s", [value, bad.pk]
        )
    with build_sensor_context(instance=instance) as context:
        outbox_sensor.outbox_sensor().evaluate_tick(context)
    good.refresh_from_db()
    assert good.state == "delivered"
    state = OutboxRun.objects.filter(pk=bad.pk).values_list("state", flat=True).get()
    assert state == "waiting"


@pytest.mark.usefixtures("trees")
def test_a_worker_whose_row_can_not_be_read_keeps_no_run_from_being_made(
    instance: DagsterInstance,
) -> None:
    now = timezone.now()
    RunWorker.objects.create(run_id="a run", taken_at=now, beat_at=now)
    good = run_outbox.add(ProcessTree.objects.get(name="good"), {}, {})
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_runworker SET beat_at = %s", [NO_DAY])
    with build_sensor_context(instance=instance) as context:
        outbox_sensor.outbox_sensor().evaluate_tick(context)
    good.refresh_from_db()
    assert good.state == "delivered"


@pytest.mark.usefixtures("trees")
def test_when_lost_runs_can_not_be_ended_the_outbox_is_delivered_and_the_tick_says_so(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(instance: DagsterInstance) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(lost_runs, "settle", fails)
    good = run_outbox.add(ProcessTree.objects.get(name="good"), {}, {})
    with build_sensor_context(instance=instance) as context:
        tick = outbox_sensor.outbox_sensor().evaluate_tick(context)
    good.refresh_from_db()
    assert good.state == "delivered"
    assert "Lost runs can't be ended: RuntimeError: no" in str(tick.skip_message)


@pytest.mark.usefixtures("trees")
def test_a_follower_whose_row_can_not_be_read_does_not_fail_what_it_follows(
    instance: DagsterInstance,
) -> None:
    tree = ProcessTreeInstance("first").add_process("only", func=processes.echo)
    tree.add_dependent_tree("bad").add_dependent_tree("good")
    tree.save()
    put("processtree", "processes", NO_NUMBER)
    results = ProcessTreeManager.execute_tree("first")
    assert results["success"]
    assert {each.name for each in tree_runs.followers_of(results["run_id"])} == {"bad", "good"}
    rows = OutboxRun.objects.values_list("process_tree__name", "state")
    assert dict(rows)["good"] == "delivered"
