"""Pauses in the admin: made, shown wherever a schedule is, and ended."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from proctree_dagster.models import Pause, ProcessTreeSchedule
from proctree_dagster.services import pauses
from tests.admin.people import ADMIN, act, press, shown, staff, text_of
from tests.tools.schedules import register

pytestmark = pytest.mark.django_db

LIST = f"{ADMIN}/pause/"
MAY = ("view_pause", "add_pause", "change_pause", "delete_pause")


@pytest.fixture
def schedule() -> ProcessTreeSchedule:
    return register()


def typed(client: Client, **values: Any) -> dict[str, Any]:
    moment = {"since_0": "2026-06-10", "since_1": "09:00:00"}
    return {**shown(client, f"{LIST}add/"), **moment, "reason": "migrating", **values}


def test_a_pause_is_made_with_the_name_of_its_maker_and_held_by_its_tree(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    data = typed(admin_client, schedule=schedule.pk, drop="on")
    assert admin_client.post(f"{LIST}add/", data).status_code == 302
    made = Pause.objects.get()
    assert (made.schedule, made.process_tree) == (schedule, schedule.process_tree)
    assert (made.made_by, made.drop, made.until) == ("admin", True, None)


def test_a_pause_is_shown_wherever_its_schedule_is(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    pauses.begin(None, reason="<b>migrating</b>")
    ProcessTreeSchedule.objects.update(dropped_why="The due time 07:00 was dropped: late.")
    for page in (
        f"{ADMIN}/processtreeschedule/",
        f"{ADMIN}/processtreeschedule/{schedule.pk}/change/",
        f"{ADMIN}/processtree/{schedule.process_tree_id}/change/",
        f"{ADMIN}/overview/",
    ):
        answer = admin_client.get(page)
        assert "paused until somebody ends it: <b>migrating</b>" in text_of(answer), page
        assert "<b>migrating</b>" not in answer.content.decode(), page
    assert "a pause" in text_of(admin_client.get(f"{ADMIN}/processtree/"))
    assert "was dropped: late" in text_of(admin_client.get(f"{ADMIN}/processtreeschedule/"))


def test_a_pause_is_ended_by_its_button_and_by_the_action_and_logged(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    first, second = (pauses.begin(None, reason=name) for name in ("first", "second"))
    assert "Resumed: everything." in text_of(press(admin_client, "pause", first.pk, "resume"))
    assert "Resumed: everything." in act(admin_client, "pause", "resume", second.pk)
    assert "It is over already." in act(admin_client, "pause", "resume", second.pk)
    assert not Pause.objects.active(timezone.now()).exists()
    assert LogEntry.objects.filter(change_message="Resumed.").count() == 2


def test_who_may_not_run_trees_neither_holds_nor_releases_them(
    schedule: ProcessTreeSchedule,
) -> None:
    made = pauses.begin(schedule, reason="x")
    client = staff(*MAY, "view_processtree", "view_processtreeschedule")
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}{made.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{LIST}{made.pk}/action/", {"action": "resume"}).status_code == 403
    assert Pause.objects.active(timezone.now()).exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reason": ""}, "This field is required."),
        ({"until_0": "2020-01-01", "until_1": "00:00"}, "It must end after it begins."),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(
    admin_client: Client, values: dict[str, Any], said: str
) -> None:
    answer = admin_client.post(f"{LIST}add/", typed(admin_client, **values))
    assert said in text_of(answer)
    assert not Pause.objects.exists()


def test_a_schedule_of_another_tree_is_refused(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    other = register().process_tree_id
    answer = admin_client.post(
        f"{LIST}add/", typed(admin_client, schedule=schedule.pk, process_tree=other)
    )
    assert "It is a schedule of another process tree." in text_of(answer)


def test_the_resumption_of_a_pause_to_come_leads_to_the_list(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    begin = timezone.now() + dt.timedelta(days=1)
    pause = Pause.objects.create(schedule=schedule, since=begin)
    url = f"{ADMIN}/pause/{pause.pk}/action/"
    answer = admin_client.post(url, {"action": "resume"}, follow=True)
    assert answer.redirect_chain == [(f"{ADMIN}/pause/", 302)]
    text = text_of(answer)
    assert "Resumed" in text
    assert "Perhaps it was deleted" not in text
