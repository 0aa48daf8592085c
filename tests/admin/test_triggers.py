"""Triggers in Django's admin: who fires them, what that says and logs, and whom it started."""

import datetime as dt
import itertools
import json
import threading
import uuid
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from proctree_dagster import testing
from proctree_dagster.admin import triggers as pages
from proctree_dagster.domain import trigger_configurations
from proctree_dagster.models import OutboxRun, ProcessTree, Trigger, TriggerSubscription
from proctree_dagster.running import run_requests, tree_runs
from proctree_dagster.services import run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger, fire_row, fire_trigger
from tests.admin.people import ADMIN, act, press, shown, staff, text_of
from tests.admin.sent import fields
from tests.app import processes

pytestmark = pytest.mark.django_db

LIST = f"{ADMIN}/trigger/"
FIRES = ("view_trigger", "fire_trigger")


def subscribed(*names: str, trigger: str = "bell", func: Any = processes.one) -> Trigger:
    """Return a trigger to which trees of these names subscribe."""
    row = create_trigger(trigger, "event")
    for name in names:
        tree = ProcessTreeInstance(name, overwrite=True).add_process("only", func=func)
        tree.save()
        tree.subscribe_to_trigger(row)
    return row


def page_of(trigger: Trigger) -> str:
    return f"{LIST}{trigger.pk}/change/"


# --- Firing ---------------------------------------------------------------------------------------


def test_a_fire_is_in_the_log_and_its_runs_name_who_fired() -> None:
    trigger = subscribed("a", "b")
    text = act(staff(*FIRES), "trigger", "fire", trigger.pk)
    runs = testing.fired("bell")
    listed = ", ".join(f"{run.tree} ({run.run_id})" for run in runs)
    assert f"Fired bell. Runs: {listed}" in text
    assert {run.tags["user"] for run in runs} == {"clerk"}
    [logged] = LogEntry.objects.all()
    assert (logged.user.get_username(), logged.object_repr) == ("clerk", "bell")
    assert logged.get_change_message() == f"Fired. Runs: {listed}"


def test_the_second_of_two_clicks_fires_nothing() -> None:
    trigger, client = subscribed("a", "b"), staff(*FIRES)
    button = fields(client.get(page_of(trigger)).content.decode())
    posted = {"action": "fire", "token": button["token"]}
    for _ in range(2):
        answer = client.post(f"{LIST}{trigger.pk}/action/", posted, follow=True)
    assert "Not fired: bell was fired already, by the same click." in text_of(answer)
    chosen = fields(client.get(LIST).content.decode())
    listed = {"action": "fire", "_selected_action": trigger.pk, "token": chosen["token"]}
    for _ in range(2):
        client.post(LIST, listed)
    assert len(testing.fired("bell")) == 4
    assert Trigger.objects.get().fire_count == 2


def test_of_two_clicks_at_once_the_second_starts_no_run() -> None:
    trigger = subscribed("a")
    run_ids = {TriggerSubscription.objects.get().process_tree_id: uuid.uuid4()}
    runs = [fire_row(trigger, {}, {}, wait=False, run_ids=run_ids) for _ in range(2)]
    assert runs[0] == runs[1]
    assert OutboxRun.objects.count() == 1


def test_a_fire_writes_its_runs_in_the_request_and_a_thread_delivers_them(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    delivered: list[tuple[bool, list[str]]] = []

    def deliver(run_ids: Any) -> None:
        is_here = threading.current_thread() is threading.main_thread()
        delivered.append((is_here, list(run_ids)))

    monkeypatch.setattr(tree_runs, "deliver", deliver)
    monkeypatch.setattr(run_requests, "is_bound_to_thread", lambda: False)
    monkeypatch.setattr("proctree_dagster.support.isolation.is_active", lambda: False)
    started: list[threading.Thread | None] = []
    deliver_soon = run_requests.deliver_soon
    monkeypatch.setattr(
        run_requests, "deliver_soon", lambda run_ids: started.append(deliver_soon(run_ids))
    )
    trigger, client = subscribed("a"), staff(*FIRES)
    with django_capture_on_commit_callbacks(execute=True):
        act(client, "trigger", "fire", trigger.pk)
        assert OutboxRun.objects.count() == 1
    [thread] = started
    assert thread is not None
    thread.join()
    assert delivered == [(False, [str(OutboxRun.objects.get().run_id)])]


def test_a_trigger_that_is_disabled_while_it_is_fired_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trigger, client = subscribed("a"), staff(*FIRES)
    fire = pages.TriggerAdmin._fire

    def meanwhile(page: Any, *args: Any) -> None:
        Trigger.objects.update(enabled=False)
        fire(page, *args)

    monkeypatch.setattr(pages.TriggerAdmin, "_fire", meanwhile)
    text = act(client, "trigger", "fire", trigger.pk)
    assert "Not fired: bell was disabled or deleted meanwhile." in text
    assert not LogEntry.objects.exists()


def test_a_permission_to_fire_suffices_for_trees_that_the_user_may_not_run() -> None:
    """Who let them subscribe had to be allowed to run them."""
    trigger = subscribed("a")
    answer = press(staff(*FIRES), "trigger", trigger.pk, "fire")
    assert [run.tree for run in testing.fired()] == ["a"]
    assert answer.redirect_chain == [(page_of(trigger), 302)]


def test_a_permission_for_one_trigger_lets_one_fire_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = subscribed("a", trigger="mine"), subscribed("b", trigger="other")
    client = staff("view_trigger")
    backend = f"{__name__}.FiresMine"
    backends = [*django_settings.AUTHENTICATION_BACKENDS, backend]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(django_settings, "AUTHENTICATION_BACKENDS", backends)
        assert "fire" in client.get(page_of(mine)).context["pt_buttons"]
        assert not client.get(page_of(other)).context["pt_buttons"]
        assert press(client, "trigger", mine.pk, "fire").status_code == 200
        assert press(client, "trigger", other.pk, "fire").status_code == 403
    assert [run.trigger for run in testing.fired()] == ["mine"]


class FiresMine:
    """A backend that lets everybody fire the trigger ``mine``, and knows nothing else."""

    def has_perm(self, user: Any, perm: str, obj: Any = None) -> bool:
        return perm == "proctree_dagster.fire_trigger" and getattr(obj, "name", "") == "mine"


# --- Switching ------------------------------------------------------------------------------------


def test_triggers_are_switched_by_who_may_change_and_fire_them() -> None:
    trigger, other = subscribed("a"), create_trigger("off", "event", enabled=False)
    client = staff("change_trigger", *FIRES)
    text = act(client, "trigger", "disable", trigger.pk, other.pk)
    assert "Disabled: bell. Processes that wait for it are skipped." in text
    assert "Not disabled: off. It is disabled already." in text
    text = text_of(press(client, "trigger", trigger.pk, "enable"))
    assert "Enabled: bell." in text
    assert Trigger.objects.get(name="bell").enabled
    logged = [each.get_change_message() for each in LogEntry.objects.order_by("pk")]
    assert logged == ["Disabled.", "Enabled."]


@pytest.mark.parametrize("codename", ["change_trigger", "fire_trigger"])
def test_one_of_the_two_permissions_switches_nothing(codename: str) -> None:
    trigger, client = subscribed("a"), staff("view_trigger", codename)
    act(client, "trigger", "disable", trigger.pk)
    assert press(client, "trigger", trigger.pk, "disable").status_code == 403
    assert Trigger.objects.get().enabled


def test_arming_again_is_logged() -> None:
    trigger = subscribed("a")
    fire_trigger(trigger)
    client = staff(*FIRES)
    assert list(client.get(page_of(trigger)).context["pt_buttons"]) == ["fire", "reset"]
    assert "Armed bell again." in text_of(press(client, "trigger", trigger.pk, "reset"))
    assert LogEntry.objects.get().get_change_message() == "Armed again."
    assert list(client.get(page_of(trigger)).context["pt_buttons"]) == ["fire"]


# --- Its page -------------------------------------------------------------------------------------


def test_a_page_lists_the_last_fires_and_whom_they_started(admin_client: Client) -> None:
    trigger = subscribed("a", "b")
    for user in ("ada", "bob"):
        fire_trigger(trigger, tags={"user": user})
    fire_trigger(trigger)
    first = OutboxRun.objects.order_by("pk").first()
    assert first is not None
    follower = ProcessTree.objects.get(name="b")
    run_outbox.add(follower, {}, {"proctree/family": str(first.run_id)}, [str(first.run_id)])
    fires = pages.last_fires(trigger)
    assert [(each.by, [run.process_tree.name for run in each.runs]) for each in fires] == [
        ("ada", ["a", "b"]),
        ("bob", ["a", "b"]),
        ("", ["a", "b"]),
    ]
    answer = admin_client.get(page_of(trigger))
    text = text_of(answer)
    assert text.index("a poll") < text.index(" bob ") < text.index(" ada ")
    link = f'<a href="{ADMIN}/run/{first.run_id}/change/">{str(first.run_id)[:8]}</a>'
    assert link in answer.content.decode()
    assert text.count("it is recorded here, and not run") == 7


def test_fires_at_different_times_are_different_fires_whoever_subscribes() -> None:
    trigger = subscribed("a", "b")
    TriggerSubscription.objects.filter(process_tree__name="b").update(enabled=False)
    fire_trigger(trigger)
    OutboxRun.objects.update(created_at=timezone.now() - dt.timedelta(minutes=5))
    TriggerSubscription.objects.update(enabled=False)
    TriggerSubscription.objects.filter(process_tree__name="b").update(enabled=True)
    fire_trigger(trigger)
    assert [len(each.runs) for each in pages.last_fires(trigger)] == [1, 1]


def test_a_page_costs_as_many_queries_for_many_fires_and_subscribers(admin_client: Client) -> None:
    def queries(trigger: Trigger) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert admin_client.get(page_of(trigger)).status_code == 200
        return len(captured)

    few = subscribed("a", "b", trigger="few")
    fire_trigger(few)
    many = subscribed(*(f"t{number}" for number in range(12)), trigger="many")
    for _ in range(4):
        fire_trigger(many)
    queries(few)  # what is cached once is not counted
    assert queries(few) == queries(many)


def test_each_type_has_examples_that_are_valid(admin_client: Client) -> None:
    for kind, found in pages.EXAMPLES.items():
        for _said, configuration in found:
            assert trigger_configurations.problems(str(kind), configuration) == []
    assert set(pages.EXAMPLES) == set(trigger_configurations.TYPES)
    text = text_of(admin_client.get(f"{LIST}add/"))
    for _said, configuration in itertools.chain.from_iterable(pages.EXAMPLES.values()):
        assert json.dumps(configuration) in text


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ('{"cron": "0 9 * *"}', "A cron has five fields"),
        ('{"cron": }', "Enter a valid JSON: line 1, column 10: Expecting value."),
    ],
)
def test_a_configuration_that_is_wrong_has_one_error(
    admin_client: Client, configuration: str, problem: str
) -> None:
    page = f"{LIST}add/"
    typed = {"name": "t", "trigger_type": "schedule", "configuration": configuration}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    [told] = answer.context["adminform"].form.errors["configuration"]
    assert problem in told


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ('{"argument": }', "Enter a valid JSON: line 1, column 14"),
        ('{"argument": {"$model": "app.Organisation", "pk": 77}}', "primary key 77 any more"),
        ('{"argumant": 1}', "No function of the tree takes 'argumant'"),
    ],
)
def test_a_subscription_s_context_is_checked(
    admin_client: Client, context: str, problem: str
) -> None:
    trigger = subscribed("a", func=processes.needs)
    page = page_of(trigger)
    data = {**shown(admin_client, page), "subscriptions-0-context": context}
    answer = admin_client.post(page, data)
    [inline] = answer.context["inline_admin_formsets"]
    [told] = inline.formset.forms[0].errors["context"]
    assert problem in told


def test_a_subscription_needs_no_key_that_the_fire_may_give(admin_client: Client) -> None:
    trigger = subscribed("a", func=processes.needs)
    page = page_of(trigger)
    data = {**shown(admin_client, page), "subscriptions-0-tags": '{"team": "books"}'}
    assert admin_client.post(page, data).status_code == 302
    assert TriggerSubscription.objects.get().tags == {"team": "books"}
