"""What a row of the database can read: data, and nothing that it was not given."""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import connection
from django.utils.functional import SimpleLazyObject
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.types.range import Range

from proctree_dagster.context.lookups import look_up
from proctree_dagster.domain.operators import MISSING
from proctree_dagster.exceptions import CacheKeyError, ResponseVariableError
from proctree_dagster.models import RunStatus
from proctree_dagster.orchestration.execution.op_functions import outcome_metadata
from proctree_dagster.process import caching
from proctree_dagster.process.caching import Entry, Owner
from proctree_dagster.process.response_variables import defaults, extract
from proctree_dagster.process.run import Outcome
from tests.app.models import AccessToken, Customer, Organisation

SENTINEL = "sentinel-5f0c"
OWNER = Owner("job", "p", "f")


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


@dataclass
class Total:
    """A plain object."""

    amount: int
    _hidden: str = field(default=SENTINEL, repr=False)
    password: str = field(default=SENTINEL, repr=False)

    @property
    def doubled(self) -> int:
        """Compute something."""
        return 2 * self.amount

    def delete(self) -> str:
        """Do harm."""
        raise AssertionError("nothing is called")


def generator() -> Iterator[int]:
    """Hold a frame."""
    yield 1


def raised() -> BaseException:
    """Return an exception that has a traceback."""
    try:
        raise ValueError("x")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        (Total(2), "value.amount", 2),
        (Total(2), "value.doubled", 4),
        (Point(1, 2), "value.y", 2),
        ([Point(1, 2)], "value.0.x", 1),
        ({"_id": 5, "password": 6}, "value._id", 5),
        ({"_id": 5, "password": 6}, "value.password", 6),
        (SimpleNamespace(a={"b.c": 1}), "value.a", {"b.c": 1}),
        (Organisation(pk=3, name="Acme"), "value.name", "Acme"),
        (Organisation(pk=3, name="Acme"), "value.pk", 3),
        (RunStatus.FAILURE, "value.value", "failure"),
        (RunStatus.FAILURE, "value.label", "failure"),
        (HTTPStatus.NOT_FOUND, "value.phrase", "Not Found"),
        (Range(1, 5), "value.lower", 1),
    ],
)
def test_data_can_be_read(value: Any, path: str, expected: Any) -> None:
    assert look_up({"value": value}, path) == expected


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Total(1), "value.__init__.__globals__.settings.SECRET_KEY"),
        (Total(1), "value.__class__"),
        (Total(1), "value._hidden"),
        (Total(1), "value.password"),
        (Total(1), "value.delete"),
        (Total, "value.amount"),
        (logging, "value.root"),
        (logging.getLogger("x"), "value.manager"),
        (generator(), "value.gi_frame"),
        (generator, "value.cr_frame"),
        (raised(), "value.__traceback__"),
        (raised().__traceback__, "value.tb_frame"),
        (functools.partial(print, SENTINEL), "value.args"),
        (settings, "value.SECRET_KEY"),
        (settings, "value.DATABASES"),
        (connection, "value.settings_dict"),
        (default_storage, "value.base_location"),
        (Organisation(name="x"), "value.objects"),
        (Organisation(name="x"), "value._meta"),
        (Organisation(name="x"), "value.delete"),
        (Organisation.objects, "value.model"),
        (Organisation.objects.none(), "value.query"),
        (User(password=SENTINEL), "value.password"),
        (User(), "value.check_password"),
        ("text", "value.upper"),
    ],
)
def test_code_plumbing_and_secrets_can_not_be_read(value: Any, path: str) -> None:
    assert look_up({"value": value}, path) is MISSING
    with pytest.raises(CacheKeyError, match="names a field that the context lacks"):
        Entry(Owner("job", "p", "f"), f"{{{path}}}", {"value": value})
    with pytest.raises(ResponseVariableError, match="has no"):
        extract("p", {"v": {"key": path}}, {"value": value})
    assert extract("p", {"v": {"key": path, "default": 1}}, {"value": value}) == {"v": 1}


def test_what_is_not_read_is_said() -> None:
    said = "begins with an underscore, or holds a secret"
    for template in ("{user.password}", "{user[password]}", "{user._state}"):
        with pytest.raises(CacheKeyError, match=said):
            Entry(Owner("job", "p", "f"), template, {"user": User()})
    with pytest.raises(ResponseVariableError, match=said):
        extract("p", {"total": {"key": "access_token"}}, SimpleNamespace(access_token="x"))
    with pytest.raises(ResponseVariableError) as raised:
        extract("p", {"total": {}}, SimpleNamespace())
    assert "underscore" not in str(raised.value)


def test_a_name_before_a_row_is_no_part_of_it() -> None:
    available = {"refresh_token": {"token": Organisation(name="Acme")}}
    assert look_up(available, "refresh_token.token.name") == "Acme"
    Entry(OWNER, "{refresh_token[token].name}", available)


def test_a_secret_in_a_rows_json_is_read_by_no_notation() -> None:
    customer = Customer(settings={"xero": {"api_key": SENTINEL}, "keys": [{"token": SENTINEL}]})
    for path in ("settings[xero][api_key]", "settings[keys][0][token]", "settings.xero.api_key"):
        with pytest.raises(CacheKeyError):
            Entry(OWNER, f"{{c.{path}}}", {"c": customer})


@pytest.mark.parametrize("path", ["c.settings", "c.settings.xero", "c.settings.keys", "c.all"])
def test_what_holds_secrets_of_an_object_is_not_read_as_a_whole(path: str) -> None:
    customer = Customer(settings={"xero": {"api_key": SENTINEL}, "keys": [{"token": SENTINEL}]})
    customer.all = {"deep": [{"settings": {"password": SENTINEL}}]}  # type: ignore[attr-defined]
    values = {"c": customer}
    said = "It holds secrets beside what is none: name one of its keys"
    for rule in ({"key": path}, {"key": path, "type": "str"}):
        with pytest.raises(ResponseVariableError, match=said) as raised:
            extract("p", {"v": rule}, values)
        assert SENTINEL not in str(raised.value)
    with pytest.raises(CacheKeyError, match=said):
        Entry(OWNER, f"{{{path}}}", values)
    assert extract("p", {"v": {"key": path, "default": 1}}, values) == {"v": 1}


def test_a_key_in_an_object_that_is_called_like_a_secret_is_not_read() -> None:
    request = SimpleNamespace(headers={"Authorization": SENTINEL, "Accept": "json"})
    values = {"response": SimpleNamespace(request=request)}
    assert look_up(values, "response.request.headers.Authorization") is MISSING
    assert look_up(values, "response.request.headers") is MISSING
    assert look_up(values, "response.request.headers.Accept") == "json"
    assert look_up({"headers": request.headers}, "headers.Authorization") == SENTINEL


@pytest.mark.parametrize("path", ["o.env", "o.env.DATABASE_URL", "o.env.HOME", "o.env.items"])
def test_the_environment_can_not_be_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://books:{SENTINEL}@db/books")
    assert look_up({"o": SimpleNamespace(env=os.environ)}, path) is MISSING


@pytest.mark.parametrize("kind", ["str", "int", "list", "date"])
def test_no_type_makes_text_of_a_row_whose_text_is_a_secret(kind: str) -> None:
    token = AccessToken(key=SENTINEL)
    for value in (token, [token], {"a": token}, SimpleNamespace(token=token)):
        said: object
        try:
            found = extract("p", {"v": {"type": kind}}, {"v": value})
            said = outcome_metadata(Outcome("completed", response_variables=found))
        except ResponseVariableError as error:
            said = error
        assert SENTINEL not in str(said)
    organisation = Organisation(name="Acme")
    assert extract("p", {"v": {"type": "str"}}, {"v": organisation}) == {"v": "Acme"}


def test_a_field_of_a_row_is_judged_by_its_type_too() -> None:
    user = SimpleLazyObject(lambda: User(username="bob", password=SENTINEL))
    assert look_up({"user": user}, "user.username") == "bob"
    assert look_up({"user": user}, "user.password") is MISSING


@pytest.mark.parametrize(
    "template",
    [
        "{a:>999999999}",
        "{a:>９９９９}",
        "{a:.999999999}",
        "{a:{b}}",
        "{}",
        "{0}",
        "{a",
        "{a[}",
        "{a.}",
        "{a!z}",
    ],
)
def test_a_key_that_fills_the_memory_or_is_no_key_is_refused(template: str) -> None:
    with pytest.raises(CacheKeyError):
        Entry(Owner("job", "p", "f"), template, {"a": "x", "b": "9999"})


@pytest.mark.parametrize("template", ["{a[b.c]}", "{a[b.c]!r:>10}", "{list[0].amount:05d}", "{{}}"])
def test_brackets_conversions_and_formats_can_be_used(template: str) -> None:
    context = {"a": {"b.c": 1}, "list": [Total(2)]}
    Entry(Owner("job", "p", "f"), template, context)


def test_a_variable_without_a_type_stays_as_it_is() -> None:
    total = Total(3)
    found = extract("p", {"total": {}, "amount": {"key": "total.amount"}}, {"total": total})
    assert found["total"] is total
    assert found["amount"] == 3


def test_a_default_is_given_without_a_result() -> None:
    rules: dict[str, dict[str, Any]] = {
        "a": {"default": "1", "type": "int"},
        "b": {},
        "c": {"default": None},
    }
    assert defaults("p", rules) == {"a": 1, "c": None}


WORDS = (
    *("user", "context", "settings", "__class__", "__init__", "__globals__", "__dict__", "_meta"),
    *("_state", "password", "pk", "objects", "model", "app_config", "module", "SECRET_KEY"),
    *("DATABASES", "delete", "save", "username", "db", "gi_frame", "f_globals", "environ", "os"),
    *("__builtins__", "0", "1", "first", "date_joined", "year", "min", "max"),
)
paths = st.lists(
    st.sampled_from(WORDS),
    min_size=1,
    max_size=6,
)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=paths, form=st.sampled_from(["{%s}", "{%s!r}", "{%s!s:>40}", "{first[0].%s}"]))
def test_a_sentinel_secret_appears_in_no_variable_and_no_key(path: list[str], form: str) -> None:
    user = User(pk=1, username="bob", password=SENTINEL)
    user.secret_settings = {"SECRET_KEY": SENTINEL}  # type: ignore[attr-defined]
    values = {"user": user, "first": [user, Total(1), generator()], "context": {"user": user}}
    leads = ".".join(path)
    found = extract("p", {"v": {"key": leads, "default": None}}, values)
    assert SENTINEL not in repr(found)
    assert settings.SECRET_KEY not in repr(found)
    try:
        filled_in = caching._filled_in("p", form % leads, values)
    except CacheKeyError as error:
        filled_in = [str(error)]
    assert SENTINEL not in repr(filled_in)
    assert settings.SECRET_KEY not in repr(filled_in)
