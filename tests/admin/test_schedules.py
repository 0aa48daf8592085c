"""Schedules in the admin: the chosen rule counts, what can't run is refused, deeds are logged."""

import datetime as dt
import itertools
import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from proctree_dagster import testing
from proctree_dagster.admin import ProcessTreeScheduleAdmin
from proctree_dagster.models import OutboxRun, ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, act, browser, press, shown, staff, text_of, user
from tests.admin.sent import fields
from tests.app import processes
from tests.app.models import Organisation

pytestmark = pytest.mark.django_db

LIST = f"{ADMIN}/processtreeschedule/"
CHANGES = ("view_processtreeschedule", "change_processtreeschedule", "run_processtree")


def tree(name: str = "t", func: Any = processes.one) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name).add_process("only", func=func)
    made.save()
    return made


@pytest.fixture
def schedule() -> ProcessTreeSchedule:
    return tree().register_schedule(interval_minutes=45)


def page_of(schedule: ProcessTreeSchedule) -> str:
    return f"{LIST}{schedule.pk}/change/"


def errors(answer: Any) -> dict[str, list[str]]:
    """Return the errors on a page, of its form and of the forms in it, by field."""
    assert answer.status_code == 200, "it was saved"
    found = dict(answer.context["adminform"].form.errors)
    for inline in answer.context["inline_admin_formsets"]:
        for form in inline.formset.forms:
            found |= form.errors
    return {name: list(each) for name, each in found.items()}


def messages(answer: Any) -> list[str]:
    return [str(each) for each in get_messages(answer.wsgi_request)]


# --- An interval or a cron ------------------------------------------------------------------------


def test_the_cron_counts_if_it_is_chosen_and_the_interval_is_ignored_with_a_word(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    page = page_of(schedule)
    typed = {"rule_kind": "cron", "cron": "0 9 * * *", "interval_minutes": "no number"}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    assert "“Interval in minutes” no number does not count: something else was chosen." in (
        messages(answer)
    )
    schedule.refresh_from_db()
    assert (schedule.cron, schedule.interval_minutes) == ("0 9 * * *", None)
    assert shown(admin_client, page)["rule_kind"] == "cron"


def test_the_interval_counts_if_it_is_chosen_and_the_cron_is_dropped_with_a_word(
    admin_client: Client,
) -> None:
    schedule = tree().register_schedule(cron="0 9 * * *")
    page = page_of(schedule)
    typed = {"rule_kind": "interval", "interval_minutes": 30}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    assert "“Cron” 0 9 * * * does not count: something else was chosen." in messages(answer)
    schedule.refresh_from_db()
    assert (schedule.cron, schedule.interval_minutes) == ("", 30)


def test_an_unchosen_box_that_holds_only_the_form_s_own_default_needs_no_word(
    admin_client: Client,
) -> None:
    tree()
    page = f"{LIST}add/"
    typed = {"process_tree": ProcessTree.objects.get().pk, "rule_kind": "cron", "cron": "5 * * * *"}
    data = {**shown(admin_client, page), **typed}
    assert data["interval_minutes"] == 60
    answer = admin_client.post(page, data)
    assert not [each for each in messages(answer) if "does not count" in each]
    assert ProcessTreeSchedule.objects.get().cron == "5 * * * *"


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"rule_kind": "cron", "cron": ""}, "cron"),
        ({"rule_kind": "cron", "cron": "every day"}, "cron"),
        ({"rule_kind": "interval", "interval_minutes": ""}, "interval_minutes"),
        ({"rule_kind": "interval", "interval_minutes": 0}, "interval_minutes"),
        ({"rule_kind": "moon"}, "rule_kind"),
        ({"rule_kind": "", "cron": "0 9 * * *", "interval_minutes": 5}, "__all__"),
    ],
    ids=str,
)
def test_the_rule_that_is_chosen_must_be_given_and_has_one_error(
    admin_client: Client, schedule: ProcessTreeSchedule, typed: dict[str, Any], field: str
) -> None:
    page = page_of(schedule)
    found = errors(admin_client.post(page, {**shown(admin_client, page), **typed}))
    assert list(found) == [field]
    assert len(found[field]) == 1


def test_what_posts_no_choice_needs_none(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    admin_client.post(page_of(schedule), {"cron": "0 9 * * *", "context": "{}", "enabled": "on"})
    schedule.refresh_from_db()
    assert schedule.cron == "0 9 * * *"


@pytest.mark.parametrize(
    ("start", "end", "field", "message"),
    [
        ("", "2020-12-31", None, "nothing is due until its end date, 2020-12-31."),
        ("2021-01-01", "2020-12-31", "end_date", ""),
        ("", "2999-12-31", None, ""),
    ],
)
def test_an_end_date_is_refused_before_the_start_and_said_if_it_has_passed(
    admin_client: Client,
    schedule: ProcessTreeSchedule,
    start: str,
    end: str,
    field: str | None,
    message: str,
) -> None:
    page = page_of(schedule)
    typed = {"start_date": start, "end_date": end}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    if field is not None:
        assert list(errors(answer)) == [field]
        return
    said = [each for each in messages(answer) if "end date" in each]
    assert [message in each for each in said] == ([True] if message else [])
    schedule.refresh_from_db()
    assert str(schedule.end_date) == end
    assert schedule.has_ended == bool(message)


def test_a_start_time_that_a_cron_leaves_unused_stays_as_it_was(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    schedule.start_time = dt.time(9)
    schedule.save()
    page = page_of(schedule)
    typed = {"rule_kind": "cron", "cron": "0 9 * * *", "start_time": "10:00"}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    assert any("Start time” 10:00 does not count" in each for each in messages(answer))
    schedule.refresh_from_db()
    assert schedule.start_time == dt.time(9)


def test_a_choice_on_a_tree_s_page_counts_as_on_the_schedule_s_own(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    page = f"{ADMIN}/processtree/{schedule.process_tree_id}/change/"
    typed = {"schedule-0-rule_kind": "cron", "schedule-0-cron": "0 9 * * *"}
    answer = admin_client.post(page, {**shown(admin_client, page), **typed})
    assert any("does not count" in each for each in messages(answer))
    schedule.refresh_from_db()
    assert schedule.interval_minutes is None


# --- Its context ----------------------------------------------------------------------------------

GONE = {"$model": "app.Organisation", "pk": 77}


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ('{\n  "argument": x\n}', "Enter a valid JSON: line 2, column 15"),
        ('{"argument": 1, "argument": 2}', "the key 'argument' is given twice"),
        ("[1]", "A context is a dictionary"),
        ("{}", "The context lacks 'argument'"),
        ('{"argument": 1, "argumant": 2}', "No function of the tree takes 'argumant'"),
        (json.dumps({"argument": GONE}), "there is no app.Organisation with the primary key 77"),
        ('{"argument": {"$date": "never"}}', "context['argument']"),
    ],
    ids=str,
)
def test_a_context_with_which_no_run_could_succeed_is_refused_with_one_error(
    admin_client: Client, context: str, problem: str
) -> None:
    schedule = tree(func=processes.needs).register_schedule(context={"argument": 0})
    page = page_of(schedule)
    found = errors(admin_client.post(page, {**shown(admin_client, page), "context": context}))
    assert list(found) == ["context"]
    [told] = found["context"]
    assert problem in told


@pytest.mark.parametrize("context", ["{}", "{", json.dumps({"argument": GONE})])
def test_it_is_refused_on_the_tree_s_page_too(admin_client: Client, context: str) -> None:
    schedule = tree(func=processes.needs).register_schedule(context={"argument": 0})
    page = f"{ADMIN}/processtree/{schedule.process_tree_id}/change/"
    data = {**shown(admin_client, page), "schedule-0-context": context}
    found = errors(admin_client.post(page, data))
    assert list(found) == ["context"]
    assert len(found["context"]) == 1


def test_a_context_whose_rows_are_there_is_saved(admin_client: Client) -> None:
    schedule = tree(func=processes.needs).register_schedule(context={"argument": 0})
    context = {"argument": {"$model": "app.Organisation", "pk": Organisation.objects.create().pk}}
    page = page_of(schedule)
    data = {**shown(admin_client, page), "context": json.dumps(context)}
    assert admin_client.post(page, data).status_code == 302
    schedule.refresh_from_db()
    assert schedule.context == context


def test_a_schedule_whose_row_is_gone_can_still_be_switched_off(admin_client: Client) -> None:
    row = Organisation.objects.create()
    schedule = tree(func=processes.needs).register_schedule(context={"argument": row})
    row.delete()
    page = page_of(schedule)
    data = {name: each for name, each in shown(admin_client, page).items() if name != "enabled"}
    answer = admin_client.post(page, data)
    assert answer.status_code == 302, errors(answer)
    schedule.refresh_from_db()
    assert not schedule.enabled


def test_a_page_says_what_the_functions_take_and_the_next_five_due_times(
    admin_client: Client,
) -> None:
    made = tree(func=processes.optional)
    schedule = made.register_schedule(cron="0 9 * * *", timezone="Asia/Tokyo")
    text = text_of(admin_client.get(page_of(schedule)))
    assert "argument : default: 'the default'" in text
    assert text.count("(09:00 Asia/Tokyo)") == 5
    schedule.enabled = False
    schedule.save()
    assert "Not enabled: these are skipped." in text_of(admin_client.get(page_of(schedule)))


# --- Adding one -----------------------------------------------------------------------------------


def test_a_tree_is_chosen_by_a_part_of_its_name_whether_it_has_a_schedule_or_not(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    tree("free")
    page = admin_client.get(f"{LIST}add/").content.decode()
    assert f'data-ajax--url="{LIST}trees/"' in page
    asked = {
        **{"app_label": "proctree_dagster", "model_name": "processtreeschedule"},
        **{"field_name": "process_tree", "term": ""},
    }
    answer = admin_client.get(f"{LIST}trees/", asked)
    assert [each["text"] for each in answer.json()["results"]] == ["free", "t"]
    other = {**asked, "app_label": "admin", "model_name": "logentry", "field_name": "user"}
    assert admin_client.get(f"{LIST}trees/", other).json()["results"] == []


def test_who_may_add_schedules_is_shown_the_trees_and_nobody_else() -> None:
    tree("free")
    asked = {
        **{"app_label": "proctree_dagster", "model_name": "processtreeschedule"},
        **{"field_name": "process_tree", "term": ""},
    }
    client = staff("view_processtree", "view_processtreeschedule", "run_processtree")
    assert client.get(f"{LIST}trees/", asked).status_code == 403


def test_a_tree_gets_no_second_schedule_of_one_name(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    page = f"{LIST}add/"
    data = {**shown(admin_client, page), "process_tree": schedule.process_tree_id}
    said = {"__all__": ["The process tree has a schedule of this name already."]}
    assert errors(admin_client.post(page, data)) == said
    assert admin_client.post(page, {**data, "name": "night"}).status_code == 302
    night = ProcessTreeSchedule.objects.get(name="night")
    data = shown(admin_client, page_of(night))
    assert errors(admin_client.post(page_of(night), {**data, "name": "default"})) == said
    before = night.dagster_name
    assert admin_client.post(page_of(night), {**data, "name": "late"}).status_code == 302
    night.refresh_from_db()
    assert (night.name, night.dagster_name) == ("late", before)


def test_the_page_of_a_tree_adds_and_renames_schedules(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    page = f"{ADMIN}/processtree/{schedule.process_tree_id}/change/"
    data = shown(admin_client, page)
    added = {
        **{key.replace("-0-", "-1-"): value for key, value in data.items() if "schedule-0-" in key},
        **{"schedule-1-id": "", "schedule-1-name": "night", "schedule-1-context": "{}"},
        "schedule-TOTAL_FORMS": "2",
    }
    assert admin_client.post(page, {**data, **added}).status_code == 302
    names = ProcessTreeSchedule.objects.order_by("name").values_list("name", flat=True)
    assert list(names) == ["default", "night"]
    text = text_of(admin_client.get(page))
    assert "Schedules night" in text or "night" in text
    data = shown(admin_client, page)
    clash = {**data, "schedule-1-name": "default"}
    assert admin_client.post(page, clash).status_code == 200
    assert list(names.all()) == ["default", "night"]


def test_a_tree_with_many_schedules_has_a_link_to_them_and_no_forms(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    owner = schedule.process_tree
    ProcessTreeSchedule.objects.bulk_create(
        ProcessTreeSchedule(process_tree=owner, name=f"customer {number}") for number in range(25)
    )
    page = f"{ADMIN}/processtree/{owner.pk}/change/"
    answer = admin_client.get(page)
    assert "schedule-TOTAL_FORMS" not in answer.content.decode()
    assert "And 6 more. All of its schedules" in text_of(answer)
    rows = admin_client.get(f"{LIST}?process_tree__id__exact={owner.pk}")
    assert "26 process tree schedules" in text_of(rows)


def test_run_now_of_a_named_schedule_has_its_context_alone(admin_client: Client) -> None:
    made = tree(func=processes.echo)
    made.register_schedule(context={"a": 1, "b": None})
    named = made.register_schedule(name="night", context={"c": 2})
    act(admin_client, "processtreeschedule", "run_now", named.pk)
    [run] = testing.submitted()
    assert run.context == {"c": 2}


def test_of_two_people_who_add_one_at_once_the_second_is_shown_the_first_one_s(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, schedule: ProcessTreeSchedule
) -> None:
    """Both have passed the checks when one of them is saved."""
    data = {**shown(admin_client, f"{LIST}add/"), "process_tree": schedule.process_tree_id}
    checked = ProcessTreeSchedule.validate_constraints
    monkeypatch.setattr(ProcessTreeSchedule, "validate_constraints", lambda *args, **kwargs: None)
    text = text_of(admin_client.post(f"{LIST}add/", data, follow=True))
    said = "Somebody else has given this process tree a schedule of this name. Change that one."
    assert said in text
    assert ProcessTreeSchedule.objects.get().interval_minutes == 45
    monkeypatch.setattr(ProcessTreeSchedule, "validate_constraints", checked)


# --- The list -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("", "cron late off on stopped"),
        ("q=la", "late"),
        ("enabled__exact=0", "off"),
        ("rule=cron", "cron"),
        ("rule=interval", "late off on stopped"),
        ("last_run_status__exact=failure", "late"),
        ("overdue=yes", "late"),
        ("overdue=no", "cron off on stopped"),
        ("overdue=perhaps", "cron late off on stopped"),
        ("held_back=django", "off"),
        ("held_back=dagster", "stopped"),
        ("held_back=nothing", "cron late on"),
    ],
)
def test_the_list_is_searched_and_filtered(admin_client: Client, asked: str, names: str) -> None:
    for name in ("on", "off", "late", "stopped"):
        tree(name).register_schedule(enabled=name != "off")
    tree("cron").register_schedule(cron="0 9 * * *")
    of_name = ProcessTreeSchedule.objects.filter
    hour_ago = timezone.now() - dt.timedelta(hours=1)
    of_name(process_tree__name="late").update(next_run=hour_ago, last_run_status="failure")
    of_name(process_tree__name="stopped").update(stopped_in_dagster=True)
    answer = admin_client.get(f"{LIST}?{asked}")
    found = [each.process_tree.name for each in answer.context["cl"].result_list]
    assert found == names.split()


def test_the_query_for_overdue_schedules_agrees_with_the_row_s_own_answer() -> None:
    now = timezone.now()
    times = [None, now - dt.timedelta(minutes=10), now - dt.timedelta(minutes=1)]
    names = ("enabled", "stopped_in_dagster", "allow_overlap", "last_run_status", "next_run")
    switch = (True, False)
    rows = itertools.product(switch, switch, switch, ("", "started"), times, times)
    trees = ProcessTree.objects.bulk_create(ProcessTree(name=f"t{n}") for n in range(8 * 2 * 9))
    ProcessTreeSchedule.objects.bulk_create(
        ProcessTreeSchedule(
            process_tree=tree,
            **dict(zip(names, row[:5], strict=True)),
            claim=row[5],
            claimed_at=row[5],
        )
        for tree, row in zip(trees, rows, strict=True)
    )
    overdue = set(ProcessTreeSchedule.objects.overdue(now))
    assert overdue == {each for each in ProcessTreeSchedule.objects.all() if each.is_overdue(now)}
    assert 0 < len(overdue) < len(trees)


# --- What people do -------------------------------------------------------------------------------


def test_schedules_are_switched_and_a_message_says_which_and_which_not_and_why(
    schedule: ProcessTreeSchedule,
) -> None:
    off = tree("off").register_schedule(enabled=False)
    client = staff(*CHANGES)
    text = act(client, "processtreeschedule", "disable", schedule.pk, off.pk)
    assert "Disabled: t. A run under way continues." in text
    assert "Not disabled: off. It is disabled already." in text
    assert not ProcessTreeSchedule.objects.filter(enabled=True).exists()
    text = act(client, "processtreeschedule", "enable", schedule.pk, off.pk)
    assert "Enabled: off, t." in text
    assert ProcessTreeSchedule.objects.filter(enabled=True).count() == 2
    logged = LogEntry.objects.filter(object_id=str(schedule.pk)).order_by("pk")
    assert [each.get_change_message() for each in logged] == ["Disabled.", "Enabled."]
    assert {each.user.get_username() for each in LogEntry.objects.all()} == {"clerk"}


def test_a_schedule_that_is_enabled_runs_at_the_next_due_time_from_now(
    schedule: ProcessTreeSchedule,
) -> None:
    client, long_ago = staff(*CHANGES), timezone.now() - dt.timedelta(days=3)
    press(client, "processtreeschedule", schedule.pk, "disable")
    ProcessTreeSchedule.objects.update(next_run=long_ago)
    press(client, "processtreeschedule", schedule.pk, "enable")
    schedule.refresh_from_db()
    assert schedule.enabled
    assert schedule.next_run is not None
    assert schedule.next_run > timezone.now()


def test_what_can_not_run_by_itself_is_not_enabled_and_what_has_a_bad_rule_can_be_disabled(
    schedule: ProcessTreeSchedule,
) -> None:
    client = staff(*CHANGES)
    ProcessTreeSchedule.objects.update(cron="* *", interval_minutes=None)
    act(client, "processtreeschedule", "disable", schedule.pk)
    schedule.refresh_from_db()
    assert not schedule.enabled
    text = act(client, "processtreeschedule", "enable", schedule.pk)
    assert "Not enabled: t. A cron has five fields" in text
    ProcessTreeSchedule.objects.update(cron="", interval_minutes=5)
    nowhere = [{"name": "only", "func": "proctree_dagster.local:t.only.x"}]
    ProcessTree.objects.update(processes=nowhere)
    schedule.refresh_from_db()
    assert not schedule.enabled


def test_a_schedule_that_is_deleted_meanwhile_is_named(
    schedule: ProcessTreeSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(*args: Any) -> None:
        ProcessTreeSchedule.objects.all().delete()

    client = staff(*CHANGES)
    monkeypatch.setattr(ProcessTreeScheduleAdmin, "_switch_problem", vanish)
    text = act(client, "processtreeschedule", "disable", schedule.pk)
    assert "Not disabled: t. It was deleted meanwhile." in text
    text = text_of(press(client, "processtreeschedule", schedule.pk, "disable"))
    assert "It does not exist any more. Nothing was done." in text


def test_a_page_has_the_buttons_that_are_of_use_and_stays_the_page(
    schedule: ProcessTreeSchedule,
) -> None:
    client = staff(*CHANGES)
    assert list(client.get(page_of(schedule)).context["pt_buttons"]) == ["run_now", "disable"]
    answer = press(client, "processtreeschedule", schedule.pk, "disable")
    assert answer.redirect_chain == [(page_of(schedule), 302)]
    assert list(answer.context["pt_buttons"]) == ["run_now", "enable"]
    assert client.get(f"{LIST}{schedule.pk}/action/").status_code == 405
    assert press(client, "processtreeschedule", schedule.pk, "delete_selected").status_code == 403


def test_the_second_of_two_clicks_requests_no_run(
    admin_client: Client, schedule: ProcessTreeSchedule
) -> None:
    trees, run = f"{ADMIN}/processtree/", {"action": "run_now"}
    for page, posted in (
        (page_of(schedule), run),
        (LIST, {**run, "_selected_action": schedule.pk}),
        (trees, {**run, "_selected_action": schedule.process_tree_id}),
    ):
        before = OutboxRun.objects.count()
        token = fields(admin_client.get(page).content.decode())["token"]
        url, sent = page.replace("/change/", "/action/"), {**posted, "token": token}
        answers = [admin_client.post(url, sent, follow=True) for _ in range(2)]
        assert OutboxRun.objects.count() == before + 1
        assert "It was requested already, by the same click." in text_of(answers[1])
        assert answers[0].redirect_chain == answers[1].redirect_chain


def test_trees_are_run_now_with_the_contexts_of_their_schedules_which_stay_as_they_are(
    schedule: ProcessTreeSchedule,
) -> None:
    needy = tree("needy", processes.needs).register_schedule(context={"argument": 7}, enabled=False)
    broken = tree("broken", processes.needs).register_schedule(context={"argument": 7})
    ProcessTreeSchedule.objects.filter(pk=broken.pk).update(context={})
    before = list(ProcessTreeSchedule.objects.values())
    client = staff("view_processtreeschedule", "run_processtree")
    keys = [schedule.pk, needy.pk, broken.pk]
    text = act(client, "processtreeschedule", "run_now", *keys)
    runs = testing.submitted()
    assert {(run.tree, run.context.get("argument")) for run in runs} == {("needy", 7), ("t", None)}
    assert {(run.triggered_by, run.tags["user"]) for run in runs} == {("admin", "clerk")}
    listed = ", ".join(f"{run.tree} ({run.run_id[:8]})" for run in runs)
    assert f"Requested: {listed} ." in text.replace(" , ", ", ")
    assert "Not run: broken. The context lacks 'argument'" in text
    assert list(ProcessTreeSchedule.objects.values()) == before
    logged = LogEntry.objects.order_by("object_repr")
    assert [each.object_repr for each in logged] == ["needy", "t"]


def test_a_tree_that_is_run_now_from_its_schedule_s_page_shows_its_run(
    schedule: ProcessTreeSchedule,
) -> None:
    client = staff("view_processtreeschedule", "run_processtree", "view_run")
    assert list(client.get(page_of(schedule)).context["pt_buttons"]) == ["run_now"]
    answer = client.post(f"{LIST}{schedule.pk}/action/", {"action": "run_now"})
    [run] = testing.submitted()
    assert answer["Location"] == f"{ADMIN}/run/{run.run_id}/change/"


# --- A run for each row ---------------------------------------------------------------------------


def test_a_run_for_each_row_is_set_on_the_page_and_what_is_invalid_is_shown_beside_its_field(
    admin_client: Client,
) -> None:
    schedule = tree(func=processes.echo).register_schedule(interval_minutes=45)
    page = page_of(schedule)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"for_each": '{"model": "app.Nothing"}'}, "for_each"),
        ({"for_each": '{"model": "app.Organisation"}', "order_by": "nothing"}, "order_by"),
        ({"spread_minutes": 5}, "for_each"),
    ]
    for typed, field in wrong:
        answer = admin_client.post(page, {**shown(admin_client, page), **typed})
        assert list(errors(answer)) == [field]
    typed = {"for_each": '{"model": "app.Organisation"}', "spread_minutes": 30}
    admin_client.post(page, {**shown(admin_client, page), **typed})
    schedule.refresh_from_db()
    assert schedule.row_name == "organisation"
    assert "for each app.Organisation, over 30 min" in text_of(admin_client.get(LIST))


def test_a_function_that_yields_contexts_needs_the_permission_to_name_functions() -> None:
    schedule = tree(func=processes.echo).register_schedule(interval_minutes=45)
    page = page_of(schedule)
    typed = {"for_each": '{"function": "tests.app.processes:tenants"}'}
    client = staff(*CHANGES)
    answer = client.post(page, {**shown(client, page), **typed})
    assert "permission to name functions" in errors(answer)["for_each"][0]
    schedule.for_each = {"function": "tests.app.processes:tenants"}
    schedule.save()
    answer = client.post(page, {**shown(client, page), "spread_minutes": 5})
    assert answer.status_code == 302, "what is there may stay"


def test_a_calendar_that_is_a_function_needs_it_too_and_is_not_called_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dt.date] = []

    def open_day(date: dt.date) -> bool:
        asked.append(date)
        return True

    open_day.__module__, open_day.__qualname__ = processes.__name__, "open_day"
    monkeypatch.setattr(processes, "open_day", open_day, raising=False)
    schedule = tree(func=processes.echo).register_schedule(interval_minutes=1440)
    page = page_of(schedule)
    typed = {"business_days": "skip", "calendar": "tests.app.processes:open_day"}
    client = staff(*CHANGES)
    answer = client.post(page, {**shown(client, page), **typed})
    assert "permission to name functions" in errors(answer)["calendar"][0]
    assert asked == []
    answer = client.post(page, {**shown(client, page), **typed, "calendar": "weekdays"})
    assert answer.status_code == 302, "that is no function"
    named = browser(user("owner", (*CHANGES, "name_functions")))
    assert named.post(page, {**shown(named, page), **typed}).status_code == 302
    assert asked
