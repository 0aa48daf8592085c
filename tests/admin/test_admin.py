"""Trees and schedules in Django's admin."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, Run
from proctree_dagster.services import run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db


def form(processes_field: Any, **schedule: Any) -> dict[str, Any]:
    """Return what the tree's page posts."""
    total = 1 if schedule else 0
    data = {
        "name": "from the admin",
        "description": "",
        "cache_enabled": "on",
        "processes": json.dumps(processes_field),
        "schedule-TOTAL_FORMS": total,
        "schedule-INITIAL_FORMS": 0,
        "links_out-TOTAL_FORMS": 0,
        "links_out-INITIAL_FORMS": 0,
    }
    return {**data, **{f"schedule-0-{key}": value for key, value in schedule.items()}}


def test_a_tree_and_its_schedule_are_added(admin_client: Client) -> None:
    answer = admin_client.post(
        "/admin/proctree_dagster/processtree/add/",
        form(
            [{"name": "one", "func": "tests.app.processes:one"}],
            enabled="on",
            interval_minutes=30,
            start_time="09:00:17",
            timezone="Europe/London",
            context='{"a": 1}',
        ),
    )
    assert answer.status_code == 302, answer.content.decode()[-3000:]
    schedule = ProcessTreeSchedule.objects.get()
    assert schedule.process_tree.job_name.startswith("from_the_admin_")
    assert schedule.next_run is not None
    assert schedule.next_run.second == 0


def test_problems_of_a_tree_are_shown_all_and_nothing_is_saved(admin_client: Client) -> None:
    answer = admin_client.post(
        "/admin/proctree_dagster/processtree/add/",
        form([{"name": "a", "func": "os:system", "dependencies": ["b"]}]),
    )
    text = answer.content.decode()
    assert "&#x27;os:system&#x27; is not allowed" in text
    assert "depends on &#x27;b&#x27;" in text
    assert not ProcessTree.objects.exists()


@pytest.mark.parametrize("page", ["processtree", "processtreeschedule"])
def test_its_pages_open(admin_client: Client, page: str) -> None:
    tree = ProcessTreeInstance("open").add_process("one", func=processes.one)
    row = tree.save()
    schedule = tree.register_schedule()
    key = row.pk if page == "processtree" else schedule.pk
    for path in ["", "add/", f"{key}/change/"]:
        answer = admin_client.get(f"/admin/proctree_dagster/{page}/{path}")
        assert answer.status_code == 200


def test_a_page_that_was_open_while_a_due_time_was_run_does_not_ask_for_it_again(
    admin_client: Client,
) -> None:
    tree = ProcessTreeInstance("open").add_process("one", func=processes.one)
    tree.save()
    schedule = tree.register_schedule()
    page = f"/admin/proctree_dagster/processtreeschedule/{schedule.pk}/change/"
    shown = admin_client.get(page).context["adminform"].form.initial
    moved = schedule.due_after(schedule.next_run) if schedule.next_run else None
    ProcessTreeSchedule.objects.update(next_run=moved, last_run=schedule.next_run)
    shown = {key: value for key, value in shown.items() if value is not None}
    answer = admin_client.post(page, {**shown, "context": "{}"})
    assert answer.status_code == 302
    assert ProcessTreeSchedule.objects.get().next_run == moved


def test_the_outbox_is_shown_and_cannot_be_written_to(admin_client: Client) -> None:
    tree = ProcessTreeInstance("open").add_process("one", func=processes.one).save()
    row = run_outbox.add(tree, {"a": 1}, {})
    for path, status in [("", 200), (f"{row.pk}/change/", 200), ("add/", 403)]:
        answer = admin_client.get(f"/admin/proctree_dagster/outboxrun/{path}")
        assert answer.status_code == status
    answer = admin_client.post(f"/admin/proctree_dagster/outboxrun/{row.pk}/change/", {})
    assert answer.status_code == 403


def test_each_rule_of_the_style_sheet_is_closed() -> None:
    style = finders.find("proctree_dagster/admin.css")
    text = re.sub(r"/\*.*?\*/", "", Path(str(style)).read_text(), flags=re.DOTALL)
    assert text.count("{") == text.count("}")


def test_what_reads_every_model_passes_by_those_without_a_table() -> None:
    for options in ({}, {"use_base_manager": True}):
        call_command("dumpdata", "proctree_dagster", stdout=StringIO(), **options)
    assert not Run.objects.exists()
