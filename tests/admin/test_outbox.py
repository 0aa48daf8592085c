"""The outbox in Django's admin: what waits, since when, and what it means to delete it."""

import datetime as dt
import uuid
from typing import Any

import pytest
from django.test import Client
from django.utils import formats, timezone

from proctree_dagster.models import OutboxRun, OutboxState
from proctree_dagster.services import run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, act, staff, text_of
from tests.app import processes

pytestmark = pytest.mark.django_db

LIST = f"{ADMIN}/outboxrun/"


def waiting(**fields: Any) -> OutboxRun:
    tree = ProcessTreeInstance("t", overwrite=True).add_process("only", func=processes.one).save()
    tags = {"user": "ada", "proctree/triggered_by": "admin"}
    row = run_outbox.add(tree, {"argument": 1, "password": "sesame"}, tags)
    fields = {"state": OutboxState.WAITING, "reason": "", **fields}
    OutboxRun.objects.filter(pk=row.pk).update(**fields)
    row.refresh_from_db()
    return row


def test_the_list_and_the_page_say_who_asked_since_when_and_why_it_waits(
    admin_client: Client,
) -> None:
    row = waiting(reason="Dagster's storage can't be reached.", after=[str(uuid.uuid4())])
    for page in (LIST, f"{LIST}{row.pk}/change/"):
        answer = admin_client.get(page)
        text = text_of(answer)
        for said in ("ada", "waiting", "(0\xa0minutes)", "Dagster's storage can't be reached."):
            assert said.replace("\xa0", " ") in text.replace("\xa0", " ")
        content = answer.content.decode()
        assert f'href="{ADMIN}/run/{row.run_id}/change/"' in content
        assert f'href="{ADMIN}/processtree/{row.process_tree_id}/change/"' in content
        assert "sesame" not in content
    assert '"password": "(hidden)"' in text


def test_a_run_is_found_by_its_tree_and_by_a_part_of_its_id(admin_client: Client) -> None:
    row = waiting()
    for asked, count in [("t", 1), (str(row.run_id), 1), (str(row.run_id)[:8], 1), ("zzz", 0)]:
        answer = admin_client.get(LIST, {"q": asked})
        assert len(answer.context["cl"].result_list) == count


def test_to_delete_one_that_waits_is_to_withdraw_it_and_the_page_says_so_before() -> None:
    row, client = waiting(), staff("view_outboxrun", "delete_outboxrun")
    said = "To delete a run that waits is to withdraw it"
    assert said in text_of(client.get(f"{LIST}{row.pk}/delete/"))
    assert said in act(client, "outboxrun", "delete_selected", row.pk)
    answer = client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}, follow=True)
    assert "1 run was withdrawn: Dagster does not get it." in text_of(answer)
    assert not OutboxRun.objects.exists()


def test_to_delete_one_that_dagster_has_or_is_given_cancels_nothing() -> None:
    rows = [
        waiting(state=OutboxState.DELIVERED),
        waiting(leased_until=timezone.now()),
        waiting(state=OutboxState.STARTED),
        waiting(),
    ]
    data = {"action": "delete_selected", "post": "yes", "_selected_action": [r.pk for r in rows]}
    client = staff("view_outboxrun", "delete_outboxrun")
    text = text_of(client.post(LIST, data, follow=True))
    assert "1 run was withdrawn: Dagster does not get it." in text
    assert "2 runs were handed to Dagster before: cancel them on their own pages." in text
    assert not OutboxRun.objects.exists()


def test_who_may_only_view_it_withdraws_nothing() -> None:
    row, client = waiting(), staff("view_outboxrun")
    assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    act(client, "outboxrun", "delete_selected", row.pk)
    assert OutboxRun.objects.exists()


@pytest.mark.parametrize("written", [5, [1], "x", {}])
def test_what_sql_has_put_there_breaks_no_page(admin_client: Client, written: Any) -> None:
    row = waiting(tags=written, after=written, context=written)
    for page in (LIST, f"{LIST}{row.pk}/change/"):
        assert admin_client.get(page).status_code == 200


def test_pages_say_before_when_a_run_is_not_made_and_behind_which_it_waits(
    admin_client: Client,
) -> None:
    first, later = waiting(key="k"), timezone.now() + dt.timedelta(hours=2)
    second, third = waiting(key="k"), waiting(run_after=later)
    of_runs = f"{ADMIN}/run/"
    for row, said in [
        (second, f"Behind run {first.run_id}, which has the same key 'k'."),
        (third, f"Not before {formats.date_format(timezone.localtime(later), 'DATETIME_FORMAT')}."),
    ]:
        for page in (LIST, f"{LIST}{row.pk}/change/", of_runs, f"{of_runs}{row.run_id}/change/"):
            assert said in text_of(admin_client.get(page)), page
