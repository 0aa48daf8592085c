"""A run's keyword arguments, to JSON and back."""

import datetime as dt
import enum
import json
import math
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils.functional import SimpleLazyObject
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster.context import (
    MAX_SAFE_INTEGER,
    RESERVED,
    decode,
    encode,
    parse_json,
    restore_empty,
)
from proctree_dagster.domain.names import READ_AS_OBJECTS
from proctree_dagster.exceptions import ContextError
from proctree_dagster.models.validation import trigger_validation
from tests.app.models import AccessToken, Document, Holding, Organisation, Ticket


def there_and_back(context: dict[str, Any]) -> Any:
    """Store a context as the database does, and restore it."""
    return decode(json.loads(json.dumps(encode(context), allow_nan=False)))


def shortly(value: Any) -> str:
    """Name a parameter in a test's id."""
    return repr(value)[:60]


class Colour(enum.Enum):
    RED = "red"
    DEEP = (1, 2)


class Kind(str, enum.Enum):  # noqa: UP042  # as Django projects have them
    SALE = "sale"


class Level(enum.IntEnum):
    HIGH = 3


# --- Plain values ---------------------------------------------------------------------------------

JOHANNESBURG = dt.timezone(dt.timedelta(hours=2))

PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -5,
    MAX_SAFE_INTEGER,
    1.5,
    -0.0,
    1e300,
    "",
    "text",
    "名前",
    [],
    {},
]
STORED: list[tuple[Any, Any]] = [
    (dt.date(2026, 3, 31), {"$date": "2026-03-31"}),
    (dt.time(9, 30), {"$time": "09:30:00"}),
    (dt.datetime(2026, 3, 31, 9, 30), {"$datetime": "2026-03-31T09:30:00"}),
    (
        dt.datetime(2026, 3, 31, 9, 30, 1, 5, JOHANNESBURG),
        {"$datetime": "2026-03-31T09:30:01.000005+02:00"},
    ),
    (
        dt.datetime(2026, 7, 1, 9, 30, tzinfo=ZoneInfo("Europe/London")),
        {"$datetime": "2026-07-01T09:30:00+01:00"},
    ),
    (uuid.UUID(int=1), {"$uuid": "00000000-0000-0000-0000-000000000001"}),
    (Decimal("1.50"), {"$decimal": "1.50"}),
    (Decimal("-1E+400"), {"$decimal": "-1E+400"}),
    (MAX_SAFE_INTEGER + 1, {"$int": "9007199254740992"}),
    (-(2**64), {"$int": "-18446744073709551616"}),
]


def text(max_size: int) -> st.SearchStrategy[str]:
    """Return strings that every database stores."""
    return st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=max_size)


@pytest.mark.parametrize("value", PLAIN)
def test_what_json_can_say_is_stored_as_it_is(value: Any) -> None:
    assert encode({"a": value}) == {"a": value}
    assert there_and_back({"a": value}) == {"a": value}


@pytest.mark.parametrize(("value", "stored"), STORED)
def test_what_json_cannot_say_is_stored_under_a_reserved_key(value: Any, stored: Any) -> None:
    assert encode({"a": value}) == {"a": stored}
    restored = there_and_back({"a": [value]})["a"][0]
    assert restored == value
    assert type(restored) is type(value)


def test_a_decimal_keeps_its_digits_and_an_aware_datetime_its_offset() -> None:
    restored = there_and_back(
        {"sum": Decimal("1.500"), "at": dt.datetime(2026, 3, 31, 9, 30, tzinfo=JOHANNESBURG)}
    )
    assert str(restored["sum"]) == "1.500"
    assert restored["at"].utcoffset() == dt.timedelta(hours=2)


def test_a_whole_number_that_a_browser_would_round_is_stored_as_text() -> None:
    for exact in (MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER):
        assert encode({"a": exact}) == {"a": exact}
    for large in (2**53, -(2**53), 10**40):
        assert encode({"a": large}) == {"a": {"$int": str(large)}}


@pytest.mark.parametrize(
    ("member", "value"), [(Colour.RED, "red"), (Kind.SALE, "sale"), (Level.HIGH, 3)]
)
def test_a_member_of_an_enum_is_stored_as_its_value(member: enum.Enum, value: Any) -> None:
    [stored] = encode({"a": [member]})["a"]
    assert stored == value
    assert type(stored) is type(value)


def test_an_enum_of_tuples_is_stored_as_lists() -> None:
    assert encode({"a": Colour.DEEP}) == {"a": [1, 2]}


@pytest.mark.parametrize(("key", "name"), [(Kind.SALE, "sale")])
def test_a_key_that_is_a_member_of_a_text_enum_is_stored_as_its_value(key: Any, name: str) -> None:
    assert encode({key: 1}) == {name: 1}
    assert encode({"a": {key: 1}}) == {"a": {name: 1}}


def test_an_enum_whose_value_is_a_member_of_another_is_stored_as_the_latters_value() -> None:
    class Wrapped(enum.Enum):
        SALE = Kind.SALE

    assert encode({"a": Wrapped.SALE}) == {"a": "sale"}


def test_tuples_become_lists_and_mappings_dictionaries() -> None:
    stored = encode({"a": (1, (2,)), "b": MappingProxyType({"c": (dt.date(2026, 1, 1),)})})
    assert stored == {"a": [1, [2]], "b": {"c": [{"$date": "2026-01-01"}]}}


def test_encoding_copies() -> None:
    inner = {"b": [1]}
    encode({"a": inner})["a"]["b"].append(2)
    assert inner == {"b": [1]}


# --- Model instances ------------------------------------------------------------------------------


@pytest.fixture
def organisation(db: None) -> Organisation:
    return Organisation.objects.create(name="Quiver Tree Coffee")


def test_an_instance_is_stored_as_a_reference(organisation: Organisation) -> None:
    assert encode({"organisation": organisation}) == {
        "organisation": {"$model": "app.Organisation", "pk": organisation.pk}
    }


def test_an_instance_is_fetched_again_when_the_run_starts(organisation: Organisation) -> None:
    stored = encode({"a": [{"b": organisation}]})
    Organisation.objects.filter(pk=organisation.pk).update(name="renamed meanwhile")
    [inner] = decode(stored)["a"]
    assert inner["b"] == organisation
    assert inner["b"].name == "renamed meanwhile"


@pytest.mark.django_db
def test_an_instance_with_a_uuid_as_its_key() -> None:
    document = Document.objects.create(title="Ledger")
    stored = encode({"a": document})
    assert stored == {"a": {"$model": "app.Document", "pk": {"$uuid": str(document.pk)}}}
    assert there_and_back({"a": document}) == {"a": document}
    # A person may type the key as text.
    assert decode({"a": {"$model": "app.Document", "pk": str(document.pk)}}) == {"a": document}


@pytest.mark.django_db
def test_an_instance_with_a_composite_key() -> None:
    holding = Holding.objects.create(owner="Quiver Tree", day=dt.date(2026, 3, 31))
    stored = encode({"a": holding})
    assert stored == {
        "a": {"$model": "app.Holding", "pk": ["Quiver Tree", {"$date": "2026-03-31"}]}
    }
    assert there_and_back({"a": holding}) == {"a": holding}


@pytest.mark.django_db
def test_an_instance_that_its_default_manager_hides_is_found() -> None:
    ticket = Ticket.objects.create(closed=True)
    assert not Ticket.objects.exists()
    assert there_and_back({"a": ticket}) == {"a": ticket}


def test_a_lazy_instance_such_as_request_user(organisation: Organisation) -> None:
    lazy = SimpleLazyObject(lambda: organisation)
    assert there_and_back({"a": lazy}) == {"a": organisation}


def test_a_row_that_is_gone_is_an_error_that_names_it(organisation: Organisation) -> None:
    stored = encode({"a": {"b": organisation}})
    key = organisation.pk
    organisation.delete()
    with pytest.raises(ContextError) as raised:
        decode(stored)
    assert str(raised.value) == (
        f"context['a']['b'] can't be restored from {{'$model': 'app.Organisation', 'pk': {key}}}: "
        f"there is no app.Organisation with the primary key {key} any more"
    )


@pytest.mark.parametrize("instance", [Organisation(name="x"), Organisation(pk=5), Document()])
def test_an_unsaved_instance_is_refused(instance: Any) -> None:
    with pytest.raises(ContextError, match=r"context\['a'\]\[0\] is an unsaved app\.\w+; save it"):
        encode({"a": [instance]})


def test_an_instance_that_was_deleted_is_refused(organisation: Organisation) -> None:
    organisation.delete()
    with pytest.raises(ContextError, match="unsaved"):
        encode({"a": organisation})


@pytest.mark.parametrize(
    "stored",
    [
        {"$model": "app.Organisation", "pk": 0},
        {"$model": "app.Organisation", "pk": "nonsense"},
        {"$model": "app.Organisation", "pk": None},
        {"$model": "app.Organisation", "pk": [1, 2]},
        {"$model": "app.Organisation", "pk": {"a": 1}},
        {"$model": "app.Organisation", "pk": {"$int": str(10**30)}},
        {"$model": "app.Document", "pk": str(uuid.UUID(int=0))},
        {"$model": "app.Document", "pk": "nonsense"},
        {"$model": "app.Document", "pk": 1.5},
        {"$model": "app.Holding", "pk": ["Quiver Tree", "nonsense"]},
        {"$model": "app.Holding", "pk": ["Quiver Tree"]},
        {"$model": "app.Holding", "pk": 1},
        {"$model": "app.Gone", "pk": 1},
        {"$model": "gone.Organisation", "pk": 1},
        {"$model": "Organisation", "pk": 1},
        {"$model": "", "pk": 1},
        {"$model": 5, "pk": 1},
        {"$model": None, "pk": 1},
        {"$model": ["app", "Organisation"], "pk": 1},
    ],
    ids=shortly,
)
@pytest.mark.django_db
def test_a_reference_that_can_not_be_followed_is_an_error_that_says_where(stored: Any) -> None:
    with pytest.raises(ContextError) as raised:
        decode({"a": [1, stored]})
    assert str(raised.value).startswith("context['a'][1] can't be restored from ")


# --- What can't be stored -------------------------------------------------------------------------


class Opaque:
    def __repr__(self) -> str:
        return "x" * 500


def circle() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("bytes", lambda: b"abc"),
    ("set", lambda: {1}),
    ("timedelta", lambda: dt.timedelta(1)),
    ("complex", lambda: 1j),
    ("function", lambda: circle),
    ("class", lambda: Organisation),
    ("object", Opaque),
    ("generator", lambda: (each for each in "ab")),
    ("range", lambda: range(3)),
    ("nan", lambda: math.nan),
    ("inf", lambda: math.inf),
    ("-inf", lambda: -math.inf),
    ("key that is a number", lambda: {1: 2}),
    ("key that is None", lambda: {None: 2}),
    ("key that is a tuple", lambda: {("a", "b"): 2}),
    ("number of too many digits", lambda: 10**5000),
    ("list that holds itself", circle),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in REFUSED])
def test_whatever_can_not_be_stored_is_refused_with_its_path(make: Callable[[], Any]) -> None:
    with pytest.raises(ContextError) as raised:
        encode({"fine": 1, "a": [0, {"b": "fine"}, make()]})
    message = str(raised.value)
    assert message.startswith("context['a'][2]")
    assert len(message) < 400


@pytest.mark.django_db
def test_a_time_whose_zone_has_no_offset_without_a_date_is_refused() -> None:
    with pytest.raises(ContextError, match=r"context\['at'\].*Europe/London.* use a datetime"):
        encode({"at": dt.time(9, tzinfo=ZoneInfo("Europe/London"))})
    fixed = {"at": dt.time(9, tzinfo=dt.timezone(dt.timedelta(hours=2)))}
    assert decode(encode(fixed)) == fixed


def test_a_queryset_is_refused_with_its_path() -> None:
    with pytest.raises(ContextError, match=r"context\['a'\]\[0\] is QuerySet"):
        encode({"a": [Organisation.objects.all()]})


@pytest.mark.parametrize("key", [1, None, ("a",), b"a"])
def test_a_key_that_is_no_string_is_refused(key: Any) -> None:
    with pytest.raises(ContextError, match=r"context has the key .*; a key must be a string"):
        encode({key: 1})


@pytest.mark.parametrize("context", [None, [], "a", 5, [("a", 1)]])
def test_a_context_is_a_dictionary(context: Any) -> None:
    with pytest.raises(
        ContextError, match=r"A context is a dictionary \(an object in JSON\), not "
    ):
        encode(context)


# --- Reserved keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"$date": 5},
        {"$date": "yesterday"},
        {"$date": "2026-02-30"},
        {"$date": "2026-03-31", "other": 1},
        {"$date": "2026-03-31", "$time": "09:00"},
        {"$time": "25:00"},
        {"$datetime": "2026-03-31T25:00"},
        {"$uuid": "nonsense"},
        {"$decimal": "1,5"},
        {"$decimal": 1.5},
        {"$int": 5},
        {"$int": "1.5"},
        {"$int": "9" * 5000},
        {"$model": "app.Organisation"},
        {"$model": "app.Organisation", "pk": 1, "other": 2},
        {"$model": "app.Gone", "pk": 1},
        {"$model": 5, "pk": 1},
        {"$model": None, "pk": 1},
    ],
    ids=shortly,
)
def test_a_reserved_key_that_says_something_else_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(ContextError) as raised:
        encode({"a": [value]})
    assert str(raised.value).startswith("context['a'][0] uses a reserved key (")
    assert any(key in str(raised.value) for key in RESERVED & set(value))
    with pytest.raises(ContextError) as raised:
        decode({"a": [value]})
    assert str(raised.value).startswith("context['a'][0] can't be restored from ")


@pytest.mark.parametrize("value", [stored for _, stored in STORED])
def test_what_is_encoded_already_is_left_as_it_is(value: Any) -> None:
    assert encode({"a": value}) == {"a": value}


def test_a_keyword_argument_may_be_called_like_a_reserved_key() -> None:
    assert there_and_back({"$date": 5}) == {"$date": 5}


def test_other_keys_with_a_dollar_are_ordinary() -> None:
    assert there_and_back({"a": {"$ref": 5, "pk": 1}}) == {"a": {"$ref": 5, "pk": 1}}


# --- By many examples -----------------------------------------------------------------------------

# Whole seconds: Python itself loses an offset of less than one (``datetime.fromisoformat``).
utc_offsets = st.integers(-23 * 3600, 23 * 3600).map(
    lambda seconds: dt.timezone(dt.timedelta(seconds=seconds))
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text(max_size=20)
    | st.dates()
    | st.times()
    | st.times(timezones=utc_offsets)
    | st.datetimes()
    | st.datetimes(timezones=utc_offsets)
    | st.datetimes(timezones=st.timezones())
    | st.uuids()
    | st.decimals(allow_nan=False)
)
# The others are refused (see below); Hypothesis also tries strings that it finds in the source.
keys = text(max_size=8).filter(lambda key: key not in READ_AS_OBJECTS)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys.filter(lambda key: key not in RESERVED), inner, max_size=4)
    ),
    max_leaves=12,
)
contexts = st.dictionaries(keys, values, max_size=5)


def comparable(value: Any) -> Any:
    """Write aware datetimes as wall time and offset.

    Those of two zones never equal each other where a clock is changed (PEP 495).
    """
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return "aware", value.replace(tzinfo=None), value.utcoffset()
    return value


@settings(max_examples=300, deadline=None)
@given(contexts)
def test_a_context_comes_back_as_it_was(context: dict[str, Any]) -> None:
    assert comparable(there_and_back(context)) == comparable(context)


@settings(max_examples=200, deadline=None)
@given(contexts)
def test_encoding_twice_changes_nothing(context: dict[str, Any]) -> None:
    once = encode(context)
    assert encode(once) == once
    assert encode(json.loads(json.dumps(once))) == once


@pytest.mark.parametrize("depth", [1, 40, 48, 49, 50, 51, 200])
@pytest.mark.parametrize("value", [1, dt.date(2026, 3, 31), 2**60])
def test_encoding_twice_changes_nothing_however_deep(depth: int, value: Any) -> None:
    for _ in range(depth):
        value = [value]
    stored, complaint = attempt(encode, {"a": value})
    if complaint is None:
        assert encode(stored) == stored
    else:
        assert depth > 40
        assert complaint.startswith("context['a'][0]")


anything = st.recursive(
    scalars | st.floats() | st.binary(max_size=3) | st.just(Opaque()) | st.just(Kind.SALE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(
            st.sampled_from([*sorted(RESERVED), "pk", "a", 1]),
            inner | text(max_size=5),
            max_size=3,
        )
    ),
    max_leaves=8,
)


def attempt(call: Callable[[Any], Any], value: Any) -> tuple[Any, str | None]:
    """Return what a call returns, or why it refuses."""
    try:
        return call(value), None
    except ContextError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let the examples of one test look rows up; they write none."""
    with django_db_blocker.unblock():
        yield


@pytest.mark.usefixtures("tables")
@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, anything, max_size=3))
def test_a_context_is_stored_and_restored_or_refused_with_a_path(context: dict[str, Any]) -> None:
    stored, complaint = attempt(encode, context)
    if complaint is not None:
        assert complaint.startswith("context[")
        return
    assert encode(json.loads(json.dumps(stored, allow_nan=False))) == stored
    _, complaint = attempt(decode, stored)
    assert complaint is None or "$model" in complaint  # only a row may be gone


# --- What the Launchpad leaves out ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_context", "default", "expected"),
    [
        ({}, {"a": None, "b": {}}, {"a": None, "b": {}}),
        ({"a": 1}, {"a": None}, {"a": 1}),
        ({}, {"a": 1, "b": []}, {}),  # a person has taken it out
        ({"a": {"c": 2}}, {"a": {"b": None, "c": 1}}, {"a": {"c": 2, "b": None}}),
        ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {"c": None}}}),
        ({}, {"a": {"b": None, "c": 1}}, {}),
        ({"a": 5}, {"a": {"b": None}}, {"a": 5}),
        ({"a": None}, {"a": {"b": None}}, {"a": None}),
        ({"a": {"$date": "2026-03-31"}}, {"a": {"b": None}}, {"a": {"$date": "2026-03-31"}}),
        ({"x": 1}, {}, {"x": 1}),
    ],
)
def test_nulls_and_empty_dictionaries_of_the_default_are_put_back(
    given_context: dict[str, Any], default: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps([given_context, default])
    assert restore_empty(given_context, default) == expected
    assert json.dumps([given_context, default]) == before


@settings(max_examples=100, deadline=None)
@given(contexts)
def test_a_default_that_comes_back_without_them_is_whole_again(context: dict[str, Any]) -> None:
    default = encode(context)

    def shown(value: Any) -> Any:
        # Dagster shows no nulls, and no dictionary in which nothing is left.
        if not isinstance(value, dict):
            return value
        left = {key: shown(each) for key, each in value.items() if each is not None}
        return {key: each for key, each in left.items() if each != {}}

    assert restore_empty(shown(default), default) == default


# --- What a person types --------------------------------------------------------------------------


def test_a_context_may_be_typed_as_json() -> None:
    assert parse_json('{"tenant_id": "123", "on": {"$date": "2026-03-31"}}') == {
        "tenant_id": "123",
        "on": {"$date": "2026-03-31"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON: Expecting value at line 1, column 1"),
        ("{", "not valid JSON: .* at line 1, column 2"),
        ("{'a': 1}", "not valid JSON: .* at line 1, column 2"),
        ('{"a": 1,\n "b": }', "not valid JSON: Expecting value at line 2, column 7"),
        ('{"a": 1} {"b": 2}', "not valid JSON: Extra data at line 1, column 10"),
        ("\ufeff{}", "not valid JSON"),
        ("[1]", "must be a JSON object like .*, not list"),
        ('"a"', "must be a JSON object like .*, not str"),
        ("null", "must be a JSON object like .*, not NoneType"),
        ("NaN", "must be a JSON object like .*, not float"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' is given twice"),
        ('{"a": [NaN]}', r"context\['a'\]\[0\] is nan"),
        ('{"a": Infinity}', r"context\['a'\] is inf"),
        ('{"a": {"$date": "today"}}', r"context\['a'\] uses a reserved key"),
        pytest.param(f'{{"a": {"9" * 5000}}}', "context", id="a number of too many digits"),
        pytest.param("[" * 100_000, "context", id="too deep"),
    ],
)
def test_what_is_not_a_json_object_is_refused_and_the_message_says_where(
    text: str, message: str
) -> None:
    with pytest.raises(ContextError, match=message):
        parse_json(text)


@pytest.mark.parametrize("text", ["1E+999999999", "-9E+5000", "1E-999999999", "0E+999999999"])
def test_a_decimal_that_nobody_could_write_out_is_refused(text: str) -> None:
    said = r"context\['a'\].* at most 4300 digits"
    with pytest.raises(ContextError, match=said):
        encode({"a": Decimal(text)})
    with pytest.raises(ContextError, match=said):
        decode({"a": {"$decimal": text}})
    configuration = {"model": "app.Organisation", "filter": {"pk": {"$decimal": text}}}
    found = trigger_validation.problems("condition", {**configuration, "operator": "truthy"})
    assert "4300 digits" in found[0], "int() of it would take hours"


@pytest.mark.parametrize("key", sorted(READ_AS_OBJECTS))
def test_a_key_with_which_dagster_could_read_no_run_any_more_is_refused(key: str) -> None:
    for value, path in (({key: 1}, "context"), ({"a": [{key: {}}]}, r"context\['a'\]\[0\]")):
        with pytest.raises(ContextError, match=f"{path} has the key '{key}', which Dagster keeps"):
            encode(value)
        with pytest.raises(ContextError, match=f"{path} has the key '{key}'"):
            decode(value)


def test_what_cant_be_stored_is_shown_without_the_secrets_of_rows() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError("odd")

    for value in (frozenset([AccessToken(key="sesame")]), AccessToken(key="sesame").__class__):
        with pytest.raises(ContextError) as raised:
            encode({"a": value})
        assert "sesame" not in str(raised.value)
    with pytest.raises(ContextError, match="Odd that can't be shown"):
        encode({"a": Odd()})


def test_a_large_number_that_is_typed_stays_exact() -> None:
    assert decode(parse_json('{"a": 12345678901234567890}')) == {"a": 12345678901234567890}


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", {"k\x00": 1}, ["\udfff"]])
def test_text_that_databases_refuse_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(ContextError, match=r"context\['a'\].* databases refuse"):
        encode({"a": value})


@pytest.mark.parametrize(
    "typed",
    [
        {"a": {"$date": "2026-01-01"}},
        {"a": {"z": 2}},
        {"other": 1},
        {},
    ],
)
def test_what_was_typed_in_place_of_a_default_is_left_as_it_is(typed: dict[str, Any]) -> None:
    default = {"a": {"x": None, "y": 1}, "n": None}
    assert restore_empty({"b": 1, **typed}, {**default, "b": 1})["b"] == 1
    assert restore_empty(typed, default).get("a") == typed.get("a")
