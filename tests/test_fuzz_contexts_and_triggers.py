"""Whatever a context or a trigger says, it reaches nothing that the database was not given.

Nothing outside the allow-lists is imported, called or read, and no secret of the settings, the
environment or a table appears in what is shown, stored or logged.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection, models
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from proctree_dagster import firing, questions, sensitive
from proctree_dagster.context import decode, encode
from proctree_dagster.exceptions import ContextError
from proctree_dagster.models import Trigger
from proctree_dagster.orchestration.translator import outcome_metadata
from proctree_dagster.process import Outcome, explain
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
    monkeypatch.setenv("API_TOKEN", SENTINEL)
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
        found = questions.problems(kind, configuration)
        # Whatever the check says: rows are written past it, too.
        trigger = Trigger(pk=1, name="t", trigger_type=kind, configuration=configuration)
        models.Model.save(trigger)
        polled = firing.poll(1, timezone.now())
        gate = firing.Gate("t", "job", "process").why_not({"customers": [Customer(pk=1)]})
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
