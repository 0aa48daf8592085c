"""Who may do what in the admin: to change, to run, to fire and to name functions are apart."""

import html
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.contrib import admin
from django.test import Client
from pytest_django import Settings

from proctree_dagster import testing
from proctree_dagster.admin import ProcessTreeAdmin
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger
from tests.admin.people import ADMIN, VIEWS, browser, press, shown, staff, text_of, user
from tests.admin.people import act as act_on
from tests.app import processes

pytestmark = pytest.mark.django_db

EVERY_DAY = {"cron": "0 9 * * *"}


@pytest.fixture
def tree() -> ProcessTree:
    return ProcessTreeInstance("t").add_process("one", func=processes.one).save()


@pytest.fixture
def trigger(tree: ProcessTree) -> Trigger:
    trigger = create_trigger("e", "event")
    ProcessTreeInstance.load("t").subscribe_to_trigger(trigger)
    return trigger


# --- Secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        ("processtreeschedule", "context__password__startswith"),
        ("processtreeschedule", "context__icontains"),
        ("processtreeschedule", "tags__client"),
        ("processtree", "processes__0__metadata__key__startswith"),
        ("outboxrun", "context__password__regex"),
        ("trigger", "configuration__filter__key"),
        ("backfill", "schedule__context__password__startswith"),
    ],
)
def test_nobody_learns_a_secret_by_a_filter(
    tree: ProcessTree, admin_client: Client, model: str, lookup: str
) -> None:
    for client in (staff(*VIEWS), admin_client):
        assert client.get(f"{ADMIN}/{model}/").status_code == 200
        assert client.get(f"{ADMIN}/{model}/", {lookup: "s"}).status_code == 400


class OwnTreeAdmin(ProcessTreeAdmin):
    readonly_fields: ClassVar = ["job_name"]


def test_a_projects_page_may_list_read_only_fields_of_its_own(
    tree: ProcessTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Any = admin.site._registry
    monkeypatch.setitem(registry, ProcessTree, OwnTreeAdmin(ProcessTree, admin.site))
    client = browser(user("editor", ["change_processtree"]))
    assert client.get(f"{ADMIN}/processtree/{tree.pk}/change/").status_code == 200


def test_who_may_not_write_processes_sees_them_without_secrets(tree: ProcessTree) -> None:
    ProcessTree.objects.update(
        processes=[{**tree.processes[0], "metadata": {"api_key": "sesame", "unit": "euro"}}]
    )
    for name in ("view_processtree", "change_processtree"):
        client = browser(user(name, [name]))
        text = text_of(client.get(f"{ADMIN}/processtree/{tree.pk}/change/"))
        assert "euro" in text
        assert "sesame" not in text


# --- Firing ---------------------------------------------------------------------------------------


def act(client: Client, trigger: Trigger, action: str) -> None:
    act_on(client, "trigger", action, trigger.pk)


@pytest.mark.parametrize(
    "permissions",
    [
        ("change_trigger",),
        ("view_trigger", "run_processtree", "name_functions"),
        ("change_trigger", "change_processtree", "delete_trigger", "add_trigger"),
    ],
)
def test_nobody_fires_or_arms_a_trigger_without_the_permission_to_fire(
    trigger: Trigger, permissions: tuple[str, ...]
) -> None:
    client = staff(*permissions)
    act(client, trigger, "fire")
    assert not OutboxRun.objects.exists()
    Trigger.objects.update(state="fired")
    act(client, trigger, "reset")
    assert Trigger.objects.get().state == "fired"


def test_who_may_fire_triggers_need_not_be_able_to_change_them(trigger: Trigger) -> None:
    client = staff("view_trigger", "fire_trigger")
    act(client, trigger, "fire")
    assert OutboxRun.objects.count() == 1
    act(client, trigger, "reset")
    assert Trigger.objects.get().state == "reset"


def test_who_may_only_change_a_trigger_does_not_say_when_it_fires(trigger: Trigger) -> None:
    client, page = staff("change_trigger"), f"{ADMIN}/trigger/{trigger.pk}/change/"
    data = {
        **shown(client, page),
        **{"description": "new", "trigger_type": "schedule", "name": "other"},
        **{"configuration": json.dumps(EVERY_DAY)},
    }
    assert client.post(page, data).status_code == 302
    trigger.refresh_from_db()
    assert (trigger.name, trigger.trigger_type, trigger.description) == ("e", "event", "new")
    assert trigger.enabled
    assert trigger.configuration == {}


def test_who_may_not_fire_triggers_puts_none_in_the_place_of_one_that_a_process_waits_for() -> None:
    client = staff("add_trigger", "delete_trigger", "change_trigger")
    assert client.get(f"{ADMIN}/trigger/add/").status_code == 403


def test_who_may_fire_a_trigger_says_when_it_does(trigger: Trigger) -> None:
    client = staff("change_trigger", "fire_trigger")
    page = f"{ADMIN}/trigger/{trigger.pk}/change/"
    changes = {"trigger_type": "schedule", "configuration": json.dumps(EVERY_DAY)}
    assert client.post(page, {**shown(client, page), **changes}).status_code == 302
    trigger.refresh_from_db()
    assert trigger.configuration == EVERY_DAY


# --- Running --------------------------------------------------------------------------------------

CHANGE_ALL = (
    *("change_processtree", "add_processtreeschedule", "change_processtreeschedule"),
    *("add_treelink", "change_treelink", "change_trigger", "fire_trigger"),
    *("add_triggersubscription", "change_triggersubscription"),
)
WITH_SCHEDULE = {
    **{"schedule-TOTAL_FORMS": 1, "schedule-INITIAL_FORMS": 0, "schedule-0-enabled": "on"},
    **{"schedule-0-interval_minutes": 30, "schedule-0-start_time": "09:00"},
    "schedule-0-context": "{}",
}


def follower(tree: ProcessTree) -> dict[str, Any]:
    other = ProcessTreeInstance("u").add_process("one", func=processes.one).save()
    return {
        **{"links_out-TOTAL_FORMS": 1, "links_out-INITIAL_FORMS": 0},
        **{"links_out-0-target": other.pk, "links_out-0-kind": "dependent"},
        "links_out-0-source": tree.pk,
    }


@pytest.mark.parametrize("may_run", [False, True])
def test_who_lets_a_tree_run_by_itself_needs_the_permission_to_run_it(
    tree: ProcessTree, may_run: bool
) -> None:
    client = staff(*CHANGE_ALL, *(["run_processtree"] if may_run else []))
    page = f"{ADMIN}/processtree/{tree.pk}/change/"
    client.post(page, {**shown(client, page), **follower(tree), **WITH_SCHEDULE})
    assert ProcessTreeSchedule.objects.exists() is may_run
    assert TreeLink.objects.exists() is may_run
    trigger = create_trigger("e", "event")
    page = f"{ADMIN}/trigger/{trigger.pk}/change/"
    subscription = {
        **{"subscriptions-TOTAL_FORMS": 1, "subscriptions-INITIAL_FORMS": 0},
        **{"subscriptions-0-process_tree": tree.pk, "subscriptions-0-context": "{}"},
        "subscriptions-0-enabled": "on",
    }
    client.post(page, {**shown(client, page), **subscription})
    assert TriggerSubscription.objects.exists() is may_run


def test_a_schedule_is_changed_by_those_who_may_run_its_tree(tree: ProcessTree) -> None:
    schedule = ProcessTreeInstance.load("t").register_schedule(enabled=False)
    client = staff(*CHANGE_ALL)
    page = f"{ADMIN}/processtreeschedule/{schedule.pk}/change/"
    assert client.get(page).status_code == 200, "it is shown"
    assert client.post(page, {"enabled": "on"}).status_code == 403
    assert client.get(f"{ADMIN}/processtreeschedule/add/").status_code == 403
    assert not ProcessTreeSchedule.objects.get().enabled


def test_to_run_trees_alone_lets_nobody_change_anything(tree: ProcessTree) -> None:
    client = staff("run_processtree", "fire_trigger", "name_functions")
    for page in (f"processtree/{tree.pk}/change/", "processtreeschedule/add/", "trigger/add/"):
        assert client.post(f"{ADMIN}/{page}", {}).status_code == 403


# --- Each tree ------------------------------------------------------------------------------------


class OpenTreesOnly(ProcessTreeAdmin):
    """A project's page: nobody runs a tree that is called ``closed``."""

    def has_run_permission(self, request: Any, obj: ProcessTree | None = None) -> bool:
        return obj is None or obj.name != "closed"


@pytest.fixture
def open_trees_only() -> Iterator[None]:
    before = type(admin.site.get_model_admin(ProcessTree))
    admin.site.unregister(ProcessTree)
    admin.site.register(ProcessTree, OpenTreesOnly)
    yield
    admin.site.unregister(ProcessTree)
    admin.site.register(ProcessTree, before)


def saved(name: str) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name).add_process("one", func=processes.one)
    made.save()
    return made


VIEW_ALL = ("view_processtree", "view_processtreeschedule", "view_trigger")


def test_a_project_s_answer_for_each_tree_holds_for_its_schedule(open_trees_only: None) -> None:
    open_one, closed = (saved(name).register_schedule(enabled=False) for name in ("open", "closed"))
    client = staff(*VIEW_ALL, *CHANGE_ALL)
    text = act_on(client, "processtreeschedule", "enable", open_one.pk, closed.pk)
    assert "Enabled: open." in text
    assert "Not enabled: closed. You may not change it, or not run its process tree." in text
    text = act_on(client, "processtreeschedule", "run_now", open_one.pk, closed.pk)
    assert "Not run: closed. You may not run it." in text
    assert [run.tree for run in testing.submitted()] == ["open"]
    page = f"{ADMIN}/processtreeschedule/{closed.pk}/change/"
    assert press(client, "processtreeschedule", closed.pk, "run_now").status_code == 403
    assert client.get(page).context["pt_buttons"] == {}, "it can only be viewed"
    assert client.post(page, {"enabled": "on", "context": "{}"}).status_code == 403
    assert press(client, "processtreeschedule", closed.pk, "enable").status_code == 403
    assert not ProcessTreeSchedule.objects.get(process_tree__name="closed").enabled


@pytest.mark.parametrize("name", ["open", "closed"])
def test_nobody_lets_a_tree_run_by_itself_that_he_may_not_run(
    open_trees_only: None, name: str
) -> None:
    """By a schedule, by a trigger, or because it follows another tree."""
    chosen, other = ProcessTree.objects.get(pk=saved(name).save().pk), saved("other").save()
    client, trigger = staff(*VIEW_ALL, *CHANGE_ALL), create_trigger("e", "event")
    pages: dict[str, dict[str, Any]] = {
        "processtreeschedule/add/": {"process_tree": chosen.pk, "context": "{}"},
        f"trigger/{trigger.pk}/change/": {
            **{"subscriptions-TOTAL_FORMS": 1, "subscriptions-INITIAL_FORMS": 0},
            **{"subscriptions-0-process_tree": chosen.pk, "subscriptions-0-context": "{}"},
        },
        f"processtree/{other.pk}/change/": {
            **{"links_out-TOTAL_FORMS": 1, "links_out-INITIAL_FORMS": 0},
            **{"links_out-0-target": chosen.pk, "links_out-0-kind": "dependent"},
            "links_out-0-source": other.pk,
        },
    }
    for address, typed in pages.items():
        page = f"{ADMIN}/{address}"
        text = text_of(client.post(page, {**shown(client, page), **typed}, follow=True))
        told = f"You may not run the process tree {name!r}." in text
        assert told is (name == "closed"), address
    rows = (ProcessTreeSchedule, TriggerSubscription, TreeLink)
    assert [model.objects.exists() for model in rows] == [name == "open"] * 3


def test_a_backend_that_knows_single_trees_answers_for_them(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = [*settings.AUTHENTICATION_BACKENDS, f"{__name__}.RunsMine"]
    mine, other = (saved(name).register_schedule() for name in ("mine", "other"))
    client = staff("view_processtreeschedule", "change_processtreeschedule")
    assert press(client, "processtreeschedule", mine.pk, "disable").status_code == 200
    assert press(client, "processtreeschedule", other.pk, "disable").status_code == 403
    assert [each.enabled for each in ProcessTreeSchedule.objects.order_by("pk")] == [False, True]


class RunsMine:
    """A backend that lets everybody run the tree ``mine``, and knows nothing else."""

    def has_perm(self, user: Any, perm: str, obj: Any = None) -> bool:
        return perm == "proctree_dagster.run_processtree" and getattr(obj, "name", "") == "mine"


# --- Naming functions -----------------------------------------------------------------------------


def test_who_may_not_name_functions_changes_no_process(tree: ProcessTree) -> None:
    client, page = staff("change_processtree"), f"{ADMIN}/processtree/{tree.pk}/change/"
    before = tree.processes
    other = [{"name": "other", "func": "tests.app.processes:two"}]
    data = {**shown(client, page), "description": "new", "processes": json.dumps(other)}
    data |= {"executor": "in_process"}
    assert client.post(page, data).status_code == 302
    tree.refresh_from_db()
    assert (tree.processes, tree.executor, tree.description) == (before, "", "new")


def test_who_may_not_name_functions_renames_no_tree(tree: ProcessTree) -> None:
    client, page = staff("change_processtree"), f"{ADMIN}/processtree/{tree.pk}/change/"
    data = {**shown(client, page), "name": "what_a_command_runs", "description": "new"}
    assert client.post(page, data).status_code == 302
    tree.refresh_from_db()
    assert (tree.name, tree.description) == ("t", "new")


def test_who_may_not_name_functions_adds_no_tree() -> None:
    client = staff("add_processtree", "change_processtree")
    assert client.get(f"{ADMIN}/processtree/add/").status_code == 403


def test_who_may_name_functions_changes_processes(tree: ProcessTree) -> None:
    client = staff("change_processtree", "name_functions")
    page = f"{ADMIN}/processtree/{tree.pk}/change/"
    other = [{"name": "other", "func": "tests.app.processes:one"}]
    assert (
        client.post(page, {**shown(client, page), "processes": json.dumps(other)}).status_code
        == 302
    )
    tree.refresh_from_db()
    assert tree.processes == other


CUSTOM = {"function": "tests.app.processes:one"}


def test_a_trigger_names_a_function_only_with_the_permission_to_do_so() -> None:
    client, page = staff("add_trigger", "change_trigger", "fire_trigger"), f"{ADMIN}/trigger/add/"
    data = {"name": "c", "trigger_type": "custom", "configuration": json.dumps(CUSTOM)}
    answer = client.post(page, {**shown(client, page), **data})
    assert "needs the permission to name functions" in html.unescape(answer.content.decode())
    assert not Trigger.objects.exists()
    trigger = create_trigger("c", "custom", CUSTOM)
    page = f"{ADMIN}/trigger/{trigger.pk}/change/"
    other = {"configuration": json.dumps({"function": "tests.app.processes:two"})}
    client.post(page, {**shown(client, page), **other})
    assert Trigger.objects.get().configuration == CUSTOM


def test_a_broken_tree_says_so_also_to_those_who_can_not_mend_it(tree: ProcessTree) -> None:
    ProcessTree.objects.update(processes=[{"name": "a", "func": "os:system"}])
    client, page = staff("change_processtree"), f"{ADMIN}/processtree/{tree.pk}/change/"
    answer = client.post(page, shown(client, page))
    assert "'os:system' is not allowed" in html.unescape(answer.content.decode())


# --- What is shown is what is saved ---------------------------------------------------------------


def test_a_tree_that_is_added_untouched_has_what_was_shown(admin_client: Client) -> None:
    page = f"{ADMIN}/processtree/add/"
    data = {**shown(admin_client, page), "name": "t"}
    data["processes"] = json.dumps([{"name": "one", "func": "tests.app.processes:one"}])
    assert "schedule-0-interval_minutes" not in data, "no schedule is shown"
    assert admin_client.post(page, data).status_code == 302
    assert not ProcessTreeSchedule.objects.exists()


def test_a_schedule_that_was_added_to_the_page_is_saved_untouched(admin_client: Client) -> None:
    page = f"{ADMIN}/processtree/add/"
    empty = admin_client.get(page).context["inline_admin_formsets"][0].formset.empty_form
    schedule = {
        bound.html_name.replace("__prefix__", "0"): bound.value()
        for bound in empty
        if bound.value() is not None and bound.value() is not False
    }
    data = {**shown(admin_client, page), **schedule, "name": "t", "schedule-TOTAL_FORMS": 1}
    data |= {"schedule-0-context": "{}"}
    data["processes"] = json.dumps([{"name": "one", "func": "tests.app.processes:one"}])
    assert data["schedule-0-interval_minutes"] == 60
    assert admin_client.post(page, data).status_code == 302
    schedule_row = ProcessTreeSchedule.objects.get()
    assert (schedule_row.interval_minutes, schedule_row.enabled) == (60, True)
    page = f"{ADMIN}/processtree/{schedule_row.process_tree.pk}/change/"
    before = ProcessTreeSchedule.objects.values().get()
    assert admin_client.post(page, shown(admin_client, page)).status_code == 302
    assert ProcessTreeSchedule.objects.values().get() == before


@pytest.mark.parametrize("kind", ["trigger", "processtreeschedule"])
def test_other_pages_save_what_they_show(
    admin_client: Client, tree: ProcessTree, kind: str
) -> None:
    page = f"{ADMIN}/{kind}/add/"
    data = shown(admin_client, page)
    data |= {"name": "e", "trigger_type": "event", "process_tree": tree.pk}
    assert admin_client.post(page, data).status_code == 302
    row = (Trigger if kind == "trigger" else ProcessTreeSchedule).objects.get()
    assert row.enabled
    assert not TriggerSubscription.objects.exists()
