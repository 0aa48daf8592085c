"""Backfills in the admin: begun, watched, stopped and resumed by who may run the tree."""

import pytest
from django.test import Client

from proctree_dagster.models import Backfill, BackfillState, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin import people
from tests.app import processes

pytestmark = pytest.mark.django_db

PAGE = f"{people.ADMIN}/backfill/"

MAY = ("view_backfill", "add_backfill", "change_backfill", "view_processtreeschedule")


@pytest.fixture
def schedule() -> ProcessTreeSchedule:
    tree = ProcessTreeInstance("books").add_process("only", func=processes.echo)
    tree.save()
    return tree.register_schedule(cron="0 9 * * *", timezone="UTC")


def begin(
    client: Client, schedule: ProcessTreeSchedule, last: str = "2026-01-07", until: str = "12:00"
) -> str:
    """Fill in the form and send it; return the page that answers."""
    entered = {
        "schedule": schedule.pk,
        **{"first_0": "2026-01-05", "first_1": "00:00", "last_0": last, "last_1": until},
        "limit": 2,
    }
    return client.post(f"{PAGE}add/", entered, follow=True).content.decode()


def test_the_form_begins_one_and_its_page_says_how_far_it_is(schedule: ProcessTreeSchedule) -> None:
    client = people.staff(*MAY, "run_processtree")
    assert "was added successfully" in begin(client, schedule)
    row = Backfill.objects.get()
    assert (row.made_by, row.limit, row.state) == ("clerk", 2, BackfillState.RUNNING)
    page = client.get(f"{PAGE}{row.pk}/change/").content.decode()
    assert "0 requested, 0 of them unfinished; 0 left out" in page
    assert "3 to come" in page


def test_a_range_in_which_nothing_was_due_is_refused_and_says_why(
    schedule: ProcessTreeSchedule,
) -> None:
    client = people.staff(*MAY, "run_processtree")
    assert "Nothing was due from" in begin(client, schedule, last="2026-01-05", until="08:00")
    schedule.process_tree.schedules.update(for_each={"model": "app.Organisation"})
    assert "submit_tree()" in begin(client, schedule)
    assert "must not end before it begins" in begin(client, schedule, last="2026-01-01")
    assert not Backfill.objects.exists()


def test_it_is_stopped_and_resumed_by_its_buttons(schedule: ProcessTreeSchedule) -> None:
    client = people.staff(*MAY, "run_processtree")
    begin(client, schedule)
    row = Backfill.objects.get()
    for deed, state in (("stop", BackfillState.STOPPED), ("resume", BackfillState.RUNNING)):
        assert f'value="{deed}"' in client.get(f"{PAGE}{row.pk}/change/").content.decode()
        client.post(f"{PAGE}{row.pk}/action/", {"action": deed})
        row.refresh_from_db()
        assert row.state == state


def test_who_may_not_run_trees_may_begin_and_stop_none(schedule: ProcessTreeSchedule) -> None:
    begin(people.staff(*MAY, "run_processtree"), schedule)
    row = Backfill.objects.get()
    client = people.browser(people.user("watcher", MAY))
    assert client.get(f"{PAGE}add/").status_code == 403
    assert client.post(f"{PAGE}{row.pk}/action/", {"action": "stop"}).status_code == 403
    row.refresh_from_db()
    assert row.state == BackfillState.RUNNING
