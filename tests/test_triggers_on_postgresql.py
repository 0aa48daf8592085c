"""Triggers, where PostgreSQL is stricter than SQLite: errors, and rows that vanish at once."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DataError, connection, connections, transaction
from django.utils import timezone

from proctree_dagster import firing, questions
from proctree_dagster.models import OutboxRun, ProcessTree, Trigger, TriggerSubscription
from proctree_dagster.triggers import create_trigger

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
        firing.fire(Trigger.objects.get(name="e"), {}, timezone.now())
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
    assert questions.problems(trigger_type, configuration) == []
    with transaction.atomic():
        with pytest.raises(DataError, match="regular expression"):
            questions.ask(trigger_type, configuration, {})
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
