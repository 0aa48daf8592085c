"""Run now: a form made of signatures, and runs requested from lists."""

import datetime as dt
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from example.ledger.models import Account
from example.ledger.models import Organisation as Books
from proctree_dagster.admin import ProcessTreeAdmin
from proctree_dagster.models import OutboxRun, ProcessTree
from proctree_dagster.running import dagster_loading
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.dagster_pages import RUNS, TREES, address, record, save, text
from tests.admin.people import browser, staff, user
from tests.admin.sent import fields
from tests.app import annotated, processes
from tests.app.models import Organisation

pytestmark = pytest.mark.django_db

MARKUP = "<script>alert(1)</script>"


def run_page(tree: ProcessTree, **params: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in params.items())
    return f"{TREES}{tree.pk}/run/{'?' if query else ''}{query}"


def form_of(client: Client, page: str) -> dict[str, str]:
    """Return what a browser sends of a form that nobody has touched."""
    answer = client.get(page)
    assert answer.status_code == 200
    form = text(answer).split('id="pt-run-now"')[1]
    return {name: values[0] for name, values in fields(form).lists()}


def send(client: Client, page: str, **changes: Any) -> Any:
    data = {**form_of(client, page), **changes}
    return client.post(page, {name: value for name, value in data.items() if value is not None})


def requested() -> OutboxRun:
    return OutboxRun.objects.get()


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return dict(answer.context["adminform"].form.errors)


def test_each_type_has_its_field_and_is_stored_as_it_is_written_by_hand(
    admin_client: Client,
) -> None:
    page = run_page(save(func=annotated.everything))
    organisation = Organisation.objects.create(name="Müller")
    answer = send(
        admin_client,
        page,
        **{"key_text": " as it is ", "key_whole": "9007199254740993", "key_part": "0.25"},
        **{"key_amount": "2.50", "key_day": "2026-03-31", "key_time": "10:00"},
        **{"key_at_0": "2026-03-31", "key_at_1": "09:00", "key_dry_run": "on"},
        **{"key_key": "00000000-0000-0000-0000-000000000001", "key_sure": "false"},
        **{"key_kind": "1", "key_choice": "0", "key_listed": "[1, 2]", "key_either": "5"},
        **{"key_anything": "plain", "key_organisation": str(organisation.pk)},
    )
    row = requested()
    assert (answer.status_code, answer.url) == (302, f"{RUNS}{row.run_id}/change/")
    assert row.context == {
        **{"text": " as it is ", "whole": {"$int": "9007199254740993"}, "part": 0.25},
        **{"amount": {"$decimal": "2.50"}, "day": {"$date": "2026-03-31"}},
        **{"at": {"$datetime": "2026-03-31T09:00:00+02:00"}, "time": {"$time": "10:00:00"}},
        **{"key": {"$uuid": "00000000-0000-0000-0000-000000000001"}, "dry_run": True},
        **{"sure": False, "kind": "bill", "choice": "sale", "listed": [1, 2], "either": 5},
        **{"anything": "plain"},
        "organisation": {"$model": "app.Organisation", "pk": organisation.pk},
    }
    assert row.tags == {"proctree/triggered_by": "admin", "user": "admin"}
    entry = LogEntry.objects.get()
    assert entry.object_id == str(row.process_tree_id)
    assert str(row.run_id) in entry.get_change_message()


def test_what_is_left_at_its_default_is_left_out(admin_client: Client) -> None:
    page = run_page(save(func=annotated.everything))
    assert send(admin_client, page, key_text="a", key_whole="1").status_code == 302
    assert requested().context == {"text": "a", "whole": 1}


def test_a_missing_key_is_refused_at_its_field(admin_client: Client) -> None:
    answer = send(
        admin_client, run_page(save(func=annotated.everything)), key_text="", key_whole="x"
    )
    assert errors(answer) == {
        "key_text": ["The context lacks 'text' (str), for process 'only'."],
        "key_whole": ["Enter a whole number."],
    }
    assert not OutboxRun.objects.exists()


def test_help_says_what_a_key_is_for_and_is_no_html(admin_client: Client) -> None:
    page = text(admin_client.get(run_page(save(func=annotated.everything))))
    assert html.escape("What <b>it</b> is for.") in page
    assert "What <b>it</b>" not in page
    assert "default: " in page


def test_it_is_prefilled_with_the_context_of_the_schedule(admin_client: Client) -> None:
    tree = save(func=annotated.everything)
    organisation = Organisation.objects.create(name="Müller")
    given = {
        **{"text": "from the schedule", "whole": 7, "day": dt.date(2026, 3, 31)},
        **{"kind": "bill", "either": "5", "listed": [3], "organisation": organisation},
        "anything": {"a": 1},
    }
    schedule = ProcessTreeInstance.load("t").register_schedule(context=given)
    assert send(admin_client, run_page(tree)).status_code == 302
    assert requested().context == schedule.context
    OutboxRun.objects.all().delete()
    answer = send(admin_client, run_page(tree), key_day="", key_either="6", key_listed="")
    assert answer.status_code == 302
    assert {key: requested().context[key] for key in ("day", "either", "listed")} == {
        **{"day": None, "either": 6, "listed": None}
    }
    answer = send(admin_client, run_page(tree), key_kind="")
    assert "Blank does not count" in str(errors(answer)["key_kind"])


def test_a_stored_value_of_another_type_is_shown_and_refused(admin_client: Client) -> None:
    tree = save(func=annotated.everything)
    schedule = ProcessTreeInstance.load("t").register_schedule(context={"text": "a", "whole": 1})
    type(schedule).objects.update(context={"text": "a", "whole": [1]})
    answer = send(admin_client, run_page(tree))
    assert "must be int" in str(errors(answer)["key_whole"])
    assert form_of(admin_client, run_page(tree))["key_whole"] == "[1]"


def test_keys_that_nothing_takes_are_refused_and_others_are_json(admin_client: Client) -> None:
    tree = save(func=annotated.takes_anything)
    page = run_page(tree)
    answer = send(admin_client, page, key_year="2026", more='{"other": {"$date": "2026-03-31"}}')
    assert answer.status_code == 302
    assert requested().context == {"year": 2026, "other": {"$date": "2026-03-31"}}
    for more, why in [
        ('{"other": ', "line 1, column 11"),
        ("[1]", "Give a JSON object"),
        ('{"year": 1}', "has a field of its own"),
        ('{"day": {"$date": "no date"}}', "is not what the key says"),
        ('{"org": {"$model": "app.Organisation", "pk": 99}}', "there is no app.Organisation"),
        ('{"__class__": 1}', "Dagster keeps for itself"),
    ]:
        answer = send(admin_client, page, key_year="2026", more=more)
        assert why in html.unescape(str(errors(answer)["more"]))
    strict = save("strict", annotated.fetch_invoices)
    assert "more" not in form_of(admin_client, run_page(strict))
    assert not strict.context_schema.takes_anything


def test_a_tree_that_is_broken_can_not_be_run_and_says_why(admin_client: Client) -> None:
    tree = save()
    ProcessTree.objects.update(processes=[{"name": "a", "func": "os:system"}])
    page = text(admin_client.get(run_page(tree)))
    assert "&#x27;os:system&#x27; is not allowed" in page
    assert "pt-run-now" not in page
    assert admin_client.post(run_page(tree), {}).status_code == 200
    assert not OutboxRun.objects.exists()


def test_the_same_form_sent_twice_requests_one_run(admin_client: Client) -> None:
    page = run_page(save(func=processes.echo))
    data = form_of(admin_client, page)
    first, second = (address(admin_client.post(page, data)) for _ in range(2))
    assert first == second
    assert OutboxRun.objects.count() == 1
    assert LogEntry.objects.count() == 1
    other = address(admin_client.post(page, {**data, "more": '{"a": 1}'}))
    assert other != first, "it was filled in otherwise"


def test_cached_results_are_used_unless_that_is_refused(admin_client: Client) -> None:
    page = run_page(save(cache_key="a"))
    assert send(admin_client, page, use_cache=None).status_code == 302
    assert requested().tags["proctree/no_cache"] == "true"
    assert "use_cache" not in form_of(admin_client, run_page(save("other")))


# --- Secrets --------------------------------------------------------------------------------------


def test_secrets_of_a_context_are_not_shown_and_stay_as_they_are(admin_client: Client) -> None:
    tree = save(func=annotated.takes_secrets)
    context = {"api_key": "hunter2", "settings": {"password": "hunter2"}, "plain": 1}
    ProcessTreeInstance.load("t").register_schedule(context=context)
    page = run_page(tree)
    assert "hunter2" not in text(admin_client.get(page))
    assert send(admin_client, page, more=None).status_code == 302
    assert requested().context == context
    OutboxRun.objects.all().delete()
    assert send(admin_client, page, key_api_key="other").status_code == 302
    assert requested().context["api_key"] == "other"
    answer = send(admin_client, page, key_api_key="typed", key_settings="{")
    assert answer.status_code == 200
    assert "typed" not in text(answer)


def test_a_secret_of_no_type_is_text_also_of_digits(admin_client: Client) -> None:
    tree = save(func=processes.echo)
    ProcessTreeInstance.load("t").register_schedule(context={"api_key": "hunter2"})
    assert send(admin_client, run_page(tree), key_api_key="0123").status_code == 302
    assert requested().context == {"api_key": "0123"}


def test_a_reference_to_a_secret_is_shown_and_typed_as_json(admin_client: Client) -> None:
    tree = save(func=annotated.takes_secrets)
    reference, other = ({"$secret": name} for name in ("XERO_TOKEN", "OTHER"))
    context = {"api_key": reference, "settings": {"password": reference}, "plain": reference}
    ProcessTreeInstance.load("t").register_schedule(context=context)
    assert form_of(admin_client, run_page(tree))["key_api_key"] == json.dumps(reference)
    assert send(admin_client, run_page(tree)).status_code == 302
    assert requested().context == context
    OutboxRun.objects.all().delete()
    typed = {"key_api_key": json.dumps(other)}
    assert send(admin_client, run_page(tree), **typed).status_code == 302
    assert requested().context["api_key"] == other
    OutboxRun.objects.all().delete()
    ProcessTreeInstance.load("t").register_schedule(context={**context, "api_key": "hunter2"})
    assert send(admin_client, run_page(tree), **typed).status_code == 302
    assert requested().context["api_key"] == other


# --- Rows of models -------------------------------------------------------------------------------


@pytest.fixture
def accounts() -> list[Account]:
    """Rows that can be searched in the example's admin."""
    books = Books.objects.create(name="Books", currency="ZAR")
    return [
        Account.objects.create(organisation=books, code=f"{place}", name=name, kind="asset")
        for place, name in enumerate(["Müller", "Meier", MARKUP])
    ]


def choices(client: Client, tree: ProcessTree, **params: str) -> Any:
    return client.get(f"{TREES}{tree.pk}/run/choices/", params)


def test_a_row_is_chosen_as_one_types(admin_client: Client, accounts: list[Account]) -> None:
    tree = save(func=annotated.of_account)
    page = text(admin_client.get(run_page(tree)))
    assert "admin-autocomplete" in page
    assert "Meier" not in page
    found = choices(admin_client, tree, key="account", term="mei").json()
    assert [each["id"] for each in found["results"]] == [str(accounts[1].pk)]
    assert "Meier" in found["results"][0]["text"]
    for key in ("", "no such key"):
        assert choices(admin_client, tree, key=key).status_code == 404
    ProcessTreeInstance.load("t").register_schedule(context={"account": accounts[2]})
    page = text(admin_client.get(run_page(tree)))
    assert html.escape(MARKUP) in page
    assert MARKUP not in page
    assert send(admin_client, run_page(tree)).status_code == 302
    assert requested().context == {"account": {"$model": "ledger.Account", "pk": accounts[2].pk}}
    answer = send(admin_client, run_page(tree), key_account="999")
    assert "Select a valid choice" in str(errors(answer))


def test_rows_are_offered_to_those_only_who_may_see_them(accounts: list[Account]) -> None:
    tree = save(func=annotated.of_account)
    client = staff("view_processtree", "run_processtree")
    assert "admin-autocomplete" not in text(client.get(run_page(tree)))
    assert choices(client, tree, key="account").status_code == 403
    answer = send(client, run_page(tree), key_account=str(accounts[0].pk))
    assert answer.status_code == 302, "who knows the key types it, as in JSON"
    other = user("other", ["view_processtree"])
    other.user_permissions.add(Permission.objects.get(codename="view_account"))
    assert choices(browser(other), tree, key="account").status_code == 403, (
        "and may not run the tree"
    )


def test_few_rows_are_listed_and_many_are_typed(
    admin_client: Client, accounts: list[Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = save(func=annotated.of_books)
    books = Books.objects.create(name=MARKUP, currency="ZAR")
    page = text(admin_client.get(run_page(tree)))
    assert "Books</option>" in page
    assert html.escape(MARKUP) in page
    assert MARKUP not in page
    monkeypatch.setattr("proctree_dagster.admin.row_fields.MOST_ROWS", 1)
    assert "</option>" not in text(admin_client.get(run_page(tree)))
    assert send(admin_client, run_page(tree), key_books=str(books.pk)).status_code == 302


def test_a_row_that_no_context_may_name_is_refused(admin_client: Client) -> None:
    page = run_page(save(func=annotated.of_customer))
    answer = send(admin_client, page, key_customer="1")
    assert "holds secrets" in html.unescape(str(errors(answer)["key_customer"]))


# --- Again ----------------------------------------------------------------------------------------


@pytest.fixture
def loaded(dagster_home: Path) -> None:
    assert dagster_loading.wait(60)


def test_a_run_is_run_again_with_its_context(admin_client: Client, loaded: None) -> None:
    tree = save(func=processes.echo)
    run_id = record(tree, {"tenant": "a", "password": "hunter2"})
    page = text(admin_client.get(f"{RUNS}{run_id}/change/"))
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None
    assert f'href="{run_page(tree, run=run_id)}"' in page
    data = {"action": "again", "token": found[1]}
    first, second = (address(admin_client.post(f"{RUNS}{run_id}/action/", data)) for _ in range(2))
    assert first == second != f"{RUNS}{run_id}/change/"
    row = requested()
    assert row.context == {"tenant": "a", "password": "hunter2"}
    assert (row.tags["user"], row.tags["proctree/triggered_by"]) == ("admin", "admin")
    assert admin_client.get(first).status_code == 200


def test_a_run_is_run_again_with_a_changed_context(admin_client: Client, loaded: None) -> None:
    tree = save(func=processes.echo)
    run_id = record(tree, {"tenant": "a", "password": "hunter2"})
    ProcessTreeInstance.load("t").register_schedule(context={"other": 1})
    page = run_page(tree, run=run_id)
    assert "hunter2" not in text(admin_client.get(page))
    assert json.loads(form_of(admin_client, page)["more"]) == {"tenant": "a"}
    assert send(admin_client, page, more='{"tenant": "b"}').status_code == 302
    assert requested().context == {"tenant": "b", "password": "hunter2", "other": 1}


def test_a_run_of_another_tree_is_no_source(admin_client: Client, loaded: None) -> None:
    run_id = record(save(func=processes.echo), {"tenant": "a"})
    other = save("other", processes.echo)
    page = run_page(other, run=run_id)
    assert "one of another tree" in text(admin_client.get(page))
    answer = send(admin_client, page)
    assert "one of another tree" in text(answer)
    assert not OutboxRun.objects.exists()
    client = staff("view_processtree", "run_processtree")
    assert client.get(page).status_code == 403, "who may not view runs reads no context of one"


def test_what_the_tree_takes_no_longer_is_refused_again(admin_client: Client, loaded: None) -> None:
    run_id = record(save(func=processes.echo), {"tenant": "a"})
    save(func=annotated.name_of)
    admin_client.post(f"{RUNS}{run_id}/action/", {"action": "again"})
    assert "The context lacks" in text(admin_client.get(f"{RUNS}{run_id}/change/"))
    assert not OutboxRun.objects.exists()


# --- Permissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "permissions",
    [("view_processtree", "change_processtree", "view_run"), ("run_processtree",), ()],
)
def test_who_may_not_see_and_run_a_tree_has_no_form(permissions: tuple[str, ...]) -> None:
    tree, client = save(), staff(*permissions)
    assert client.get(run_page(tree)).status_code == 403
    assert client.post(run_page(tree)).status_code == 403
    assert choices(client, tree, key="a").status_code == 403
    client.post(TREES, {"action": "run_now", "_selected_action": [tree.pk]})
    assert not OutboxRun.objects.exists()
    assert Client().get(run_page(tree)).status_code == 302, "to the login"


def test_who_may_see_no_runs_is_led_to_the_tree() -> None:
    tree = save()
    client = staff("view_processtree", "run_processtree")
    answer = send(client, run_page(tree))
    assert address(answer) == f"{TREES}{tree.pk}/change/"
    page = text(client.get(address(answer)))
    assert f"Run {requested().run_id} was requested." in page
    assert f'href="{run_page(tree)}"' in page
    viewer = browser(user("viewer", ["view_processtree"]))
    assert run_page(tree) not in text(viewer.get(f"{TREES}{tree.pk}/change/"))


def test_each_tree_is_asked_for(monkeypatch: pytest.MonkeyPatch, loaded: None) -> None:
    allowed, other = save("allowed"), save("other")
    monkeypatch.setattr(
        ProcessTreeAdmin,
        "has_run_permission",
        lambda page, request, tree=None: tree is None or tree.name == "allowed",
    )
    client = staff("view_processtree", "run_processtree", "view_run")
    assert client.get(run_page(other)).status_code == 403
    assert send(client, run_page(allowed)).status_code == 302
    runs = [record(tree) for tree in (allowed, other)]
    expected = [302, 403]
    answers = [client.post(f"{RUNS}{run_id}/action/", {"action": "again"}) for run_id in runs]
    assert [answer.status_code for answer in answers] == expected
    page = text(
        client.post(
            TREES,
            {"action": "run_now", "_selected_action": [allowed.pk, other.pk]},
            follow=True,
        )
    )
    assert "Not run: other. You may not run it." in page
    assert OutboxRun.objects.filter(process_tree=other).count() == 0


# --- Lists ----------------------------------------------------------------------------------------


def test_several_trees_are_run_with_their_schedules_contexts(admin_client: Client) -> None:
    ready, lacking, broken = save("ready"), save("lacking", annotated.name_of), save("broken")
    ProcessTree.objects.filter(pk=broken.pk).update(processes=[{"name": "a", "func": "os:system"}])
    data = {"action": "run_now", "_selected_action": [ready.pk, lacking.pk, broken.pk]}
    page = html.unescape(text(admin_client.post(TREES, data, follow=True)))
    row = requested()
    assert row.process_tree == ready
    assert f'<a href="{RUNS}{row.run_id}/change/">ready ({str(row.run_id)[:8]})</a>' in page
    assert "Not run: lacking. The context lacks 'organisation'" in page
    assert "Not run: broken." in page
    assert LogEntry.objects.get().object_id == str(ready.pk)


def test_one_tree_alone_is_run_and_its_run_shown(admin_client: Client) -> None:
    answer = admin_client.post(TREES, {"action": "run_now", "_selected_action": [save().pk]})
    assert address(answer) == f"{RUNS}{requested().run_id}/change/"


def test_a_form_costs_as_many_queries_whatever_rows_there_are(
    admin_client: Client, accounts: list[Account]
) -> None:
    page, used = run_page(save(func=annotated.of_account)), []
    for _ in range(2):
        more = Account.objects.get(pk=accounts[0].pk)
        rows = range(Account.objects.count(), Account.objects.count() + 300)
        Account.objects.bulk_create(
            Account(organisation=more.organisation, code=f"{each}", name="x", kind="asset")
            for each in rows
        )
        admin_client.get(page)
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(page)
        used.append(len(queries))
    assert used[0] == used[1]


def test_a_row_or_a_date_is_chosen_where_a_text_may_stand_for_it(admin_client: Client) -> None:
    tree = save(func=annotated.with_stand_ins)
    organisation = Organisation.objects.create(name="Müller")
    send(admin_client, run_page(tree), key_organisation=organisation.pk, key_day="2026-03-31")
    assert requested().context == {
        "organisation": {"$model": "app.Organisation", "pk": organisation.pk},
        "day": {"$date": "2026-03-31"},
    }


@pytest.mark.parametrize("given", ["Müller", 5])
def test_a_text_that_stands_for_a_row_stays_one(admin_client: Client, given: Any) -> None:
    tree = save(func=annotated.with_stand_ins)
    context = {"organisation": given, "day": "yesterday"}
    ProcessTreeInstance.load(tree.name).register_schedule(context=context)
    assert send(admin_client, run_page(tree)).status_code == 302
    assert requested().context == context, "and until is left at its default"
