"""What somebody else saves while a page is open stays, unless it was edited on the page, too."""

import datetime as dt
import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django.utils.datastructures import MultiValueDict

from proctree_dagster.models import (
    LinkKind,
    Pause,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, browser, user
from tests.admin.sent import fields, pairs
from tests.app import processes

pytestmark = pytest.mark.django_db

Sent = MultiValueDict[str, str]
REPLACES = "Somebody else has changed this since the page was opened."
STAYS = "and it stays so"


@pytest.fixture
def books() -> ProcessTree:
    """A tree with a schedule, a trigger, and one that follows it."""
    for name in ("report", "books"):
        tree = ProcessTreeInstance(name).add_process("only", func=processes.noted)
        tree.save()
    tree.register_schedule(cron="0 9 * * *", timezone="UTC", context={"year": 2026})
    tree.create_trigger("paid", "event")
    tree.subscribe_to_trigger("paid", context={"year": 1})
    tree.add_dependent_tree("report").save()
    return ProcessTree.objects.get(name="books")


def opened(client: Client, row: Any) -> tuple[str, Sent]:
    """Return the address of a row's page, and what a browser sends of it as it is."""
    url = f"{ADMIN}/{row._meta.model_name}/{row.pk}/change/"
    return url, fields(client.get(url).content.decode())


def saved(client: Client, page: tuple[str, Sent], **edits: str | None) -> str:
    """Save a page with some fields edited; return what the next page says."""
    url, sent = page
    for name, value in edits.items():
        name = name.replace("__", "-")
        if value is None:
            sent.pop(name, None)
        else:
            assert name in sent, name
            sent[name] = value
    return client.post(url, {**pairs(sent), "_continue": "1"}, follow=True).content.decode()


def test_a_schedule_that_was_disabled_stays_so_when_the_trees_page_is_saved(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, books)
    ProcessTreeSchedule.objects.update(enabled=False, context={"year": 2027})
    text = saved(admin_client, page, description="Monthly.")
    assert ProcessTree.objects.get(name="books").description == "Monthly."
    schedule = ProcessTreeSchedule.objects.get()
    assert (schedule.enabled, schedule.context) == (False, {"year": 2027})
    assert STAYS in text
    assert "Enabled, Context" in text


def test_what_was_edited_on_both_sides_is_asked_and_replaced_when_it_is_saved_again(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, ProcessTreeSchedule.objects.get())
    ProcessTreeSchedule.objects.update(context={"year": 2027}, enabled=False)
    text = saved(admin_client, page, context='{"year": 2028}')
    assert REPLACES in text
    assert ProcessTreeSchedule.objects.get().context == {"year": 2027}
    again = (page[0], fields(text))
    assert "2028" in again[1]["context"]
    saved(admin_client, again)
    schedule = ProcessTreeSchedule.objects.get()
    assert (schedule.context, schedule.enabled) == ({"year": 2028}, False)


def test_the_same_edit_on_both_sides_is_no_conflict(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, books)
    ProcessTree.objects.update(description="Monthly.")
    assert REPLACES not in saved(admin_client, page, description="Monthly.")


def test_another_cron_stays_if_only_something_else_was_edited(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, ProcessTreeSchedule.objects.get())
    assert page[1]["rule_kind"] == "cron"
    other = opened(admin_client, ProcessTreeSchedule.objects.get())
    saved(admin_client, other, cron="0 11 * * *")
    text = saved(admin_client, page, tags='{"team": "north"}')
    schedule = ProcessTreeSchedule.objects.get()
    assert (schedule.cron, schedule.tags) == ("0 11 * * *", {"team": "north"})
    assert STAYS in text


def test_json_that_stays_is_not_checked_as_if_the_user_had_edited_it(books: ProcessTree) -> None:
    client = browser(user("clerk", ["change_processtreeschedule", "run_processtree"]))
    page = opened(client, ProcessTreeSchedule.objects.get())
    function = {"function": "tests.app.processes:no_contexts"}
    ProcessTreeSchedule.objects.update(for_each=function, context={"$date": "never"})
    saved(client, page, enabled=None)
    schedule = ProcessTreeSchedule.objects.get()
    assert (schedule.enabled, schedule.for_each) == (False, function)
    assert schedule.context == {"$date": "never"}
    assert LogEntry.objects.get().get_change_message() == "Changed Enabled."


def test_a_rule_is_one_thing(books: ProcessTree, admin_client: Client) -> None:
    page = opened(admin_client, ProcessTreeSchedule.objects.get())
    other = opened(admin_client, ProcessTreeSchedule.objects.get())
    saved(admin_client, other, rule_kind="interval", interval_minutes="30")
    text = saved(admin_client, page, cron="0 10 * * *")
    assert REPLACES in text
    assert ProcessTreeSchedule.objects.get().interval_minutes == 30
    third = opened(admin_client, ProcessTreeSchedule.objects.get())
    other = opened(admin_client, ProcessTreeSchedule.objects.get())
    saved(admin_client, other, rule_kind="cron", cron="0 11 * * *")
    saved(admin_client, third, tags='{"team": "north"}')
    schedule = ProcessTreeSchedule.objects.get()
    assert (schedule.cron, schedule.tags) == ("0 11 * * *", {"team": "north"})


def test_a_triggers_page_lets_stay_what_others_have_saved(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, Trigger.objects.get())
    Trigger.objects.update(enabled=False)
    TriggerSubscription.objects.update(enabled=False, context={"year": 7})
    text = saved(admin_client, page, description="An invoice was paid.")
    trigger, subscription = Trigger.objects.get(), TriggerSubscription.objects.get()
    assert (trigger.description, trigger.enabled) == ("An invoice was paid.", False)
    assert (subscription.context, subscription.enabled) == ({"year": 7}, False)
    assert text.count(STAYS) == 2


def test_a_follower_that_was_changed_stays_so(books: ProcessTree, admin_client: Client) -> None:
    page = opened(admin_client, books)
    TreeLink.objects.update(kind=LinkKind.SIBLING)
    text = saved(admin_client, page, description="Monthly.")
    assert TreeLink.objects.get().kind == LinkKind.SIBLING
    assert STAYS in text


def test_a_pause_that_was_ended_stays_so(books: ProcessTree, admin_client: Client) -> None:
    now = timezone.now().replace(microsecond=0)
    since = now - dt.timedelta(hours=1)
    pause = Pause.objects.create(
        process_tree=books, since=since, until=now + dt.timedelta(days=9), reason="audit"
    )
    page = opened(admin_client, pause)
    Pause.objects.update(until=now)
    text = saved(admin_client, page, reason="The audit of May.")
    pause.refresh_from_db()
    assert (pause.reason, pause.until) == ("The audit of May.", now)
    assert STAYS in text


def test_alerts_and_limits_of_a_tree_stay_as_others_have_saved_them(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, books)
    ProcessTree.objects.filter(pk=books.pk).update(
        alert_on=["failure"], alert_to=["a@example.org"], max_concurrent=3
    )
    saved(admin_client, page, description="Monthly.")
    row = ProcessTree.objects.get(name="books")
    assert (row.alert_on, row.alert_to, row.max_concurrent) == (["failure"], ["a@example.org"], 3)


def test_a_page_that_says_nothing_of_what_it_showed_is_saved_as_it_was_sent(
    books: ProcessTree, admin_client: Client
) -> None:
    for shown in (None, "{", "[]"):
        page = opened(admin_client, ProcessTreeSchedule.objects.get())
        ProcessTreeSchedule.objects.update(enabled=False)
        saved(admin_client, page, shown=shown)
        assert ProcessTreeSchedule.objects.get().enabled


def test_what_no_page_of_ours_has_shown_is_asked(books: ProcessTree, admin_client: Client) -> None:
    odd = {"enabled": [1], "start_date": 5, "context": 5, "name": {}, "not_after_minutes": 1e400}
    page = opened(admin_client, ProcessTreeSchedule.objects.get())
    ProcessTreeSchedule.objects.update(enabled=False)
    assert REPLACES in saved(admin_client, page, shown=json.dumps(odd))


def test_forms_of_schedules_are_saved_even_if_there_are_too_many_by_then(
    books: ProcessTree, admin_client: Client
) -> None:
    page = opened(admin_client, books)
    for number in range(20):
        ProcessTreeSchedule.objects.create(
            process_tree=books, name=f"more {number}", cron="0 9 * * *", interval_minutes=None
        )
    saved(admin_client, page, schedule__0__enabled=None)
    assert not ProcessTreeSchedule.objects.get(name="default").enabled
    page = opened(admin_client, books)
    assert not [name for name in page[1] if name.startswith("schedule-")]
    ProcessTreeSchedule.objects.filter(name="more 1").delete()
    saved(admin_client, page, description="Fewer.")
    assert ProcessTree.objects.get(name="books").description == "Fewer."
