"""Whatever a context or a trigger says, it reaches nothing that the database was not given.

Nothing outside the allow-lists is imported, called or read, and no secret of the settings, the
environment or a table appears in what is shown, stored or logged: in a run's tags, events and job,
in the pages of the admin, in what a tick says, in what a command prints.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import StringIO
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.management import call_command
from django.db import connection, models
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from proctree_dagster import functions
from proctree_dagster.context import decode, encode, sensitive
from proctree_dagster.domain.texts import explain
from proctree_dagster.exceptions import ContextError
from proctree_dagster.management.base import TreeCommand
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, Trigger
from proctree_dagster.models.validation import trigger_validation
from proctree_dagster.orchestration.execution.op_functions import outcome_metadata
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.process.run import Outcome
from proctree_dagster.services import broken_rows, process_gate, run_outbox, trigger_firing
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger
from tests.app.models import AccessToken, Call, Customer, Organisation

pytestmark = pytest.mark.django_db

SENTINEL = "open-sesame-5ca1ab1e"
EXAMPLES = int(os.environ.get("PROCTREE_FUZZ_EXAMPLES", "100"))
"""How many contexts, and how many triggers."""

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

FORBIDDEN_SQL = (
    *('"password"', '"api_key"', '"session_key"', '"session_data"', '"object_repr"'),
    *("django_session", "app_accesstoken", "auth_group", "auth_permission", "made_with_id"),
    *("proctree_dagster_outboxrun", "django_admin_log"),
)
"""What no query of a trigger may mention; it reads nothing else of the tables that hold secrets."""

FORBIDDEN_MODULES = ("antigravity", "this", "tests.imported_by_nobody")


@pytest.fixture(autouse=True)
def secrets(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the sentinel wherever secrets are."""
    settings.SECRET_KEY = SENTINEL
    for name in ("API_TOKEN", "DATABASE_URL", "HOME_OF_SECRETS"):
        monkeypatch.setenv(name, SENTINEL)
    user = User.objects.create(pk=1, username="boss", password=SENTINEL)
    organisation = Organisation.objects.create(pk=1, name="Acme")
    customer = Customer.objects.create(
        **{"pk": 1, "organisation": organisation, "name": "Bob", "api_key": SENTINEL},
        **{"account_manager": user, "settings": {"plan": "a", "token": SENTINEL}},
    )
    token = AccessToken.objects.create(key=SENTINEL, customer=customer)
    Call.objects.create(pk=1, made_with=token)
    Session.objects.create(session_key="1", session_data=SENTINEL, expire_date=timezone.now())


LABELS = [model._meta.label for model in apps.get_models()]
plain = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "a", "Acme", "1", "$"])),
)
rows = st.fixed_dictionaries(
    {
        "$model": st.sampled_from([*LABELS, "app.gone", "settings.SECRET_KEY", "os.environ"]),
        "pk": plain | st.just({"$int": "1"}) | st.lists(plain, max_size=2),
    },
    optional={"using": st.sampled_from(["default", "gone", "", SENTINEL[:4]])},
)
contexts = st.dictionaries(
    st.sampled_from(["a", "b", "__class__", "$model", "pk"]),
    st.recursive(
        plain | rows,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "token", "$date"]), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=3,
)


def instances(value: Any) -> Iterator[models.Model]:
    """Return the rows in a value."""
    if isinstance(value, models.Model):
        yield value
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list)):
        for each in parts:
            yield from instances(each)


@fuzzed
@given(context=contexts, by_hand=st.booleans())
def test_a_context_reaches_no_row_that_it_may_not_hold(
    context: dict[str, Any], by_hand: bool
) -> None:
    restored: dict[str, Any] = {}
    refused = ""
    try:
        restored = decode(context if by_hand else json.loads(json.dumps(encode(context))))
    except ContextError as error:
        refused = explain(error)
    assert SENTINEL not in refused
    for row in instances(restored):
        assert sensitive.problem_of_model(type(row), "CONTEXT_MODELS") is None
        assert not sensitive.is_sensitive_model(type(row))
    shown = outcome_metadata(Outcome("completed", result=restored, response_variables=restored))
    assert SENTINEL not in str(shown)
    assert SENTINEL not in json.dumps(encode(restored))


STEPS = sorted(
    {
        name
        for model in (User, Customer, Organisation, AccessToken, Call, Session)
        for field in model._meta.get_fields()
        for name in (field.name, getattr(field, "attname", field.name))
    }
    | {"pk", "token", "plan", "xero", "date", "year", "lower", "length", "_connector", "_negated"}
)
LOOKUPS = ["exact", "gt", "lt", "startswith", "regex", "in", "isnull", "contains", "has_key"]
paths = st.builds(
    lambda steps, lookup: "__".join([*steps, *lookup]),
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    st.lists(st.sampled_from(LOOKUPS), max_size=1),
)
filters = st.dictionaries(
    paths, plain | st.just({"token": "a"}) | st.lists(plain, max_size=2), max_size=2
)
FUNCTIONS = [
    *("antigravity:fly", "this:s", "os:system", "subprocess:getoutput", "builtins:exec"),
    *("tests.imported_by_nobody:reach", "tests.app.processes:calls.append", "gone", "a:b:c"),
    *("django.conf:settings.SECRET_KEY", "tests.app.processes:__builtins__", "django:setup"),
]
MODELS = [*LABELS, *(["auth.User", "app.Customer", "app.Organisation"] * 4)]
configurations = st.one_of(
    st.tuples(
        st.just("condition"),
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(MODELS),
                "operator": st.sampled_from(["gte", "eq", "truthy"]),
                "value": st.integers(0, 2),
                "filter": filters,
            }
        ),
    ),
    st.tuples(
        st.just("outdated_check"),
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(MODELS),
                "date_field": paths,
                "max_age_minutes": st.integers(1, 5),
                "filter": filters,
            }
        ),
    ),
    st.tuples(st.just("custom"), st.fixed_dictionaries({"function": st.sampled_from(FUNCTIONS)})),
    st.tuples(
        st.just("condition"),
        st.fixed_dictionaries(
            {"field": paths.map(lambda path: path.replace("__", ".")), "operator": st.just("ne")},
            optional={"value": plain},
        ),
    ),
)


@fuzzed
@given(asked=configurations)
def test_a_trigger_reads_nothing_that_it_may_not_ask_about(
    asked: tuple[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    kind, configuration = asked
    if configuration.get("operator") == "truthy":
        configuration = {key: each for key, each in configuration.items() if key != "value"}
    queries: list[str] = []

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        queries.append(sql)
        return execute(sql, *rest)

    caplog.clear()
    with caplog.at_level(logging.DEBUG), connection.execute_wrapper(note):
        found = trigger_validation.problems(kind, configuration)
        # Whatever the check says: rows are written past it, too.
        trigger = Trigger(pk=1, name="t", trigger_type=kind, configuration=configuration)
        models.Model.save(trigger)
        polled = trigger_firing.poll(1, timezone.now())
        gate = process_gate.Gate("t", "job", "process").skip_reason({"customers": [Customer(pk=1)]})
    Trigger.objects.all().delete()
    asked_of_rows = [
        sql for sql in queries if "proctree_dagster_trigger" not in sql and sql.startswith("SELECT")
    ]
    for sql in asked_of_rows:
        assert not [each for each in FORBIDDEN_SQL if each in sql], sql
    if kind == "custom":
        assert found
        assert not polled.fired
    for text in (polled.reason, gate or "", " ".join(found), caplog.text):
        assert SENTINEL not in text
    for module in FORBIDDEN_MODULES:
        assert module not in sys.modules


# --- Where people look ----------------------------------------------------------------------------

fuzzed_runs = settings(
    fuzzed,
    max_examples=max(10, EXAMPLES // 20),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
"""Runs take longer, each holds several processes, and to look for a smaller one takes minutes."""


@dataclass
class Answer:
    """What a function may return that holds more than anybody should see."""

    token: AccessToken
    customer: Customer


def customer() -> Customer:
    return Customer.objects.select_related("account_manager", "organisation").get()


def answer() -> Answer:
    return Answer(AccessToken.objects.get(), customer())


HEADERS = {"Authorization": SENTINEL, "Accept": "json"}
FUNCTIONS_OF_RUNS: dict[str, Callable[..., Any]] = {
    "fuzz customer": customer,
    "fuzz answer": answer,
    "fuzz token": lambda: AccessToken.objects.get(),
    "fuzz tokens": lambda: {"tokens": AccessToken.objects.all(), "calls": [Call.objects.get()]},
    "fuzz records": lambda: (Session.objects.get(), User.objects.get(), *Call.objects.all()),
    "fuzz client": lambda: SimpleNamespace(
        token=AccessToken.objects.get(),
        request=SimpleNamespace(headers=HEADERS, made_with=AccessToken.objects.get()),
    ),
}


@pytest.fixture
def registered() -> Iterator[None]:
    """Let rows name functions that return more than anybody should see, for one test only."""
    for key, function in FUNCTIONS_OF_RUNS.items():
        functions.register(key, function)
    yield
    for key in FUNCTIONS_OF_RUNS:
        del functions._registry[key]


PARTS = st.sampled_from(
    [
        *(each for each in STEPS if not each.startswith("_")),
        *("0", "tokens", "calls", "request", "headers", "Authorization", "account_manager"),
        *("settings", "env", "__class__", "_state", "SECRET_KEY", "DATABASE_URL", "objects"),
    ]
)
keys = st.lists(PARTS, min_size=1, max_size=4).map(".".join) | st.sampled_from(
    ["settings", "customer.settings", "customer.settings.token", "token", "0", "tokens", "request"]
)
rules = st.fixed_dictionaries(
    {"key": keys},
    optional={
        "default": st.just(None),
        "type": st.sampled_from(["str", "int", "list", "dict", "bool", "decimal", "date"]),
    },
)
of_functions = st.sampled_from(list(FUNCTIONS_OF_RUNS))
said_of_processes = st.lists(
    st.fixed_dictionaries(
        {"func": of_functions},
        optional={
            "response_vars": st.dictionaries(st.sampled_from("abcdef"), rules, min_size=3),
            "cache_key": keys.map(lambda key: f"{{{key}}}") | st.just("{p0!r}"),
            "trigger": st.just("t"),
            "validation": st.lists(of_functions, max_size=1),
            "outdated_check": of_functions,
            "required": st.booleans(),
        },
    ),
    min_size=1,
    max_size=4,
)


class Command(TreeCommand):
    tree_name = "t"


PAGES = ["processtree", "processtreeschedule", "trigger", "outboxrun"]


def written_past_the_checks(row: models.Model, field: str, value: Any) -> None:
    as_it_is = models.Value(value, output_field=models.JSONField())
    models.QuerySet(type(row)).filter(pk=row.pk).update(**{field: as_it_is})


def told_by_ticks(instance: dg.DagsterInstance) -> Iterator[object]:
    """Return what Dagster is told, and shows, at a tick of each schedule and sensor."""
    repository = build_repository()
    schedule = repository.get_schedule_def("t_schedule")
    sensors = [repository.get_sensor_def(each.name) for each in repository.sensor_defs]
    options: Any = {"instance": instance, "repository_def": repository}
    now = timezone.now()
    with dg.build_schedule_context(**options, scheduled_execution_time=now) as of_schedule:
        yield attempt(lambda: schedule.evaluate_tick(of_schedule))
    for sensor in sensors:
        with dg.build_sensor_context(**options) as of_sensor:
            yield attempt(partial(sensor.evaluate_tick, of_sensor))


def attempt(ask: Callable[[], object]) -> object:
    """Return what is said, or what the error says that Dagster shows instead."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is looked at
        return "".join(traceback.format_exception(error))


def reading(func: str, *keys: str) -> list[dict[str, Any]]:
    """Return processes that read these keys of their result: as they are, and each as text."""
    plain: dict[str, Any] = {key: {"key": key, "default": None} for key in keys}
    texts = [{key: {**plain[key], "type": "str"}} for key in keys]
    return [{"func": func, "response_vars": each, "required": False} for each in (plain, *texts)]


@fuzzed_runs
@example(
    said=[
        *reading("fuzz customer", "settings", "settings.token", "api_key", "account_manager"),
        *reading("fuzz answer", "token", "customer.settings", "customer.account_manager.password"),
        *reading("fuzz client", "token", "request.headers", "request.headers.Authorization"),
        *reading("fuzz tokens", "tokens", "calls", "calls.0.made_with"),
        *reading("fuzz records", "0", "1", "2", "0.session_data"),
        {"func": "fuzz token", "validation": ["fuzz token"], "outdated_check": "fuzz token"},
    ],
    context={},
    asked=("event", {}),
)
@given(said=said_of_processes, context=contexts, asked=configurations)
def test_nobody_is_shown_a_secret_by_a_run_a_page_a_tick_or_a_command(
    said: list[dict[str, Any]],
    context: dict[str, Any],
    asked: tuple[str, dict[str, Any]],
    registered: None,
    instance: dg.DagsterInstance,
    admin_client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ProcessTree.objects.all().delete()
    Trigger.objects.all().delete()
    tree = ProcessTreeInstance("t").add_process("p0", "fuzz customer")
    row, schedule = tree.save(), tree.register_schedule()
    trigger = create_trigger("t", "event")
    tree.subscribe_to_trigger(trigger)
    waiting = run_outbox.add(row, {}, {})
    named = [
        {"name": f"p{number}", "dependencies": ["p0"] if number else [], **each}
        for number, each in enumerate(said)
    ]
    written_past_the_checks(row, "processes", named)
    written_past_the_checks(schedule, "context", context)
    written_past_the_checks(waiting, "context", context)
    Trigger.objects.update(trigger_type=asked[0])
    written_past_the_checks(trigger, "configuration", asked[1])
    caplog.clear()
    shown: list[object] = []
    with caplog.at_level(logging.DEBUG):
        output = StringIO()
        shown += [attempt(lambda: call_command(Command(), stdout=output, stderr=output)), output]
        ProcessTreeSchedule.objects.update(next_run=None, claim=None)
        shown += told_by_ticks(instance)
    for run in instance.get_runs():
        shown += [run.tags, run.run_config, *map(serialize_value, instance.all_logs(run.run_id))]
        shown += [serialize_value(instance.get_job_snapshot(str(run.job_snapshot_id)))]
        instance.delete_run(run.run_id)
    for page, pk in zip(PAGES, (row.pk, schedule.pk, trigger.pk, waiting.pk), strict=True):
        for path in ("", f"{pk}/change/", f"{pk}/history/", f"{pk}/delete/"):
            address = f"/admin/proctree_dagster/{page}/{path}"
            shown += [admin_client.get(address).content.decode()]
    shown += [caplog.text, [str(each) for each in broken_rows.findings()]]
    shown += [list(caches["default"]._cache), output.getvalue()]  # type: ignore[attr-defined]
    for text in map(str, shown):
        assert SENTINEL not in text, text[max(0, text.index(SENTINEL) - 2000) :][:2500]
