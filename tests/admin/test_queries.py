"""A list costs as many queries for five rows as for five hundred."""

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from proctree_dagster.domain import run_tags
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from tests.admin.people import ADMIN, browser

pytestmark = pytest.mark.django_db

LISTS = (
    *("processtree/", "processtreeschedule/", "trigger/", "outboxrun/", "overview/", "run/"),
    "processtreeschedule/?q=t1&overdue=no&held_back=nothing&rule=interval",
    "outboxrun/?q=t1&state__exact=waiting",
)


def add_rows(numbers: range) -> None:
    """Add a tree of each number, with a schedule, a trigger, and a run that waits."""
    processes = [{"name": "one", "func": "tests.app.processes:one", "dependencies": []}]
    trees = ProcessTree.objects.bulk_create(
        ProcessTree(name=f"t{number}", processes=processes) for number in numbers
    )
    ProcessTreeSchedule.objects.bulk_create(
        ProcessTreeSchedule(process_tree=tree, last_run_id=f"run {tree.pk}") for tree in trees
    )
    triggers = Trigger.objects.bulk_create(
        Trigger(name=tree.name, trigger_type="event") for tree in trees
    )
    TriggerSubscription.objects.bulk_create(
        TriggerSubscription(process_tree=tree, trigger=trigger)
        for tree, trigger in zip(trees, triggers, strict=True)
    )
    OutboxRun.objects.bulk_create(
        OutboxRun(process_tree=tree, tags={run_tags.TRIGGER: tree.name}) for tree in trees
    )


def test_a_list_costs_as_many_queries_for_five_rows_as_for_five_hundred() -> None:
    client = browser(User.objects.create_superuser("superuser"))

    def queries() -> dict[str, int]:
        found = {}
        for each in LISTS:
            with CaptureQueriesContext(connection) as captured:
                assert client.get(f"{ADMIN}/{each}").status_code == 200
            found[each] = len(captured)
        return found

    add_rows(range(5))
    queries()  # what is asked once a process is not counted
    few = queries()
    add_rows(range(5, 500))
    assert queries() == few
