"""The tests of somebody's project: whatever they start, nothing reaches the real Dagster.

``tests/support/test_isolation.py`` runs them, by Django's test runner and by pytest, beside a real
instance and a webserver, and looks at these afterwards.
"""

import datetime as dt
from io import StringIO
from typing import Any
from urllib.request import urlopen

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from django.urls import reverse
from django.utils import timezone

from proctree_dagster import testing
from proctree_dagster.management.base import TreeCommand
from proctree_dagster.models import ProcessTreeSchedule, Trigger, TriggerType
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from proctree_dagster.triggers import (
    create_trigger,
    fire_trigger,
    poll_triggers,
    subscribe_tree_to_trigger,
)
from tests.app import processes


def always() -> bool:
    """Let a trigger fire."""
    return True


def fire_and_submit(**context: Any) -> int:
    """Ask for two runs from inside a run."""
    return len(fire_trigger("paid")) + len([ProcessTreeManager.submit_tree("report")])


def tree(
    name: str, func: Any = processes.echo, *, is_followed: bool = False
) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name).add_process("only", func=func)
    if is_followed:
        made.add_dependent_tree("report").add_sibling_tree("notify")
    made.save()
    return made


def set_up() -> None:
    tree("report")
    tree("notify")
    tree("close", is_followed=True)
    tree("spoilt", processes.fail, is_followed=True)
    tree("busy", fire_and_submit)
    tree("hourly").register_schedule(interval_minutes=60)
    due = timezone.now() - dt.timedelta(minutes=5)
    ProcessTreeSchedule.objects.update(next_run=due)
    create_trigger("paid", "event")
    create_trigger("always", "custom", {"function": "tests.beside.suite:always"})
    for trigger in ("paid", "always"):
        subscribe_tree_to_trigger("report", trigger)


class Close(TreeCommand):
    tree_name = "close"


def names(runs: list[testing.RecordedRun]) -> list[str]:
    return sorted(run.tree for run in runs)


class InATestCase(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        set_up()

    def test_a_fire_is_recorded(self) -> None:
        fire_trigger("paid", {"invoice": 7})
        [run] = testing.fired("paid")
        assert (run.tree, run.context) == ("report", {"invoice": 7})
        assert run.trigger == "paid"
        assert testing.fired("always") == []
        assert testing.submitted() == []

    def test_a_submission_is_recorded_and_after_a_rollback_it_is_not(self) -> None:
        asked = ProcessTreeManager.submit_tree("close", {"month": "2026-03"})
        with transaction.atomic():
            ProcessTreeManager.submit_tree("report")
            transaction.set_rollback(True)
        [run] = testing.submitted()
        assert (run.tree, run.run_id) == ("close", asked.run_id)
        assert (run.context, run.triggered_by) == ({"month": "2026-03"}, "python")

    def test_what_follows_is_recorded(self) -> None:
        assert ProcessTreeManager.execute_tree("close")["success"]
        assert names(testing.followed()) == ["notify", "report"]

    def test_what_follows_only_a_success_is_not_recorded_after_a_failure(self) -> None:
        assert not ProcessTreeManager.execute_tree("spoilt")["success"]
        assert names(testing.followed()) == ["notify"]

    def test_a_family_is_executed_here(self) -> None:
        for execute in (
            ProcessTreeManager.execute_with_dependents,
            ProcessTreeManager.execute_with_siblings,
        ):
            results = execute("close", {"month": "2026-03"})
            for each in results["followers"].values():
                assert each["results"] == {"only": {"month": "2026-03"}}
            assert results["followers"].keys() == {"notify", "report"}

    def test_commands(self) -> None:
        out = StringIO()
        call_command(Close(), submit=True, stdout=out)
        call_command(Close(), stdout=out)
        call_command("proctree", "list", stdout=out, stderr=out)
        call_command("proctree", "fire", "paid", stdout=out)
        assert "close" in out.getvalue()
        assert names(testing.submitted()) == ["close"]
        assert names(testing.fired()) == ["report"]

    def test_schedules_and_triggers_are_run_here(self) -> None:
        results = check_and_run_scheduled_tasks()
        assert results["hourly"]["success"]
        assert names(testing.fired("always")) == ["report"]
        Trigger.objects.filter(trigger_type=TriggerType.CUSTOM).update(
            state="reset", last_checked=None
        )
        poll_triggers()
        assert names(testing.fired("always")) == ["report", "report"]
        ProcessTreeInstance.load("report").create_task_function()()

    def test_what_a_process_asks_for_is_recorded(self) -> None:
        for run in (testing.run_tree, ProcessTreeManager.execute_tree):
            assert run("busy")["success"]
        assert names(testing.fired()) == ["report", "report"]
        assert names(testing.submitted()) == ["report", "report"]

    def test_the_admin(self) -> None:
        user = get_user_model().objects.create_superuser("boss", "boss@example.com", "boss")
        self.client.force_login(user)
        [key] = Trigger.objects.filter(name="paid").values_list("pk", flat=True)
        data = {"action": "fire", "_selected_action": [key]}
        address = reverse("admin:proctree_dagster_trigger_changelist")
        assert self.client.post(address, data).status_code == 302
        assert names(testing.fired("paid")) == ["report"]

    def test_a_saved_tree_asks_for_no_reload(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            tree("another")

    async def test_in_an_asynchronous_test(self) -> None:
        await sync_to_async(ProcessTreeManager.submit_tree)("close")
        await sync_to_async(fire_trigger)("paid")
        assert names(await sync_to_async(testing.submitted)()) == ["close"]
        assert names(await sync_to_async(testing.fired)()) == ["report"]


class InATransactionTestCase(TransactionTestCase):
    def setUp(self) -> None:
        set_up()

    def test_what_is_committed_is_recorded(self) -> None:
        with transaction.atomic():
            fire_trigger("paid")
            ProcessTreeManager.submit_tree("close")
        assert names(testing.fired()) == ["report"]
        assert names(testing.submitted()) == ["close"]

    def test_what_follows_is_recorded(self) -> None:
        assert ProcessTreeManager.execute_tree("close")["success"]
        assert names(testing.followed()) == ["notify", "report"]

    def test_schedules_are_run_here(self) -> None:
        assert check_and_run_scheduled_tasks()["hourly"]["success"]


class BesideALiveServer(LiveServerTestCase):
    def setUp(self) -> None:
        set_up()

    def test_what_a_request_asks_for_is_recorded(self) -> None:
        with urlopen(f"{self.live_server_url}/close/") as answer:
            run_id = answer.read().decode()
        [run] = testing.submitted()
        assert (run.tree, run.run_id) == ("close", run_id)
