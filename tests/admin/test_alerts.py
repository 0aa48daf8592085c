"""Alerts in the admin: what a tree's page says of them, and what was sent."""

import pytest
from django.test import Client
from django.utils import timezone

from proctree_dagster.models import Alert, AlertDelivery, ProcessTree
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, shown, text_of
from tests.app import processes

pytestmark = pytest.mark.django_db


def saved() -> ProcessTree:
    return ProcessTreeInstance("books").add_process("one", func=processes.one).save()


def test_kinds_are_ticked_and_recipients_are_lines(admin_client: Client) -> None:
    tree = saved()
    page = f"{ADMIN}/processtree/{tree.pk}/change/"
    form = {
        **shown(admin_client, page),
        "alert_on": ["late", "failure"],
        "alert_to": "ada@example.com\r\n\r\n bob@example.com ",
        "expected_minutes": "30",
    }
    answer = admin_client.post(page, form)
    assert answer.status_code == 302, answer.context["adminform"].errors
    tree.refresh_from_db()
    assert tree.alert_on == ["failure", "late"] or tree.alert_on == ["late", "failure"]
    assert tree.alert_to == ["ada@example.com", "bob@example.com"]
    assert tree.expected_minutes == 30
    again = shown(admin_client, page)
    assert again["alert_to"] == "ada@example.com\nbob@example.com"
    assert set(again["alert_on"]) == {"failure", "late"}


def test_a_recipient_that_is_none_is_refused_at_its_box(admin_client: Client) -> None:
    page = f"{ADMIN}/processtree/{saved().pk}/change/"
    answer = admin_client.post(page, {**shown(admin_client, page), "alert_to": "chat"})
    [error] = answer.context["adminform"].errors["alert_to"]
    assert "'chat' is neither a mail address nor a name" in error


def test_the_list_shows_what_could_not_be_delivered_and_why(admin_client: Client) -> None:
    now = timezone.now()
    alert = Alert.objects.create(
        kind="failure",
        process_tree=saved(),
        tree="books",
        recipient="chat",
        facts={"failures": {"one": "<b>no till</b>"}},
        state=AlertDelivery.GIVEN_UP,
        reason="HTTPError: 503",
        **dict.fromkeys(("first_at", "last_at", "planned_at", "not_before"), now),
    )
    text = text_of(admin_client.get(f"{ADMIN}/alert/"))
    for said in ("books failed", "chat", "given up", "HTTPError: 503"):
        assert said in text
    page = admin_client.get(f"{ADMIN}/alert/{alert.pk}/change/")
    assert "Process one: &lt;b&gt;no till&lt;/b&gt;" in page.content.decode()
