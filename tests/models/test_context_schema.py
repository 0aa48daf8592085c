"""What a tree takes, as the signatures of its functions say it, and who is held to it."""

import datetime as dt
import logging
import uuid
from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from typing import Any, Literal, Optional

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctree_dagster import context as contexts
from proctree_dagster.domain.tree_spec import parse
from proctree_dagster.exceptions import ContextError
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, TriggerSubscription
from proctree_dagster.models.context_schema import (
    UNSAID,
    ContextSchema,
    accepts,
    annotation_text,
    schema_of,
)
from proctree_dagster.services.broken_rows import invalid_trees
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from proctree_dagster.triggers import create_trigger
from tests.app import annotated
from tests.app.models import Organisation


def process(name: str, func: Callable[..., Any], **options: Any) -> dict[str, Any]:
    return {"name": name, "func": f"tests.app.annotated:{func.__name__}", **options}


def schema(*processes: dict[str, Any], **tree: Any) -> ContextSchema:
    spec = parse({"name": "t", "processes": list(processes), **tree})
    named = [each["func"] for each in processes]
    named += [each["outdated_check"] for each in processes if "outdated_check" in each]
    return schema_of(spec, {each: getattr(annotated, each.split(":")[1]) for each in named})


def yearly() -> ContextSchema:
    return schema(
        process("fetch", annotated.fetch_invoices),
        process("total", annotated.total, dependencies=["fetch"]),
        process("write", annotated.write, dependencies=["total"]),
    )


ORGANISATION = {"$model": "app.Organisation", "pk": 1}


# --- The keys -------------------------------------------------------------------------------------


def test_the_keys_are_what_functions_take_and_have_from_no_dependency() -> None:
    found = yearly()
    assert set(found.keys) == {
        *("organisation", "year", "kind", "since", "rate", "title", "kinds", "dry_run")
    }
    assert not found.takes_anything


def test_a_key_without_a_default_is_required_by_the_processes_that_need_it() -> None:
    keys = yearly().keys
    assert keys["year"].needed_by == ("fetch", "total")
    assert keys["title"].needed_by == ("write",)
    assert not keys["kind"].required
    assert keys["kind"].default == "sale"


def test_a_key_has_the_type_and_the_description_that_its_function_gives() -> None:
    keys = yearly().keys
    assert keys["organisation"].type_text == "Organisation"
    assert keys["year"].type_text == "int"
    assert keys["year"].description == "The year that they are of."
    assert keys["kind"].type_text == "'sale' | 'bill'"
    assert keys["since"].type_text == "date | None"
    assert keys["rate"].description == "Of the tax."
    assert keys["kinds"].type_text == "list[Kind] | None"


def test_where_two_functions_differ_about_a_type_nothing_is_said_of_it() -> None:
    found = schema(process("a", annotated.write), process("b", annotated.total))
    assert found.keys["total"].type_text == ""
    assert found.problems({"total": [1], "title": "", "fetch": [], "year": 1}) == []


@pytest.mark.parametrize(
    "open_schema",
    [
        schema(process("a", annotated.takes_anything)),
        schema(process("a", annotated.fetch_invoices, trigger="month_end")),
        schema(
            process(
                "a",
                annotated.fetch_invoices,
                outdated_check="tests.app.annotated:is_outdated_by_context",
            )
        ),
        schema(process("a", annotated.fetch_invoices), dependent_trees=["b"]),
        schema(process("a", annotated.fetch_invoices), sibling_trees=["b"]),
        schema(process("a", annotated.takes_nothing)),
    ],
    ids=["**context", "trigger", "check with context", "followed", "beside", "no keys"],
)
def test_anything_goes_where_a_key_may_be_of_use_somewhere(open_schema: ContextSchema) -> None:
    given_context = {"organisation": ORGANISATION, "year": 2026, "more": [1]}
    assert open_schema.problems(given_context) == []


def test_what_an_outdated_check_takes_is_known_and_not_required() -> None:
    found = schema(
        process("a", annotated.takes_nothing, outdated_check="tests.app.annotated:is_outdated")
    )
    assert found.problems({}) == []
    assert found.problems({"region": "north", "cutoff": 3}) == []
    assert len(found.problems({"reigon": "north"})) == 1


def test_what_a_cache_key_names_is_required() -> None:
    found = schema(process("a", annotated.takes_nothing, cache_key="{organisation.pk}-{lines[0]}"))
    assert set(found.keys) == {"organisation", "lines"}
    [first, _] = found.problems({})
    assert first == "The context lacks 'organisation', for process 'a'."
    assert (
        schema(
            process("a", annotated.takes_nothing, cache_key="{organisation.pk}"),
            cache_enabled=False,
        ).keys
        == {}
    )


def test_what_a_decorator_may_supply_is_not_required() -> None:
    found = schema(process("a", annotated.decorated))
    assert found.problems({}) == []
    assert len(found.problems({"yaer": 1})) == 1


def test_an_annotation_that_can_not_be_read_says_nothing() -> None:
    found = schema(process("a", annotated.unreadable))
    assert found.problems({"year": "anything"}) == []
    assert len(found.problems({})) == 1


# --- The problems ---------------------------------------------------------------------------------


def test_a_misspelt_key_is_refused_with_the_one_that_was_meant() -> None:
    whole = {"organisation": ORGANISATION, "year": 2026, "title": "a", "knid": "sale"}
    [problem] = yearly().problems(whole)
    assert problem == (
        "No function of the tree takes 'knid'. Did you mean 'kind'? They take: dry_run, kind, "
        "kinds, organisation, rate, since, title, year."
    )


def test_a_missing_key_is_refused_with_its_type_and_who_needs_it() -> None:
    problems = yearly().problems({"title": "a"})
    assert problems == [
        "The context lacks 'organisation' (Organisation), for process 'fetch'.",
        "The context lacks 'year' (int), for processes 'fetch', 'total'.",
    ]


def test_a_value_of_another_type_is_refused_with_how_to_write_it() -> None:
    whole = {"organisation": 1, "year": "2026", "title": "a", "since": "2026-03-31"}
    assert yearly().problems(whole) == [
        "context['organisation'] must be Organisation, not 1. Write it as {\"$model\": "
        '"app.Organisation", "pk": 1}.',
        "context['year'] must be int, not '2026'.",
        "context['since'] must be date | None, not '2026-03-31'. Write it as "
        '{"$date": "2026-03-31"}.',
    ]


VALUES: dict[Any, tuple[list[Any], list[Any]]] = {
    str: (["", "a"], [1, None, ["a"]]),
    int: ([1, -3, {"$int": "9007199254740993"}], ["1", 1.5, True, None]),
    float: ([1, 1.5], ["1", True]),
    bool: ([True], [1, "yes"]),
    dt.date: ([{"$date": "2026-03-31"}, {"$datetime": "2026-03-31T00:00:00"}], ["2026-03-31"]),
    dt.datetime: ([{"$datetime": "2026-03-31T00:00:00"}], [{"$date": "2026-03-31"}]),
    dt.time: ([{"$time": "09:00"}], ["09:00"]),
    uuid.UUID: ([{"$uuid": str(uuid.uuid4())}], [str(uuid.uuid4())]),
    Decimal: ([{"$decimal": "1.50"}, 1], ["1.50", 1.5]),
    Optional[int]: ([None, 1], ["1"]),  # noqa: UP045  # many write it so
    int | str: ([1, "a"], [None, 1.5]),
    Literal["a", 1]: (["a", 1], ["b", None]),
    annotated.Kind: (["sale"], ["SALE", 1]),
    Organisation: ([ORGANISATION], [1, "one", {"$model": "auth.User", "pk": 1}]),
    Organisation | int: ([ORGANISATION, 1], ["one"]),
    Any: ([None, 1, {}], []),
    UNSAID: ([None, 1, {}], []),
    list[int]: ([["a"], 1, None], []),
    object: ([1], []),
}


@pytest.mark.parametrize("annotation", VALUES, ids=str)
def test_a_value_suits_a_plain_annotation_or_not(annotation: Any) -> None:
    suits, does_not = VALUES[annotation]
    assert [accepts(annotation, each) for each in suits] == [True] * len(suits)
    assert [accepts(annotation, each) for each in does_not] == [False] * len(does_not)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False, places=2)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(scalars)
def test_a_value_suits_its_own_type_when_it_is_stored(value: Any) -> None:
    stored = contexts.encode({"value": value})["value"]
    assert accepts(type(value), stored)
    assert accepts(type(value) | None, stored)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (UNSAID, ""),
        (Any, ""),
        (None, "None"),
        (list[dict[str, Any]], "list[dict[str, Any]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Optional[Decimal], "Decimal | None"),  # noqa: UP045
        ("a name", "a name"),
    ],
)
def test_an_annotation_is_shown_without_its_modules(annotation: Any, text: str) -> None:
    assert annotation_text(annotation) == text


# --- Who is held to it ----------------------------------------------------------------------------


@pytest.fixture
def organisation() -> Organisation:
    return Organisation.objects.create(name="one")


@pytest.fixture
def tree(db: None) -> ProcessTreeInstance:
    tree = (
        ProcessTreeInstance("yearly")
        .add_process("fetch", func=annotated.fetch_invoices)
        .add_process("total", func=annotated.total, dependencies=["fetch"])
    )
    tree.save()
    return tree


def test_register_schedule_refuses_a_misspelt_key_and_saves_nothing(
    tree: ProcessTreeInstance, organisation: Organisation
) -> None:
    with pytest.raises(ContextError, match=r"Did you mean 'year'\?"):
        tree.register_schedule(context={"organisation": organisation, "yaer": 2026})
    assert not ProcessTreeSchedule.objects.exists()
    tree.register_schedule(context={"organisation": organisation, "year": 2026})


def test_register_schedule_refuses_a_missing_key(tree: ProcessTreeInstance) -> None:
    with pytest.raises(ContextError, match="lacks 'organisation'"):
        tree.register_schedule(interval_minutes=60)


def test_what_was_right_until_the_code_has_changed_can_be_disabled(
    tree: ProcessTreeInstance, organisation: Organisation
) -> None:
    tree.register_schedule(context={"organisation": organisation, "year": 2026})
    ProcessTreeSchedule.objects.update(context={"an": "old key"})
    assert not tree.register_schedule(enabled=False).enabled
    call_command("proctree", "disable", "yearly", stdout=StringIO())


def test_a_schedule_that_passes_its_due_time_needs_no_other(db: None) -> None:
    tree = ProcessTreeInstance("t").add_process("a", func=needs_due_time)
    tree.add_function("needs_due_time", needs_due_time)
    tree.save()
    with pytest.raises(ContextError, match="lacks 'scheduled_for'"):
        tree.register_schedule()
    tree.register_schedule(pass_scheduled_for=True)


def needs_due_time(scheduled_for: dt.datetime) -> str:
    return scheduled_for.isoformat()


def test_a_command_refuses_a_misspelt_key_before_anything_runs(
    tree: ProcessTreeInstance, organisation: Organisation
) -> None:
    arguments = ["run", "yearly", "--set", f"organisation={organisation.pk}", "--set", "yaer=2026"]
    with pytest.raises(CommandError, match=r"lacks 'year'.*Did you mean 'year'\?"):
        call_command("proctree", *arguments, stdout=StringIO())


def test_the_schedules_own_keys_are_known_to_a_command(
    tree: ProcessTreeInstance, organisation: Organisation
) -> None:
    tree.register_schedule(context={"organisation": organisation, "year": 2026})
    ProcessTreeSchedule.objects.update(
        context={"organisation": {"$model": "app.Organisation", "pk": organisation.pk}, "old": 1}
    )
    row = ProcessTree.objects.get()
    row.context_schema.check({**row.default_context, "year": 2025})


def test_the_admin_refuses_a_misspelt_key_beside_its_field(
    tree: ProcessTreeInstance, organisation: Organisation, client: Client
) -> None:
    row = ProcessTree.objects.get()
    client.force_login(User.objects.create_superuser("root"))
    form = {"process_tree": row.pk, "interval_minutes": 60, "context": '{"yaer": 2026}'}
    page = client.post("/admin/proctree_dagster/processtreeschedule/add/", form)
    errors = page.context["adminform"].form.errors
    assert set(errors) == {"context"}
    assert "Did you mean 'year'?" in str(errors["context"].as_data())
    assert not ProcessTreeSchedule.objects.exists()


def test_check_names_schedules_whose_context_does_not_suit_the_code(
    tree: ProcessTreeInstance, organisation: Organisation
) -> None:
    tree.register_schedule(context={"organisation": organisation, "year": 2026})
    assert invalid_trees() == []
    ProcessTreeSchedule.objects.update(context={"year": 2026})
    [finding] = invalid_trees()
    assert finding.users == ["schedule of tree 'yearly'"]
    assert "lacks 'organisation'" in finding.problem


def test_check_names_keys_of_a_subscription_that_nothing_takes(tree: ProcessTreeInstance) -> None:
    create_trigger("month_end", "event")
    tree.subscribe_to_trigger("month_end", context={"year": 2026})
    assert invalid_trees() == []
    TriggerSubscription.objects.update(context={"yaer": 2026})
    [finding] = invalid_trees()
    assert finding.users == ["subscription of tree 'yearly' to 'month_end'"]
    assert "Did you mean 'year'?" in finding.problem


def test_python_hands_on_what_it_likes_and_what_is_of_no_use_is_logged(
    tree: ProcessTreeInstance, organisation: Organisation, caplog: pytest.LogCaptureFixture
) -> None:
    context = {"organisation": organisation, "year": 2026, "knid": "bill"}
    with caplog.at_level(logging.WARNING, "proctree_dagster.running.tree_runs"):
        results = ProcessTreeManager.execute_tree("yearly", context)
        ProcessTreeManager.submit_tree("yearly", context)
    assert results["success"]
    said = (
        "The context for the process tree 'yearly': No function of the tree takes 'knid'. "
        "Did you mean 'kind'? They take: kind, organisation, rate, since, year."
    )
    assert caplog.messages.count(said) == 2
