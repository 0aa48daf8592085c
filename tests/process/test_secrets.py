"""Secrets in contexts: who is given their values, and who never sees one."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from pytest_django import Settings

from proctree_dagster import conf
from proctree_dagster.context import Secret, decode, encode
from proctree_dagster.exceptions import ContextError, SecretError
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, Trigger
from proctree_dagster.models.context_schema import accepts
from proctree_dagster.process import secrets
from proctree_dagster.running import dagster_loading
from proctree_dagster.services import row_runs
from proctree_dagster.services.system_checks import check_settings
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes, secret_functions

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_secrets_yet")]

VALUE = "the token, of 31 + x characters"
CONTEXT = {"token": {"$secret": "XERO_TOKEN"}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XERO_TOKEN", VALUE)
    secret_functions.seen.clear()


def save(*names: str, **options: Any) -> ProcessTree:
    """Save a tree of processes that are given the secret, none of which must succeed."""
    tree = ProcessTreeInstance("uses_secrets", overwrite=True)
    for name in names:
        func = getattr(secret_functions, name)
        tree.add_process(name, func=func, required=False, **options)
    return tree.save()


# --- In contexts ----------------------------------------------------------------------------------


def test_a_reference_is_what_a_context_holds() -> None:
    for given in (CONTEXT, {"token": Secret("XERO_TOKEN")}):
        assert encode(given) == CONTEXT
        assert encode(encode(given)) == CONTEXT
    assert decode(CONTEXT) == {"token": Secret("XERO_TOKEN")}
    assert str(decode({"a": [CONTEXT]})) == "{'a': [{'token': <secret XERO_TOKEN>}]}"


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "x" * 201, 5, None, "a\nb"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ContextError, match=r"context\['token'\].*\$secret"):
        encode({"token": {"$secret": name}})


def test_a_reference_may_be_given_where_a_text_is_taken() -> None:
    reference = CONTEXT["token"]
    assert all(accepts(kind, reference) for kind in (str, str | None, Any, list, bytes | str))
    assert not any(accepts(kind, reference) for kind in (int, float, bool, int | None, None))


def test_a_trigger_and_the_choice_of_rows_cannot_refer_to_one() -> None:
    chosen = {"model": "app.Note", "filter": {"text": CONTEXT["token"]}}
    with pytest.raises(Exception, match="A trigger can't refer to a secret"):
        Trigger(
            name="t",
            trigger_type="condition",
            configuration={**chosen, "operator": "greater_than", "value": 1},
        ).full_clean()
    row = save("use")
    schedule = ProcessTreeSchedule(process_tree=row, interval_minutes=5, for_each=chosen)
    with pytest.raises(Exception, match="for_each can't refer to a secret"):
        schedule.full_clean()


# --- Who is given the value -----------------------------------------------------------------------


def test_only_the_function_that_takes_it_is_given_the_value() -> None:
    save("use")
    results = run_tree("uses_secrets", {**CONTEXT, "other": {"$secret": "NOT_SET"}})
    assert results["results"]["use"] == len(VALUE)
    assert secret_functions.seen == [VALUE]


def test_it_is_found_in_lists_and_dictionaries_and_by_those_that_take_everything() -> None:
    ProcessTreeInstance("echo").add_process("only", func=processes.echo).save()
    given: list[Any] = []
    nested = {"headers": [{"auth": CONTEXT["token"]}, 1], "plain": {"a": 1}}
    run_tree("echo", nested, functions={"only": lambda **kwargs: given.append(kwargs)})
    assert given == [{"headers": [{"auth": VALUE}, 1], "plain": {"a": 1}}]


def test_an_outdated_check_is_given_it_too(caplog: pytest.LogCaptureFixture) -> None:
    save("use", outdated_check=secret_functions.is_due)
    run_tree("uses_secrets", CONTEXT)
    assert secret_functions.seen == [VALUE, VALUE]
    assert "Its outdated check raised LookupError: nothing at (secret XERO_TOKEN)" in caplog.text
    assert VALUE not in caplog.text


def test_a_cached_result_is_found_by_the_name_of_the_secret(no_calls_yet: None) -> None:
    row = save("use", cache_key="{token}")
    ProcessTree.objects.filter(pk=row.pk).update(cache_enabled=True)
    run_tree("uses_secrets", CONTEXT)
    assert run_tree("uses_secrets", CONTEXT)["status"]["use"] == "cached"
    assert VALUE not in str(caches["default"]._cache)  # type: ignore[attr-defined]


def test_a_function_of_for_each_is_given_it_and_its_contexts_are_masked() -> None:
    row = save("use")
    schedule = ProcessTreeSchedule(
        process_tree=row,
        interval_minutes=5,
        context=CONTEXT,
        for_each={"function": "tests.app.secret_functions:each"},
    )
    [found] = row_runs.rows(schedule)
    assert found.context == {"from": "(secret XERO_TOKEN)"}


# --- Where it comes from --------------------------------------------------------------------------


def ask(name: str) -> Any:
    return secrets.resolved("Process 'sync'", {"token": Secret(name)})["token"]


def test_a_secret_that_is_not_set_is_named_with_its_process(monkeypatch: Any) -> None:
    monkeypatch.setenv("BLANK", "")
    for name in ("NOT_SET", "BLANK"):
        said = f"^Process 'sync' needs the secret '{name}', and the environment does not have it"
        with pytest.raises(SecretError, match=said):
            ask(name)
    save("use")
    error = run_tree("uses_secrets", {"token": {"$secret": "NOT_SET"}})["errors"]["use"]
    assert error.startswith("SecretError: Process 'use' needs the secret 'NOT_SET'")


def test_the_settings_may_name_a_function(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SECRETS": "tests.app.secret_functions.known"}
    assert ask("vault/a") == "value of a, from a vault"
    with pytest.raises(
        SecretError, match=r"and tests\.app.secret_functions.known does not have it"
    ):
        ask("XERO_TOKEN")
    with pytest.raises(SecretError, match="returned int, where a text is expected"):
        ask("wrong")
    with pytest.raises(SecretError, match="'sealed': ConnectionError: the vault is sealed"):
        ask("sealed")
    with pytest.raises(SecretError, match=r"Process 'sync' can't be given a secret.*'short' has"):
        ask("short")


def test_the_settings_may_list_the_variables(settings: Settings, monkeypatch: Any) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SECRETS": ["XERO_TOKEN"]}
    assert ask("XERO_TOKEN") == VALUE
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host/name")
    with pytest.raises(SecretError, match="DATABASE_URL"):
        ask("DATABASE_URL")


def test_a_function_that_is_not_there_is_said(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SECRETS": "tests.app.secret_functions.nowhere"}
    with pytest.raises(SecretError, match=r"PROCTREE.*can't be used"):
        ask("XERO_TOKEN")
    [problem] = [each for each in check_settings(None) if each.id == "proctree_dagster.E011"]
    assert "secret_functions.nowhere', which can't be used" in problem.msg


@pytest.mark.parametrize("wrong", ["", "nodots", 5, [""], [5], {"A": "b"}])
def test_what_the_setting_may_be_is_said(wrong: Any) -> None:
    [problem] = conf.problems({"SECRETS": wrong})
    assert problem.startswith("PROCTREE['SECRETS'] must be the dotted path of a function, a list")


# --- Where it never is ----------------------------------------------------------------------------


def test_the_value_is_in_no_table_file_log_page_or_output(
    dagster_home: Path, admin_client: Client, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    assert dagster_loading.wait(60)
    done = [execute(name) for name in ("use", "tell", "fail")]
    assert [each["status"] for each in done] == [
        {"use": "completed"},
        {"tell": "completed", "after": "completed"},
        {"fail": "failed"},
    ]
    assert done[2]["errors"]["fail"] == (
        "ValueError: ('401 for (secret XERO_TOKEN)', {'headers': ['(secret XERO_TOKEN)']})"
    )
    said = [repr(done), *pages(admin_client, done), *outputs(done)]
    said += [*capsys.readouterr(), caplog.text, all_rows()]
    assert all("XERO_TOKEN" in text for text in said[1:4]), "a page shows the reference"
    assert [text for text in said if VALUE in text] == []
    assert any("401 for (secret XERO_TOKEN)" in text for text in said)
    files = [each for each in dagster_home.rglob("*") if each.is_file()]
    assert [each for each in files if VALUE.encode() in each.read_bytes()] == []


def test_a_secret_of_bytes_that_are_no_utf_8_is_masked_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = b"the latin-1 token: \xe9\xff, of Fran\xe7ois".decode("utf-8", "surrogateescape")
    monkeypatch.setenv("XERO_TOKEN", value)
    results = execute("use")
    assert results["status"] == {"use": "completed"}, results["errors"]
    assert secret_functions.seen == [value]
    told = execute("tell")
    assert value not in repr(told)


def execute(name: str) -> Any:
    """Save a tree with a schedule that has the secret, and run it."""
    tree = ProcessTreeInstance(name)
    variables = {"session": {"type": "list"}} if name == "tell" else {}
    func = getattr(secret_functions, name)
    tree.add_process(name, func=func, response_vars=variables, retries=int(name == "fail"))
    if name == "tell":
        tree.add_process("after", func=secret_functions.after, dependencies=[name])
    tree.set_run_tags(["client"]).save()
    tree.register_schedule(interval_minutes=5, context={**CONTEXT, "client": CONTEXT["token"]})
    return tree.execute()


def pages(client: Client, done: list[Any]) -> Iterator[str]:
    """Yield what the admin shows of the runs, and of all that is saved."""
    for results in done:
        run = f"/admin/proctree_dagster/run/{results['run_id']}/change/"
        yield client.get(run, {"log": "all"}).content.decode()
    for model in ("run", "processtree", "processtreeschedule", "outboxrun"):
        yield client.get(f"/admin/proctree_dagster/{model}/").content.decode()
    for schedule in ProcessTreeSchedule.objects.all():
        for model, pk in (
            ("processtreeschedule", schedule.pk),
            ("processtree", schedule.process_tree_id),
        ):
            yield client.get(f"/admin/proctree_dagster/{model}/{pk}/change/").content.decode()


COMMANDS = "tell", "fail"
"""The trees that the command line runs, too."""


def outputs(done: list[Any]) -> Iterator[str]:
    """Yield what the command line prints of the runs."""
    logs = [["logs", results["run_id"], "-v", "2"] for results in done]
    trees = [["show", name] for name in ("use", "tell", "fail")]
    runs = [["run", name, "--set", f"token={json.dumps(CONTEXT['token'])}"] for name in COMMANDS]
    for arguments in (*runs, *logs, *trees, ["runs"], ["runs", "--json"], ["list"]):
        out, err = io.StringIO(), io.StringIO()
        try:
            call_command("proctree", *arguments, stdout=out, stderr=err)
        except CommandError as error:  # the run has failed
            yield str(error)
        yield out.getvalue()
        yield err.getvalue()


def all_rows() -> str:
    """Return every row of every table of Django's database."""
    said = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            said.append(repr(cursor.fetchall()))
    return "".join(said)
