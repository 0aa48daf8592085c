"""A row in a context is the row that was meant, and none that holds secrets."""

import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from dagster import DagsterInstance
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.context import decode, encode
from proctree_dagster.exceptions import ContextError
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.execution.op_functions import outcome_metadata
from proctree_dagster.orchestration.runs import create, local_runs
from proctree_dagster.process.run import Outcome
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.app.models import AccessToken, Customer, Document, Holding, Organisation, Ticket

pytestmark = pytest.mark.django_db(databases=["default", "north"])


def there_and_back(context: dict[str, Any]) -> Any:
    return decode(json.loads(json.dumps(encode(context))))


def name_of(organisation: Organisation) -> str:
    return f"{organisation.name} in {organisation._state.db}"


@pytest.fixture
def north() -> Organisation:
    """A row of another database, with the key of one in the default database."""
    Organisation.objects.create(pk=1, name="South")
    return Organisation.objects.using("north").create(pk=1, name="North")


def test_a_row_of_another_database_comes_back_from_there(north: Organisation) -> None:
    stored = encode({"a": [north]})
    assert stored == {"a": [{"$model": "app.Organisation", "pk": 1, "using": "north"}]}
    assert encode(stored) == stored
    [found] = decode(stored)["a"]
    assert name_of(found) == "North in north"
    assert name_of(decode({"a": {"$model": "app.Organisation", "pk": 1}})["a"]) == (
        "South in default"
    )


def test_a_function_gets_the_row_that_its_caller_had(
    north: Organisation, settings: Settings
) -> None:
    settings.PROCTREE = {"FUNCTION_MODULES": ["tests"]}
    tree = ProcessTreeInstance("t").add_process("name_of", name_of)
    assert run_tree(tree, {"organisation": north})["results"]["name_of"] == "North in north"


def new(alias: str) -> Organisation:
    return Organisation.objects.using(alias).create(name="x")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda db: Document.objects.using(db).create(title="x"), id="UUID"),
        pytest.param(
            lambda db: Holding.objects.using(db).create(owner="me", day="2026-03-31"),
            id="composite key",
        ),
        pytest.param(lambda db: Ticket.objects.using(db).create(closed=True), id="hidden"),
        pytest.param(
            lambda db: Organisation.objects.using(db).only("pk").get(name=new(db).name),
            id="deferred",
        ),
    ],
)
@pytest.mark.parametrize("alias", ["default", "north"])
def test_it_is_the_same_row_whatever_its_key(make: Callable[[str], Any], alias: str) -> None:
    row = make(alias)
    found = there_and_back({"row": {"nested": [row]}})["row"]["nested"][0]
    row.refresh_from_db()
    assert found == row
    assert found._state.db == alias


def test_a_result_that_is_handed_on_keeps_its_database(north: Organisation) -> None:
    stored = pickle.loads(pickle.dumps(Outcome("completed", result=north)))
    assert name_of(stored.result) == "North in north"
    assert encode({"a": stored.result})["a"]["using"] == "north"


@pytest.mark.parametrize(
    ("using", "complaint"),
    [
        ("gone", "this process has no database 'gone'"),
        (None, "this process has no database None"),
        (["north"], r"this process has no database \['north'\]"),
    ],
)
def test_a_database_that_the_process_lacks_is_an_error_that_names_it(
    using: Any, complaint: str
) -> None:
    stored = {"a": {"$model": "app.Organisation", "pk": 1, "using": using}}
    for read in (encode, decode):
        with pytest.raises(ContextError, match=complaint):
            read(stored)


def test_a_row_that_is_gone_there_is_not_looked_for_elsewhere(north: Organisation) -> None:
    stored = encode({"a": north})
    Organisation.objects.using("north").all().delete()
    with pytest.raises(ContextError, match="primary key 1 in the database 'north' any more"):
        decode(stored)


def test_a_database_without_the_table_is_an_error_that_says_so() -> None:
    with connections["north"].cursor() as cursor:  # rolled back with the test
        cursor.execute("ALTER TABLE app_ticket RENAME TO hidden")
    with pytest.raises(ContextError, match=r"can't be restored .*no such table"):
        decode({"a": {"$model": "app.Ticket", "pk": 1, "using": "north"}})


@pytest.fixture
def replica(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = ["tests.tools.replicas.Replicated"]


def test_a_row_from_a_replica_is_not_tied_to_it(replica: None) -> None:
    row = Organisation.objects.using("north").create(name="x")
    assert encode({"a": row}) == {"a": {"$model": "app.Organisation", "pk": row.pk}}


def test_replicas_are_known_by_what_they_mirror(
    replica: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Organisation.objects.create(name="x")
    assert encode({"a": written})["a"]["using"] == "default", "as far as is known, another database"
    monkeypatch.setitem(connections.settings["north"]["TEST"], "MIRROR", "default")
    assert "using" not in encode({"a": written})["a"]


def test_a_row_that_no_replica_has_yet_is_read_from_the_primary(
    replica: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Organisation.objects.create(name="x")
    found = decode({"a": {"$model": "app.Organisation", "pk": written.pk}})["a"]
    assert (found.pk, found._state.db) == (written.pk, "default")


# --- Which rows may be there ----------------------------------------------------------------------


def rows_with_secrets() -> list[Any]:
    user = User.objects.create_user("boss", password="sesame")
    organisation = Organisation.objects.create(name="Acme")
    customer = Customer.objects.create(organisation=organisation, name="Bob", api_key="sesame")
    return [
        user,
        customer,
        AccessToken.objects.create(key="sesame", customer=customer),
        Session.objects.create(session_key="sesame", session_data="", expire_date=timezone.now()),
        LogEntry.objects.create(user=user, action_flag=1, object_repr="sesame"),
    ]


def test_rows_that_hold_secrets_are_refused_in_both_directions() -> None:
    for row in rows_with_secrets():
        label = row._meta.label
        reference = {"x": [{"$model": label, "pk": row.pk}]}
        line = re.escape(f'set PROCTREE["CONTEXT_MODELS"] = ["ledger", "app", "{label}"]')
        for read, context in [(encode, {"x": [row]}), (encode, reference), (decode, reference)]:
            with pytest.raises(ContextError, match=rf"context\['x'\]\[0\]: .*{line}") as error:
                read(context)
            assert "sesame" not in str(error.value)


def test_what_the_settings_list_is_handed_on() -> None:
    rows = rows_with_secrets()
    labels = [row._meta.label for row in rows]
    with override_settings(PROCTREE={"CONTEXT_MODELS": labels}):
        assert there_and_back({"x": rows})["x"] == rows
    organisation = Organisation.objects.get()
    unlisted = override_settings(PROCTREE={"CONTEXT_MODELS": ["ledger"]})
    with unlisted, pytest.raises(ContextError, match=r"Organisation is not allowed .* not listed"):
        encode({"x": organisation})


def test_a_row_with_secrets_in_a_run_that_was_only_launched_reaches_no_function(
    instance: DagsterInstance,
) -> None:
    user, *_ = rows_with_secrets()
    tree = ProcessTreeInstance("t").add_process("seen", processes.echo).save()
    job = translator().job(tree_records.from_row(tree))
    run = create.create_run(
        instance, job, {"x": {"$model": "auth.User", "pk": user.pk}}, {}, in_memory=False
    )
    ended = local_runs.execute_here(instance, job, run)
    assert not ended.success
    assert not [call for call in processes.calls if call == "echo"]
    text = " ".join(str(entry) for entry in instance.all_logs(run.run_id))
    assert "CONTEXT_MODELS" in text
    assert user.password not in text


def test_what_a_function_returns_is_shown_without_the_secrets_of_rows() -> None:
    *_, token, session, _ = rows_with_secrets()
    shown = outcome_metadata(
        Outcome("completed", result={"token": token}, response_variables={"s": [session]})
    )
    assert "sesame" not in str(shown)
    assert shown["proctree/result"] == "{'token': <app.AccessToken>}"
