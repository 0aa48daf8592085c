"""Triggers: made, subscribed to, polled, fired; each fire makes each subscriber's run once."""

import datetime as dt
import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from dagster import DagsterInstance
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import (
    ContextError,
    InvalidTree,
    TreeNotFound,
    TriggerError,
    TriggerNotFound,
)
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    Trigger,
    TriggerPassage,
    TriggerState,
    TriggerSubscription,
)
from proctree_dagster.models.validation import trigger_validation
from proctree_dagster.services import process_gate, trigger_evaluation, trigger_firing
from proctree_dagster.services.trigger_firing import Polled
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import (
    create_trigger,
    fire_trigger,
    get_tree_subscription,
    get_trigger,
    get_trigger_subscriptions,
    poll_triggers,
    reset_trigger,
    set_trigger_state,
    subscribe_tree_to_trigger,
    unsubscribe_tree_from_trigger,
)
from tests.app import processes
from tests.app.models import Customer, Holding, Organisation, Ticket
from tests.tools.schedules import HOUR, MINUTE, Clock, utc

pytestmark = pytest.mark.django_db

SECOND = dt.timedelta(seconds=1)
THREE_ROWS = {"model": "app.Organisation", "operator": "gte", "value": 3}


@pytest.fixture(autouse=True)
def nothing_is_wanted() -> Iterator[None]:
    processes.wanted.clear()
    processes.calls.clear()
    yield
    processes.wanted.clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("django.utils.timezone.now", clock)
    return clock


def tree(name: str = "tree", **subscriptions: dict[str, Any]) -> ProcessTree:
    """Save a tree that subscribes to triggers, each with a context."""
    written = ProcessTreeInstance(name).add_process("one", func=processes.one)
    for trigger, context in subscriptions.items():
        written.subscribe_to_trigger(trigger, context)
    return written.save()


def poll(trigger: Trigger, at: dt.datetime | None = None) -> Polled:
    return trigger_firing.poll(trigger.pk, at or timezone.now())


def row(trigger: Trigger) -> Trigger:
    """Return the trigger as the database has it."""
    return Trigger.objects.get(pk=trigger.pk)


def waiting() -> list[tuple[str, dict[str, Any]]]:
    """Return the tree and the context of each run that is to be made."""
    runs = OutboxRun.objects.select_related("process_tree").order_by("pk")
    return [(run.process_tree.name, run.context) for run in runs]


@contextmanager
def before_the_first_update(act: Callable[[], object]) -> Iterator[None]:
    """Let another process act just before the update by which this one fires."""
    done = False

    def around(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        nonlocal done
        if not done and sql.startswith("UPDATE") and '"fire_count" =' in sql:
            done = True
            act()
        return execute(sql, *args)

    with connection.execute_wrapper(around):
        yield
    assert done, "nothing was about to fire"


# --- Made -----------------------------------------------------------------------------------------


def test_a_trigger_is_made_pending_and_switched_on() -> None:
    trigger = create_trigger("t", "event", description="When it is time.")
    assert row(trigger).state == "pending"
    assert (trigger.enabled, trigger.fire_count, trigger.check_count) == (True, 0, 0)
    assert trigger.last_checked is trigger.last_triggered is trigger.next_due is None


@pytest.mark.parametrize(
    ("trigger_type", "configuration", "expected"),
    [
        (
            "outdated_check",
            {
                **{"model": "app.Ticket", "date_field": "closed", "filter": {"colour": "red"}},
                **{"max_age_minutes": -1, "x": 1},
            },
            [
                "no key 'x'",
                "max_age_minutes must be",
                "filter: it can't be used on app.Ticket: Cannot resolve keyword 'colour'",
                "date_field: 'closed' of app.Ticket is no date, but BooleanField",
            ],
        ),
        (
            "condition",
            {"model": "app.Gone", "operator": "like"},
            ["operator must be one of", "There is no model 'app.Gone'"],
        ),
        (
            "condition",
            {"model": "app.Ticket", "filter": {"pk": "x"}, "operator": "gt", "value": 1},
            ["filter: it can't be used on app.Ticket: Field 'id' expected a number"],
        ),
        (
            "outdated_check",
            {"model": "app.Ticket", "date_field": "gone", "max_age_minutes": 1},
            ["date_field: Cannot resolve keyword 'gone'"],
        ),
        ("custom", {"function": "nobody knows it"}, ["No function is registered"]),
        ("custom", {"function": "tests.app.processes:gone"}, ["names nothing"]),
        (
            "condition",
            {"field": "a", "operator": "eq", "value": {"$date": "soon"}},
            ["can't be stored"],
        ),
        ("alarm", {}, ["trigger_type: Value 'alarm' is not a valid choice", "type must be one of"]),
    ],
)
def test_a_trigger_that_makes_no_sense_is_refused_with_all_of_its_problems(
    trigger_type: str, configuration: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(TriggerError, match="The trigger 't' is not valid") as caught:
        create_trigger("t", trigger_type, configuration)
    assert len(caught.value.problems) == len(expected), caught.value.problems
    for part in expected:
        assert part in str(caught.value)
    assert not Trigger.objects.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ["not empty"]),
        (" ", ["not empty"]),
        (None, ["not empty"]),
        (5, ["not empty"]),
        (" a ", ["may not begin or end with a space"]),
        ("a\x00b", ["NUL"]),
        ("a\ud800", ["half of a surrogate pair"]),
        ("a\tb", ["control characters"]),
        ("\n" + "a" * 200, ["201 characters long", "begin or end", "control characters"]),
    ],
)
def test_a_name_that_is_none_is_refused_together_with_all_other_problems(
    name: Any, expected: list[str]
) -> None:
    with pytest.raises(TriggerError) as caught:
        create_trigger(name, "event", {"x": 1})
    expected = [*expected, "has no key 'x'"]
    assert len(caught.value.problems) == len(expected), caught.value.problems
    for part in expected:
        assert part in str(caught.value)


def test_a_trigger_that_another_process_makes_at_that_moment_is_one_that_exists() -> None:
    def make() -> None:
        Trigger.objects.bulk_create([Trigger(name="t", trigger_type="event", enabled=False)])

    done = False

    def around(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        nonlocal done
        if not done and sql.startswith(("SAVEPOINT", "INSERT")):
            done = True
            make()
        return execute(sql, *args)

    with connection.execute_wrapper(around):
        trigger = create_trigger("t", "event", description="Ours.")
    assert Trigger.objects.get() == trigger
    assert (row(trigger).description, row(trigger).enabled) == ("Ours.", False)


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        ("app.Customer", {"settings__contains": {"a": 1}}),  # SQLite can't
        ("auth.User", {"pk__lt": Decimal("Infinity")}),
    ],
)
def test_a_filter_that_the_database_cannot_do_is_a_problem(
    model: str, chosen: dict[str, Any]
) -> None:
    configuration = {"model": model, "filter": chosen, "operator": "gte", "value": 1}
    with pytest.raises(TriggerError, match=f"filter: it can't be used on {model}"):
        create_trigger("t", "condition", configuration)


SECRETS: list[tuple[str, dict[str, Any]]] = [
    ("condition", {"model": "auth.User", "filter": {"password__startswith": "pbkdf2"}}),
    ("condition", {"model": "auth.User", "filter": {"username": "boss", "password__gt": "p"}}),
    ("condition", {"model": "app.Customer", "filter": {"account_manager__password__gt": "p"}}),
    ("condition", {"model": "app.Organisation", "filter": {"customers__api_key__regex": "^a"}}),
    ("condition", {"model": "auth.User", "filter": {"logentry__object_repr__contains": "a"}}),
    ("condition", {"model": "app.Customer", "filter": {"settings__xero__token__gt": "a"}}),
    ("condition", {"model": "app.Customer", "filter": {"settings": {"a": [{"token": "a"}]}}}),
    ("condition", {"model": "app.Customer", "filter": {"settings__regex": "token.: .a"}}),
    ("condition", {"model": "app.Call", "filter": {"made_with__gte": "a"}}),
    ("condition", {"model": "app.AccessToken", "filter": {}}),
    ("condition", {"model": "sessions.Session", "filter": {"session_key__startswith": "a"}}),
    ("condition", {"model": "auth.User", "filter": {"_connector": "OR", "_negated": True}}),
    ("outdated_check", {"model": "sessions.Session", "date_field": "expire_date"}),
    ("outdated_check", {"model": "admin.LogEntry", "date_field": "action_time"}),
    ("outdated_check", {"model": "auth.User", "date_field": "logentry__action_time"}),
]


@pytest.mark.parametrize(("kind", "asked"), SECRETS)
def test_no_trigger_reads_a_secret_also_one_that_was_written_past_the_check(
    kind: str, asked: dict[str, Any]
) -> None:
    rest = {"operator": "gte", "value": 0} if kind == "condition" else {"max_age_minutes": 1}
    complaint = "no trigger may read it|not allowed here|name one of its keys|is no field"
    with pytest.raises(TriggerError, match=complaint):
        create_trigger("t", kind, {**asked, **rest})
    trigger = Trigger.objects.create(
        name="past the check", trigger_type=kind, configuration={**asked, **rest}
    )
    polled = poll(trigger)
    assert not polled.fired
    assert re.search(complaint, polled.reason)


def test_no_trigger_asks_about_a_model_that_is_not_listed() -> None:
    asked = {"model": "auth.Group", "operator": "gte", "value": 0}
    line = r'set PROCTREE\["TRIGGER_MODELS"\] = \["ledger", "app", "auth.User", "auth.Group"\]'
    with pytest.raises(TriggerError, match=line):
        create_trigger("t", "condition", asked)
    with override_settings(PROCTREE={"TRIGGER_MODELS": ["auth"]}):
        trigger = create_trigger("t", "condition", asked)
    assert re.search(line, poll(trigger).reason), "the settings count when it is asked"


def test_a_function_that_is_not_allowed_is_refused_and_its_module_is_not_imported() -> None:
    assert "antigravity" not in sys.modules
    with pytest.raises(TriggerError, match="'antigravity:fly' is not allowed"):
        create_trigger("t", "custom", {"function": "antigravity:fly"})
    trigger = Trigger.objects.create(
        name="past the check", trigger_type="custom", configuration={"function": "antigravity:fly"}
    )
    assert "FunctionNotAllowed: 'antigravity:fly' is not allowed" in poll(trigger).reason
    assert "antigravity" not in sys.modules


def test_a_filter_that_finds_nothing_by_itself_is_one() -> None:
    configuration = {**THREE_ROWS, "filter": {"pk__in": []}}
    assert trigger_validation.problems("condition", configuration) == []
    assert "Organisation: 0" in poll(create_trigger("t", "condition", configuration)).reason


def test_to_make_a_trigger_again_changes_what_it_says_and_nothing_else() -> None:
    trigger = create_trigger("t", "event")
    fire_trigger(trigger)
    Trigger.objects.update(enabled=False)
    before = row(trigger)
    assert create_trigger("t", "event").updated_at == before.updated_at
    again = create_trigger("t", "event", description="new")
    assert (again.pk, row(again).description) == (trigger.pk, "new")
    assert (row(again).state, row(again).fire_count, row(again).enabled) == ("fired", 1, False)
    with pytest.raises(TriggerError, match="of type 'event' already; delete it first"):
        create_trigger("t", "custom", {"function": "registered"})


def test_an_edit_that_takes_its_time_does_not_undo_what_was_polled_meanwhile() -> None:
    trigger = create_trigger("t", "event")
    edited = row(trigger)
    fire_trigger("t")
    edited.description = "new"
    edited.save()
    assert (row(trigger).state, row(trigger).fire_count) == ("fired", 1)
    edited.state = TriggerState.RESET
    edited.save()
    assert row(trigger).state == "reset", "what was changed on the object is saved"


# --- Subscribed to --------------------------------------------------------------------------------


def test_a_tree_subscribes_once_and_its_context_is_what_was_said_last() -> None:
    create_trigger("t", "event")
    tree()
    first = subscribe_tree_to_trigger("tree", "t", {"a": 1})
    TriggerSubscription.objects.update(enabled=False)
    again = subscribe_tree_to_trigger("tree", "t", {"day": dt.date(2026, 1, 1)})
    assert again.pk == first.pk
    [found] = get_trigger_subscriptions("t")
    assert found == get_tree_subscription("tree", "t")
    assert found.context == {"day": {"$date": "2026-01-01"}}
    assert not found.enabled, "what an operator has switched off stays off"
    assert unsubscribe_tree_from_trigger("tree", "t")
    assert not unsubscribe_tree_from_trigger("tree", "t")
    assert get_tree_subscription("tree", "t") is None


def test_what_does_not_exist_is_named() -> None:
    create_trigger("t", "event")
    tree()
    with pytest.raises(TriggerNotFound, match="no trigger called 'x'"):
        subscribe_tree_to_trigger("tree", "x")
    with pytest.raises(TreeNotFound, match="no process tree called 'x'"):
        subscribe_tree_to_trigger("x", "t")
    with pytest.raises(TriggerNotFound, match="'x'"):
        fire_trigger("x")
    with pytest.raises(ContextError, match=r"context\['a'\]"):
        subscribe_tree_to_trigger("tree", "t", {"a": object()})


class TestTrees:
    """The methods of ``ProcessTreeInstance``."""

    def test_triggers_are_part_of_a_tree_and_of_its_revision(self) -> None:
        create_trigger("b", "event")
        create_trigger("a", "event")
        plain = tree()
        assert "triggers" not in plain.to_dict()
        before = plain.revision
        loaded = ProcessTreeInstance.load("tree").subscribe_to_trigger("b", {"x": 1})
        loaded.subscribe_to_trigger("a", enabled=False)
        expected = [{"trigger": "a", "enabled": False}, {"trigger": "b", "context": {"x": 1}}]
        assert ProcessTree.objects.get().to_dict()["triggers"] == expected
        assert loaded.to_dict()["triggers"] == expected
        assert ProcessTree.objects.get().revision != before
        loaded.unsubscribe_from_trigger("a").unsubscribe_from_trigger("b")
        assert ProcessTree.objects.get().revision == before

    def test_a_tree_that_is_not_saved_subscribes_when_it_is(self) -> None:
        create_trigger("t", "event")
        written = ProcessTreeInstance("tree").add_process("one", func=processes.one)
        written.subscribe_to_trigger("t", {"a": 1})
        assert not TriggerSubscription.objects.exists()
        assert written.to_dict()["triggers"] == [{"trigger": "t", "context": {"a": 1}}]
        written.save()
        assert TriggerSubscription.objects.get().context == {"a": 1}

    def test_a_tree_that_is_overwritten_keeps_its_subscriptions(self) -> None:
        create_trigger("t", "event")
        create_trigger("u", "event")
        tree(t={}, u={})
        again = ProcessTreeInstance("tree", overwrite=True).add_process("two", func=processes.two)
        again.unsubscribe_from_trigger("u")
        assert again.to_dict()["triggers"] == [{"trigger": "t"}]
        again.save()
        assert [each.trigger.name for each in TriggerSubscription.objects.all()] == ["t"]

    def test_to_leave_a_trigger_that_was_deleted_is_no_problem(self) -> None:
        written = ProcessTreeInstance("tree").add_process("one", func=processes.one)
        written.unsubscribe_from_trigger("gone").save()
        assert not TriggerSubscription.objects.exists()

    def test_a_trigger_that_does_not_exist_is_a_problem_of_the_tree(self) -> None:
        written = (
            ProcessTreeInstance("tree")
            .add_process("one", func=processes.one, trigger="x", retries=-1)
            .add_process("two", func=processes.two)
            .add_trigger_to_process("two", "y")
            .subscribe_to_trigger("z")
        )
        with pytest.raises(InvalidTree) as caught:
            written.save()
        assert [problem.split(";")[0] for problem in caught.value.problems] == [
            "Process 'one': retries must be from 0 to 1000, not -1.",
            "Process 'one' waits for the trigger 'x', which does not exist",
            "Process 'two' waits for the trigger 'y', which does not exist",
            "The tree subscribes to the trigger 'z', which does not exist",
        ]
        assert not ProcessTree.objects.exists()

    def test_a_trigger_is_made_for_a_process_and_named_by_it(self) -> None:
        written = ProcessTreeInstance("tree").add_process("one", func=processes.one)
        trigger = written.create_trigger("t", "event", description="d", enabled=False)
        assert not trigger.enabled
        written.add_trigger_to_process("one", trigger).save()
        assert ProcessTree.objects.get().processes[0]["trigger"] == "t"
        assert "triggers" not in written.to_dict(), "it waits, it does not subscribe"


# --- Fired ----------------------------------------------------------------------------------------


def test_each_subscriber_runs_with_the_context_of_the_subscription_and_of_the_fire() -> None:
    create_trigger("t", "event")
    tree("a", t={"x": 1, "y": 1})
    tree("b", t={})
    tree("c", t={})
    tree("d")
    TriggerSubscription.objects.filter(process_tree__name="c").update(enabled=False)
    fired = fire_trigger("t", {"y": 2, "day": dt.date(2026, 1, 1)})
    day = {"$date": "2026-01-01"}
    assert waiting() == [("a", {"x": 1, "y": 2, "day": day}), ("b", {"y": 2, "day": day})]
    assert [(run.tree, uuid.UUID(run.run_id)) for run in fired] == list(
        OutboxRun.objects.order_by("pk").values_list("process_tree__name", "run_id")
    )
    run = OutboxRun.objects.first()
    assert run is not None
    assert run.tags == {run_tags.TRIGGERED_BY: "trigger", run_tags.TRIGGER: "t"}
    assert run.after == []


def test_a_fire_is_counted_and_names_the_pages_of_its_runs(
    clock: Clock, settings: Settings
) -> None:
    settings.PROCTREE = {"DAGSTER_URL": "http://dagster"}
    create_trigger("t", "event")
    tree(t={})
    for count in (1, 2):  # an event fires each time
        [run] = fire_trigger("t")
        assert run.url == f"http://dagster/runs/{run.run_id}"
        trigger = get_trigger("t")
        assert (trigger.state, trigger.fire_count) == ("fired", count)
        assert trigger.last_triggered == clock.now
    assert len(waiting()) == 2


def test_a_disabled_trigger_does_not_fire_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    create_trigger("t", "event", enabled=False)
    tree(t={})
    assert fire_trigger("t") == []
    assert (waiting(), get_trigger("t").fire_count) == ([], 0)
    assert "'t' is disabled" in caplog.text


def test_a_context_that_cannot_be_stored_fires_nothing() -> None:
    create_trigger("t", "event")
    tree(t={})
    with pytest.raises(ContextError, match=r"context\['a'\] is object"):
        fire_trigger("t", {"a": object()})
    assert (waiting(), get_trigger("t").fire_count) == ([], 0)


def test_a_subscription_that_sql_has_spoiled_keeps_no_other_tree_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    create_trigger("t", "event")
    tree("a", t={})
    tree("b", t={})
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_triggersubscription SET context = '[1]' "
            "WHERE process_tree_id = %s",
            [ProcessTree.objects.get(name="a").pk],
        )
    assert [run.tree for run in fire_trigger("t")] == ["b"]
    assert "The subscription of a: t is invalid" in caplog.text


class TestTransactions:
    """Rows are written in the caller's transaction, and delivered after it."""

    @pytest.fixture
    def delivered(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        calls: list[list[str]] = []
        monkeypatch.setattr("proctree_dagster.running.tree_runs.deliver", calls.append)
        create_trigger("t", "event")
        tree(t={})
        return calls

    def test_without_one_a_fire_is_delivered_at_once(self, delivered: list[list[str]]) -> None:
        [run] = fire_trigger("t")
        assert delivered == [[run.run_id]]

    def test_inside_one_it_is_delivered_after_the_commit(
        self, delivered: list[list[str]], django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            [run] = fire_trigger("t")
            assert delivered == []
        assert delivered == [[run.run_id]]

    def test_after_a_rollback_there_is_nothing(
        self, delivered: list[list[str]], django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            fire_trigger("t")
            assert len(waiting()) == 1
            transaction.set_rollback(True)
        assert (delivered, waiting()) == ([], [])
        assert (get_trigger("t").state, get_trigger("t").fire_count) == ("pending", 0)

    @pytest.mark.parametrize(
        "away",
        [
            "proctree_dagster.services.run_outbox.open_rows",
            "proctree_dagster.orchestration.runs.opening.check_queue",
        ],
    )
    def test_a_delivery_that_fails_is_logged_and_the_runs_wait(
        self,
        instance: DagsterInstance,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        away: str,
    ) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise OSError("the database is away")

        create_trigger("t", "event")
        tree(t={})
        monkeypatch.setattr(away, fail)
        assert len(fire_trigger("t")) == 1
        assert "can't be handed to Dagster now" in caplog.text
        assert "OSError: the database is away" in caplog.text
        assert len(waiting()) == 1


# --- Polled ---------------------------------------------------------------------------------------


def rows(count: int) -> None:
    """Let there be so many rows."""
    Organisation.objects.all().delete()
    Organisation.objects.bulk_create([Organisation(name=str(number)) for number in range(count)])


def test_a_level_fires_on_becoming_true_and_is_armed_again_when_it_is_false() -> None:
    trigger = create_trigger("t", "condition", THREE_ROWS)
    tree(t={"a": 1})
    story = []
    for count in (2, 3, 5, 1, 2, 4):
        rows(count)
        polled = poll(trigger)
        story.append((count, row(trigger).state, polled.fired, len(waiting())))
    assert story == [
        (2, "pending", False, 0),
        (3, "fired", True, 1),
        (5, "fired", False, 1),
        (1, "reset", False, 1),
        (2, "reset", False, 1),
        (4, "fired", True, 2),
    ]
    assert waiting() == [("tree", {"a": 1})] * 2
    assert (row(trigger).check_count, row(trigger).fire_count) == (6, 2)


def test_a_poll_says_what_it_found() -> None:
    trigger = create_trigger("t", "condition", THREE_ROWS)
    tree(t={})
    expected = [
        (0, "Not so: rows of app.Organisation: 0; asked: gte 3."),
        (3, "Fired: rows of app.Organisation: 3; asked: gte 3. Runs: "),
        (4, "Still so, and it has fired: rows of app.Organisation: 4; asked: gte 3."),
        (1, "Not so any more, it is armed again: rows of app.Organisation: 1; asked: gte 3."),
    ]
    for count, reason in expected:
        rows(count)
        assert poll(trigger).reason.startswith(reason)


def test_a_trigger_that_is_reset_by_hand_fires_again_while_it_is_true() -> None:
    trigger = create_trigger("t", "custom", {"function": "tests.app.processes:is_wanted"})
    processes.wanted.append(True)
    assert poll(trigger).fired
    assert not poll(trigger).fired
    assert reset_trigger("t").state == "reset"
    assert poll(trigger).fired


def test_a_state_is_set_without_a_run() -> None:
    trigger = create_trigger("t", "event")
    tree(t={})
    assert set_trigger_state(trigger, "fired").state == row(trigger).state == "fired"
    assert waiting() == []
    with pytest.raises(TriggerError, match="one of pending, fired, reset, not 'armed'"):
        set_trigger_state("t", "armed")


def test_rows_are_counted_as_the_default_manager_sees_them_and_filtered() -> None:
    Ticket.objects.create()
    Ticket.objects.create(closed=True)
    configuration = {"model": "app.Ticket", "operator": "eq", "value": 1}
    assert trigger_evaluation.ask("condition", configuration, {}).yes
    assert not trigger_evaluation.ask(
        "condition", {**configuration, "filter": {"closed": True}}, {}
    ).yes


TEXT_LOOKUPS = (
    *(("icontains", "sesame"), ("startswith", '{"client'), ("istartswith", "{"), ("gte", "")),
    *(("endswith", '"}'), ("iendswith", "}"), ("regex", "s.same"), ("iregex", "S.same")),
    *(("iexact", '{"client_secret": "sesame"}'), ("lt", "~")),
)


@pytest.mark.parametrize(("lookup", "value"), TEXT_LOOKUPS)
@pytest.mark.parametrize(
    ("model", "path"),
    [("app.Customer", "settings__xero"), ("app.Organisation", "customers__settings__xero")],
)
@pytest.mark.parametrize("held", [{"client_secret": "sesame"}, [1, {"client_secret": "sesame"}]])
def test_no_text_lookup_reads_what_a_dictionary_in_json_holds(
    model: str, path: str, lookup: str, value: str, held: Any
) -> None:
    acme = Organisation.objects.create(name="Acme")
    for settings in ({"xero": held}, {"plan": 1}):
        Customer.objects.create(organisation=acme, settings=settings)
    asked = {"model": model, "filter": {f"{path}__{lookup}": value}}
    answer = trigger_evaluation.ask("condition", {**asked, "operator": "gte", "value": 1}, {})
    assert not answer.yes, answer.reason


@pytest.mark.parametrize(
    ("lookup", "value"),
    [("plan__startswith", "pro"), ("plan__gt", "p"), ("seats__gte", 5), ("tags__icontains", "new")],
)
def test_texts_numbers_and_lists_in_json_are_found_as_before(lookup: str, value: Any) -> None:
    acme = Organisation.objects.create(name="Acme")
    settings = {"plan": "pro {2}", "seats": 7, "tags": ["new"], "xero": {"token": "sesame"}}
    Customer.objects.create(organisation=acme, settings=settings)
    Customer.objects.create(organisation=acme)
    asked = {"model": "app.Customer", "filter": {f"settings__{lookup}": value}}
    assert trigger_evaluation.ask("condition", {**asked, "operator": "eq", "value": 1}, {}).yes


def test_what_is_asked_of_any_model_is_how_old_its_newest_date_is(clock: Clock) -> None:
    configuration = {"model": "auth.User", "date_field": "date_joined", "max_age_minutes": 60}
    assert trigger_evaluation.ask("outdated_check", configuration, {}).yes, "there is none"
    User.objects.create(username="old", date_joined=clock.now - 2 * HOUR)
    assert trigger_evaluation.ask("outdated_check", configuration, {}).yes
    User.objects.create(username="new", date_joined=clock.now - HOUR)
    assert not trigger_evaluation.ask("outdated_check", configuration, {}).yes, (
        "as old as it may be"
    )
    filtered = {**configuration, "filter": {"username__startswith": "o"}}
    assert trigger_evaluation.ask("outdated_check", filtered, {}).yes
    clock.now += SECOND
    assert trigger_evaluation.ask("outdated_check", configuration, {}).yes


def test_a_day_counts_from_its_beginning_in_djangos_zone(clock: Clock) -> None:
    Holding.objects.create(owner="me", day=dt.date(2026, 6, 10))  # 22:00 UTC the day before
    configuration = {"model": "app.Holding", "date_field": "day", "max_age_minutes": 60}
    clock.now = utc("2026-06-09 23:00")
    assert not trigger_evaluation.ask("outdated_check", configuration, {}).yes
    clock.now += SECOND
    assert trigger_evaluation.ask("outdated_check", configuration, {}).yes


def test_a_date_may_be_found_along_a_relation() -> None:
    configuration = {
        **{"model": "app.Customer", "date_field": "account_manager__date_joined"},
        **{"max_age_minutes": 5},
    }
    assert trigger_validation.problems("outdated_check", configuration) == []
    assert trigger_evaluation.ask("outdated_check", configuration, {}).yes


class TestSchedules:
    """A schedule fires once for each due time; downtime gives one."""

    CONFIGURATION = {"interval_minutes": 60, "timezone": "UTC"}

    def test_each_due_time_fires_once(self, clock: Clock) -> None:
        trigger = create_trigger("t", "schedule", {"cron": "0 * * * *", "timezone": "UTC"})
        tree(t={})
        assert row(trigger).next_due == utc("2026-06-10 07:00")
        story = []
        for at in ("06:59", "07:00", "07:01", "07:59", "08:00"):
            clock.now = utc(f"2026-06-10 {at}")
            story.append(poll(trigger).fired)
        assert story == [False, True, False, False, True]
        assert poll(trigger).reason == "Not due until 2026-06-10 09:00 UTC."
        assert len(waiting()) == 2

    def test_downtime_gives_one(self, clock: Clock) -> None:
        trigger = create_trigger("t", "schedule", {"interval_minutes": 50})
        clock.now += dt.timedelta(days=3)
        assert poll(trigger).fired
        assert not poll(trigger).fired
        due = row(trigger).next_due
        assert due is not None
        assert clock.now < due <= clock.now + 50 * MINUTE

    def test_another_rule_or_a_switch_gives_no_backlog(self, clock: Clock) -> None:
        trigger = create_trigger("t", "schedule", self.CONFIGURATION)
        create_trigger("t", "schedule", {"cron": "0 12 * * *", "timezone": "UTC"})
        assert row(trigger).next_due == utc("2026-06-10 12:00")
        Trigger.objects.update(enabled=False)  # behind save()'s back
        clock.now = utc("2026-06-12 13:00")
        assert "Disabled in Django" in poll(trigger).reason
        Trigger.objects.update(enabled=True)
        assert poll(trigger).reason == "Not due until 2026-06-13 12:00 UTC."
        Trigger.objects.update(configuration={"cron": "30 13 * * *", "timezone": "UTC"})
        assert poll(trigger).reason == "Not due until 2026-06-12 13:30 UTC."

    def test_a_rule_that_makes_no_sense_says_so(self) -> None:
        trigger = Trigger.objects.create(
            name="t", trigger_type="schedule", configuration={"cron": "x"}
        )
        assert "It can't be asked: ScheduleError: A cron has five fields" in poll(trigger).reason

    def test_of_two_pollers_at_once_one_fires(self, clock: Clock) -> None:
        trigger = create_trigger("t", "schedule", self.CONFIGURATION)
        tree(t={})
        clock.now += dt.timedelta(days=1)
        with before_the_first_update(lambda: poll(trigger)):
            assert "Another process" in poll(trigger).reason
        assert (len(waiting()), row(trigger).fire_count) == (1, 1)


class TestTwoPollersOfALevel:
    @pytest.fixture
    def trigger(self) -> Trigger:
        processes.wanted.append(True)
        trigger = create_trigger("t", "custom", {"function": "tests.app.processes:is_wanted"})
        tree(t={})
        return trigger

    def test_at_once_one_fires(self, trigger: Trigger) -> None:
        with before_the_first_update(lambda: poll(trigger)):
            assert "Another process" in poll(trigger).reason
        assert len(waiting()) == 1

    def test_one_that_was_slow_does_not_fire_on_what_was_seen_before_others_looked(
        self, trigger: Trigger
    ) -> None:
        reset_trigger(trigger)

        def others() -> None:
            poll(trigger)
            processes.wanted.append(False)
            poll(trigger)
            assert row(trigger).state == "reset"

        with before_the_first_update(others):
            assert not poll(trigger).fired
        assert len(waiting()) == 1

    def test_one_that_is_switched_off_at_that_moment_does_not_fire(self, trigger: Trigger) -> None:
        with before_the_first_update(lambda: Trigger.objects.update(enabled=False)):
            assert not poll(trigger).fired
        assert waiting() == []


@pytest.mark.parametrize(
    ("trigger_type", "configuration", "reason"),
    [
        ("event", {}, "It can't be polled: fire it by hand."),
        ("condition", {"field": "a", "operator": "exists"}, "It can't be polled: fire it by hand."),
        ("custom", {"function": "tests.app.processes:cannot_tell"}, "OSError: the clock is away"),
        ("custom", {"function": "tests.app.processes:exits"}, "exits called sys.exit(3)"),
        ("custom", {"function": "tests.app.processes:needs"}, "needs 'argument'"),
        ("custom", {}, "TriggerError: A custom trigger needs a function"),
        ("condition", {"model": "app.Gone", "operator": "truthy"}, "LookupError"),
    ],
)
def test_what_cannot_be_asked_says_why_and_stays_as_it_is(
    trigger_type: str, configuration: dict[str, Any], reason: str
) -> None:
    trigger = Trigger.objects.create(
        name="t", trigger_type=trigger_type, configuration=configuration, state="fired"
    )
    polled = poll(trigger)
    assert reason in polled.reason
    assert not polled.fired
    assert row(trigger).state == "fired", "an error is no 'no': it would fire again afterwards"


def test_an_error_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    poll(create_trigger("t", "custom", {"function": "tests.app.processes:cannot_tell"}))
    assert "The trigger 't' can't be asked" in caplog.text
    assert "Traceback" in caplog.text


def test_an_async_function_is_awaited() -> None:
    trigger = create_trigger("t", "custom", {"function": "tests.app.processes:asynchronous"})
    assert poll(trigger).reason.startswith("Not so")


def test_a_trigger_that_was_deleted_says_so() -> None:
    trigger = create_trigger("t", "event")
    key = trigger.pk
    trigger.delete()
    assert trigger_firing.poll(key, timezone.now()).reason == "The trigger was deleted."


class TestWithoutTheDaemon:
    """``check_and_run_scheduled_tasks()`` polls, too."""

    def test_it_fires_what_is_to_be_fired(self) -> None:
        processes.wanted.append(True)
        create_trigger("t", "custom", {"function": "tests.app.processes:is_wanted"})
        create_trigger("nobody's", "schedule", {"interval_minutes": 5})
        create_trigger("by hand", "event")
        tree(t={"a": 1})
        assert check_and_run_scheduled_tasks() == {}
        assert waiting() == [("tree", {"a": 1})]
        assert get_trigger("nobody's").check_count == 0

    def test_it_leaves_alone_what_was_polled_a_moment_ago(self, clock: Clock) -> None:
        configuration = {"function": "tests.app.processes:is_wanted", "poll_seconds": 3600}
        create_trigger("t", "custom", configuration)
        tree(t={})
        asked = []
        for minutes in (0, 1, 50, 60):
            clock.now = utc("2026-06-10 06:20") + minutes * MINUTE
            asked.append(list(poll_triggers()))
        assert asked == [["t"], [], [], ["t"]]

    def test_one_triggers_fault_stops_no_other(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a", "b"):
            create_trigger(name, "schedule", {"interval_minutes": 5})
        tree(a={}, b={})
        whole = trigger_firing.poll

        def faulty(trigger_id: int, now: dt.datetime) -> Polled:
            if Trigger.objects.get(pk=trigger_id).name == "a":
                raise OSError("away")
            return whole(trigger_id, now)

        monkeypatch.setattr(trigger_firing, "poll", faulty)
        polled = poll_triggers()
        assert "OSError: away" in polled["a"].reason
        assert "Not due until" in polled["b"].reason
        assert "The trigger 'a' could not be polled" in caplog.text


# --- On a process ---------------------------------------------------------------------------------


def gated(trigger: str, context: dict[str, Any] | None = None, **options: Any) -> str:
    """Run a tree whose second process waits for a trigger; return its status and the reason."""
    (
        ProcessTreeInstance("gated", overwrite=True)
        .add_process("first", func=processes.one)
        .add_process("p", func=processes.noted, dependencies=["first"], trigger=trigger, **options)
        .save()
    )
    results = run_tree("gated", context)
    assert results["success"]
    assert results["status"]["first"] == "completed"
    return results["status"]["p"]


@pytest.mark.parametrize(
    ("configuration", "context", "status"),
    [
        ({"field": "first", "operator": "eq", "value": 1}, {}, "completed"),
        ({"field": "first", "operator": "gt", "value": 1}, {}, "skipped"),
        ({"field": "country.code", "operator": "eq", "value": "ZA"}, {}, "skipped"),
        (
            {"field": "country.code", "operator": "eq", "value": "ZA"},
            {"country": {"code": "ZA"}},
            "completed",
        ),
        ({"field": "day", "operator": "gt", "value": "x"}, {"day": dt.date.max}, "skipped"),
        (
            {"field": "day", "operator": "gt", "value": dt.date(2026, 1, 1)},
            {"day": dt.date.max},
            "completed",
        ),
        ({"model": "app.Organisation", "operator": "eq", "value": 0}, {}, "completed"),
    ],
)
def test_a_condition_is_asked_of_the_context_and_the_results(
    configuration: dict[str, Any], context: dict[str, Any], status: str
) -> None:
    trigger = create_trigger("t", "condition", configuration)
    assert gated("t", context) == status
    assert len(processes.calls) == (status == "completed")
    assert (row(trigger).check_count, row(trigger).state) == (1, "pending")


def test_an_event_lets_a_process_run_while_it_has_fired() -> None:
    create_trigger("t", "event")
    story = [gated("t")]
    fire_trigger("t")
    story += [gated("t"), gated("t")]
    reset_trigger("t")
    assert [*story, gated("t")] == ["skipped", "completed", "completed", "skipped"]


def test_a_schedule_lets_a_process_run_once_after_each_due_time(clock: Clock) -> None:
    create_trigger("t", "schedule", {"cron": "0 * * * *", "timezone": "UTC"})
    story = []
    for at in ("06:59", "07:05", "07:59", "09:10", "09:20"):
        clock.now = utc(f"2026-06-10 {at}")
        story.append(gated("t"))
    assert story == ["skipped", "completed", "skipped", "completed", "skipped"]
    assert TriggerPassage.objects.count() == 1


def test_a_process_that_failed_is_let_run_again_by_its_schedule(clock: Clock) -> None:
    create_trigger("t", "schedule", {"cron": "0 * * * *", "timezone": "UTC"})
    clock.now = utc("2026-06-10 07:05")
    written = ProcessTreeInstance("tree").add_process(
        "p", func=processes.flaky, trigger="t", retries=1, retry_delay=0
    )
    written.save()
    assert run_tree("tree", {"times": 1})["status"]["p"] == "completed", "a retry is let through"
    assert run_tree("tree", {"times": 1})["status"]["p"] == "skipped"


def test_processes_that_share_a_schedule_do_not_take_it_from_each_other(clock: Clock) -> None:
    create_trigger("t", "schedule", {"cron": "0 * * * *", "timezone": "UTC"})
    clock.now = utc("2026-06-10 07:05")
    written = (
        ProcessTreeInstance("tree")
        .add_process("a", func=processes.one, trigger="t")
        .add_process("b", func=processes.one, dependencies=["a"], trigger="t")
    )
    written.save()
    assert run_tree("tree")["status"] == {"a": "completed", "b": "completed"}


@pytest.mark.parametrize("wanted", [True, False])
def test_a_custom_trigger_and_an_outdated_check_are_asked(wanted: bool) -> None:
    processes.wanted.append(wanted)
    create_trigger("custom", "custom", {"function": "tests.app.processes:is_wanted"})
    assert gated("custom") == ("completed" if wanted else "skipped")
    if not wanted:
        User.objects.create(username="new")
    configuration = {"model": "auth.User", "date_field": "date_joined", "max_age_minutes": 60}
    create_trigger("outdated", "outdated_check", configuration)
    assert gated("outdated") == ("completed" if wanted else "skipped")


def test_a_custom_function_is_given_what_it_takes_of_what_the_process_has() -> None:
    create_trigger("t", "custom", {"function": "tests.app.processes:needs"})
    assert gated("t", {"argument": 1}) == "completed"
    assert gated("t", {"argument": 0}) == "skipped"
    assert gated("t", {}) == "skipped", "it can't be asked"


def reason_of(trigger: str) -> str:
    """Return why a process is skipped."""
    reason = process_gate.Gate(trigger, "job", "p").skip_reason({"a": 5})
    assert reason is not None
    return reason


def test_a_process_that_is_skipped_says_that_its_trigger_is_silent() -> None:
    create_trigger("event", "event")
    create_trigger("condition", "condition", {"field": "a", "operator": "lt", "value": 5})
    create_trigger("disabled", "event", enabled=False)
    assert reason_of("event") == "Trigger event is silent: it has not fired"
    assert reason_of("condition") == "Trigger condition is silent: a: 5; asked: lt 5"
    assert reason_of("disabled") == "Trigger disabled is silent: it is disabled"


def test_a_check_that_fails_counts_as_no_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    create_trigger("t", "custom", {"function": "tests.app.processes:cannot_tell"})
    assert "it can't be asked: OSError: the clock is away" in reason_of("t")
    assert "Traceback" in caplog.text
    caplog.clear()
    assert reason_of("gone") == "Trigger gone is silent: it does not exist"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_check_that_would_end_the_process_counts_as_no(caplog: pytest.LogCaptureFixture) -> None:
    create_trigger("t", "custom", {"function": "tests.app.processes:exits"})
    assert "it can't be asked: FunctionExited: exits called sys.exit(3)" in reason_of("t")
    assert "Traceback" in caplog.text


def test_a_hit_of_the_cache_wins_over_a_silent_trigger() -> None:
    create_trigger("t", "event")
    set_trigger_state("t", "fired")
    cached: dict[str, Any] = {"cache_key": f"triggers-{uuid.uuid4()}", "cache_ttl": 60}
    assert gated("t", **cached) == "completed"
    reset_trigger("t")
    assert gated("t", **cached) == "cached"
    assert gated("t") == "skipped"


def test_a_silent_trigger_is_asked_before_the_outdated_check() -> None:
    create_trigger("t", "event")
    asked: list[str] = []

    def check() -> bool:
        asked.append("asked")
        return False

    written = ProcessTreeInstance("tree").add_process(
        "p", func=processes.one, trigger="t", outdated_check=check
    )
    written.execute()
    assert asked == []
    set_trigger_state("t", "fired")
    written.execute()
    assert asked == ["asked"]
