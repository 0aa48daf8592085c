"""Triggers, where PostgreSQL is stricter than SQLite: errors, and rows that vanish at once."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DataError, connection, connections, transaction
from django.test import Client
from django.utils import timezone

from proctree_dagster.admin.triggers import last_fires
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.models.validation import trigger_validation
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.services import trigger_evaluation, trigger_firing
from proctree_dagster.triggers import create_trigger, poll_triggers
from tests.admin.routes import make_rows, routes

BAD = {"model": "auth.User", "filter": {"username__regex": "("}}
"""Django takes it, and the database refuses it."""


@pytest.fixture(scope="module")
def database(postgres: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let PostgreSQL be the default database."""
    kept, settings = connections["default"], connections.settings["default"]
    with django_db_blocker.unblock():
        connections.settings["default"] = {**settings, "OPTIONS": {}, **postgres.new_database()}
        del connections["default"]
        try:
            call_command("migrate", verbosity=0)
            yield
        finally:
            connections["default"].close()
            connections.settings["default"] = settings
            connections["default"] = kept


@pytest.fixture(autouse=True)
def tidied_up(database: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
        Trigger.objects.all().delete()
        ProcessTree.objects.all().delete()


@pytest.fixture
def trees() -> list[ProcessTree]:
    """Two trees that subscribe to the event ``e``."""
    trigger = create_trigger("e", "event")
    trees = [ProcessTree.objects.create(name=name, processes=[]) for name in ("a", "b")]
    for tree in trees:
        TriggerSubscription.objects.create(trigger=trigger, process_tree=tree)
    return trees


def fire() -> None:
    try:
        trigger_firing.fire(Trigger.objects.get(name="e"), {}, timezone.now())
    finally:
        connection.close()


def wait_for(thread: threading.Thread) -> bool:
    """Wait until a thread waits for a lock, and say whether it does; or until it ends."""
    while thread.is_alive():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return True
    return False


@pytest.mark.parametrize(
    ("trigger_type", "configuration"),
    [
        ("condition", {**BAD, "operator": "gte", "value": 1}),
        ("outdated_check", {**BAD, "date_field": "date_joined", "max_age_minutes": 1}),
    ],
)
def test_a_query_that_the_database_refuses_does_no_harm_to_the_callers_transaction(
    trigger_type: str, configuration: dict[str, Any]
) -> None:
    assert trigger_validation.problems(trigger_type, configuration) == []
    with transaction.atomic():
        with pytest.raises(DataError, match="regular expression"):
            trigger_evaluation.ask(trigger_type, configuration, {})
        assert not User.objects.exists()


def test_a_tree_that_is_deleted_at_that_moment_keeps_no_other_from_running(
    trees: list[ProcessTree],
) -> None:
    thread = threading.Thread(target=fire)
    with transaction.atomic():
        trees[0].delete()
        thread.start()
        assert wait_for(thread)
    thread.join(60)
    assert list(OutboxRun.objects.values_list("process_tree__name", flat=True)) == ["b"]


def test_a_tree_that_is_saved_at_that_moment_is_not_waited_for(trees: list[ProcessTree]) -> None:
    thread = threading.Thread(target=fire)
    with transaction.atomic():
        trees[1].save()
        thread.start()
        assert not wait_for(thread)
    assert OutboxRun.objects.count() == 2


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 12:00+00 BC"])
def test_a_moment_that_python_lacks_hides_no_other_trigger_and_no_other_tree(moment: str) -> None:
    for name in ("good", "bad"):
        tree = ProcessTree.objects.create(
            name=name, processes=[{"name": "p", "func": "tests.app.processes:one"}]
        )
        ProcessTreeSchedule.objects.create(process_tree=tree)
        trigger = create_trigger(name, "custom", {"function": "tests.app.processes:one"})
        TriggerSubscription.objects.create(trigger=trigger, process_tree=tree)
    _set_moments(moment)
    try:
        assert poll_triggers()["good"].fired
        assert [tree.name for tree in ProcessTree.objects.each()] == ["bad", "good"]
        live = LiveRepositoryData(ProcessTreeTranslator())
        assert {job.name for job in live.get_all_jobs()} == {"bad", "good"}
        assert {each.name for each in live.get_all_schedules()} == {"bad_schedule", "good_schedule"}
        assert {"bad_trigger", "good_trigger"} <= {each.name for each in live.get_all_sensors()}
    finally:
        _set_moments(None)  # or they could not be deleted


def _set_moments(moment: str | None) -> None:
    """Let SQL write a time into what is called bad."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_trigger SET last_checked = %s WHERE name = 'bad'", [moment]
        )
        cursor.execute(
            "UPDATE proctree_dagster_processtreeschedule SET last_run = %s WHERE process_tree_id = "
            "(SELECT id FROM proctree_dagster_processtree WHERE name = 'bad')",
            [moment],
        )


def test_the_admin_s_pages_open_and_ask_what_postgresql_takes() -> None:
    client, rows = Client(), make_rows("e")
    client.force_login(User.objects.create_superuser("admin"))
    for route in routes():
        for asked in ({}, {"q": "e"}, {"q": str(rows.outbox.run_id)}):
            assert client.get(rows.address(route), asked).status_code < 500, route
    for query in ("overdue=yes", "overdue=no", "held_back=dagster", "o=4.-3"):
        page = rows.address(f"proctree_dagster/processtreeschedule/?{query}")
        assert client.get(page).status_code == 200
    assert [each.runs for each in last_fires(rows.trigger)] == [[rows.outbox]]
    User.objects.all()._raw_delete("default")  # there are no tables of the tests' own models
