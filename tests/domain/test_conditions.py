"""What a trigger's configuration says: operators that never raise, and all problems at once."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.operators import (
    MISSING,
    OPERATORS,
    WITH_VALUE,
    WITHOUT_VALUE,
    equal,
    holds,
    look_up,
)
from proctree_dagster.domain.schedule_rules import CronRule, IntervalRule
from proctree_dagster.domain.trigger_configurations import (
    TYPES,
    is_polled,
    poll_seconds,
    problems,
    schedule_rule,
)
from proctree_dagster.exceptions import ScheduleError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats()
    | st.sampled_from([1.0, 0.0, 2.5])
    | st.sampled_from(["", "a", "ab", "1", "2026-01-01", "2026-01-01T09:00+00:00"])
    | st.text(max_size=3)
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
EDGES = st.sampled_from(
    [None, True, False, 0, 1, 1.0, -1, "", "a", "ab", [], [1], [True], ["a"], {}, {"a": 1}]
)
"""Few enough that two of them often have something to do with each other."""

OTHERS = st.sampled_from(
    [
        *(Decimal("1.5"), Decimal("NaN"), Decimal("sNaN"), dt.date(2026, 1, 1), dt.time(9)),
        *(dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, 9, tzinfo=dt.UTC), object(), int),
    ]
)


NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

# --- Operators ------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def same(one: Any, other: Any) -> bool:
    """Say whether two JSON values are the same, told by their types first."""
    if is_number(one) and is_number(other):
        return bool(one == other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def oracle(operator: str, value: Any, expected: Any) -> bool:
    """Say what an operator means for JSON values, in the plainest way."""
    ordered = (is_number(value) and is_number(expected)) or (
        isinstance(value, str) and isinstance(expected, str)
    )
    texts = isinstance(value, str) and isinstance(expected, str)
    keyed = isinstance(value, dict) and isinstance(expected, str)
    parts = texts or keyed or isinstance(value, list)
    part = parts and (
        any(same(each, expected) for each in value)
        if isinstance(value, list)
        else expected in value
    )
    member = isinstance(expected, list) and any(same(value, each) for each in expected)
    meanings: dict[str, Callable[[], Any]] = {
        "eq": lambda: same(value, expected),
        "ne": lambda: not same(value, expected),
        "gt": lambda: ordered and value > expected,
        "gte": lambda: ordered and value >= expected,
        "lt": lambda: ordered and value < expected,
        "lte": lambda: ordered and value <= expected,
        "in": lambda: member,
        "not_in": lambda: isinstance(expected, list) and not member,
        "contains": lambda: part,
        "not_contains": lambda: parts and not part,
        "starts_with": lambda: texts and value.startswith(expected),
        "ends_with": lambda: texts and value.endswith(expected),
        "exists": lambda: True,
        "missing": lambda: False,
        "truthy": lambda: value,
        "falsy": lambda: not value,
    }
    return bool(meanings[operator]())


@given(st.sampled_from(OPERATORS), JSON | EDGES, JSON | EDGES)
@settings(max_examples=600, deadline=None)
def test_an_operator_means_what_the_oracle_says_for_any_json(
    operator: str, value: Any, expected: Any
) -> None:
    assert holds(operator, value, expected) is oracle(operator, value, expected)


@given(st.sampled_from(OPERATORS), JSON | OTHERS, JSON | OTHERS | st.lists(OTHERS, max_size=2))
@settings(max_examples=300, deadline=None)
def test_no_operator_raises_whatever_it_is_given(operator: str, value: Any, expected: Any) -> None:
    assert holds(operator, value, expected) in (True, False)


@given(st.sampled_from(OPERATORS), JSON)
@settings(max_examples=100, deadline=None)
def test_what_is_missing_means_no_but_for_the_operator_that_asks_for_it(
    operator: str, expected: Any
) -> None:
    assert holds(operator, MISSING, expected) is (operator == "missing")


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_what_is_equal_is_in_a_list_of_it_and_a_list_of_it_contains_it(value: Any) -> None:
    assert holds("in", value, [value]) is holds("contains", [value], value) is equal(value, value)


@pytest.mark.parametrize(
    ("operator", "value", "expected", "answer"),
    [
        ("eq", True, 1, False),  # as JSON sees it
        ("eq", 1, 1.0, True),
        ("eq", [True], [1], False),
        ("gt", Decimal("1.5"), 1, True),
        ("eq", Decimal("0.10"), 0.1, True),  # what JSON says, not what a float holds
        ("gte", Decimal("0.10"), 0.1, True),
        ("gt", Decimal("2.30"), 2.3, False),
        ("lt", 0.1, Decimal("0.11"), True),
        ("in", Decimal("0.1"), [0.1], True),
        ("eq", {"total": Decimal("0.1")}, {"total": 0.1}, True),
        ("gt", "10", 9, False),  # a text and a number have no order
        ("gt", True, 0, False),
        ("gt", [2], [1], False),
        ("gt", None, 0, False),
        ("lt", float("nan"), 1, False),
        ("lt", dt.date(2026, 1, 1), "2026-01-02", True),
        ("lt", "2026-01-01", dt.date(2026, 1, 2), True),
        ("lt", dt.date(2026, 1, 1), "soon", False),
        ("ne", dt.date(2026, 1, 1), "soon", False),
        ("gt", dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-01T00:00+02:00", True),
        ("gt", dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-01", False),  # no zone on one side
        ("contains", ["a", "b"], "b", True),
        ("contains", 5, 5, False),
        ("not_contains", 5, 6, False),
        ("not_contains", ["a"], "b", True),
        ("not_in", 1, 5, False),
        ("ne", 1, "1", True),  # of different types: they can be told apart
        ("ne", dt.date(2026, 1, 1), 5, True),
        ("ne", NOON, NOON.replace(tzinfo=None), False),  # no zone on one side
        ("ne", NOON.replace(tzinfo=None), "2026-01-01T12:00Z", False),
        ("ne", NOON.timetz(), dt.time(9), False),
        ("ne", NOON, NOON.date(), False),
        ("ne", NOON.date(), NOON.time(), False),
        ("ne", NOON, NOON.replace(hour=13), True),
        ("ne", NOON.date(), "2026-01-02", True),
        ("ne", [NOON.date(), 1], ["soon", 2], True),  # the numbers tell them apart
        ("ne", [NOON.date(), 1], ["soon", 1], False),
        ("not_in", NOON.date(), ["n/a"], False),
        ("not_in", NOON.date(), ["n/a", "2026-01-02"], True),
        ("not_in", NOON.date(), [], True),
        ("not_contains", [], NOON.date(), True),
    ],
)
def test_values_are_compared_as_a_person_expects(
    operator: str, value: Any, expected: Any, answer: bool
) -> None:
    assert holds(operator, value, expected) is answer


@given(st.permutations(["n/a", "2026-01-01", NOON, Decimal("sNaN"), 5]))
@settings(max_examples=30, deadline=None)
def test_what_cannot_be_compared_does_not_decide_for_the_rest_of_a_list(parts: list[Any]) -> None:
    for value, answer in [(dt.date(2026, 1, 1), True), (dt.date(2026, 1, 2), False)]:
        assert holds("in", value, parts) is answer
        assert holds("contains", parts, value) is answer
        assert holds("not_in", value, parts) is not answer
        assert holds("not_contains", parts, value) is not answer


class Hostile:
    """Has code of its own wherever an operator may come by."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    @property
    def name(self) -> str:
        raise RuntimeError("no name")


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_object_whose_own_code_raises_means_no(operator: str) -> None:
    assert holds(operator, Hostile(), Hostile()) is (operator == "exists")


def test_values_nested_too_deep_to_be_compared_mean_no() -> None:
    one: list[Any] = []
    other: list[Any] = []
    for _ in range(5000):
        one, other = [one], [other]
    assert holds("eq", one, other) is False


# --- Fields ---------------------------------------------------------------------------------------


class Invoice:
    """Has attributes."""

    total = 5
    _secret = 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a", 1),
        ("b.c", 2),
        ("d.e", 3),  # a key that holds the dot
        ("rows.1.x", 4),
        ("invoice.total", 5),
        ("nothing", None),
        ("invoice._secret", MISSING),
        ("invoice.__class__", MISSING),
        ("hostile.name", MISSING),
        ("rows.2", MISSING),
        ("rows.-1", MISSING),
        ("rows.x", MISSING),
        ("rows." + "9" * 5000, MISSING),
        ("a.b", MISSING),
        ("", MISSING),
        ("b..c", MISSING),
    ],
)
def test_a_dotted_path_leads_through_keys_positions_and_attributes(field: str, value: Any) -> None:
    available = {
        **{"a": 1, "b": {"c": 2}, "d.e": 3, "rows": [{"x": 3}, {"x": 4}], "nothing": None},
        **{"invoice": Invoice(), "hostile": Hostile()},
    }
    assert look_up(available, field) is value


@given(JSON, st.text(max_size=6) | st.sampled_from(["0.0", "a.b", "..", "__class__", "a.0"]))
@settings(max_examples=150, deadline=None)
def test_no_path_raises(available: Any, field: str) -> None:
    look_up(available, field)


# --- Configurations -------------------------------------------------------------------------------

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("condition", {"field": "a.b", "operator": "gt", "value": 5}),
    ("condition", {"field": "a", "operator": "missing"}),
    ("condition", {"field": "a", "operator": "eq", "value": None}),
    ("condition", {"field": "a", "operator": "in", "value": [1, 2]}),
    ("condition", {"model": "app.Ticket", "operator": "gte", "value": 1, "poll_seconds": 5}),
    (
        "condition",
        {"model": "app.Ticket", "filter": {"closed": True}, "operator": "eq", "value": 0},
    ),
    ("schedule", {"interval_minutes": 30}),
    ("schedule", {"interval_minutes": 1440, "start_time": "09:00", "timezone": "Europe/London"}),
    ("schedule", {"cron": "0 9 * * 1-5", "timezone": "", "poll_seconds": 86400}),
    ("event", {}),
    ("custom", {"function": "registered"}),
    ("outdated_check", {"model": "app.Holding", "date_field": "day", "max_age_minutes": 0.5}),
]


@pytest.mark.parametrize(("trigger_type", "configuration"), GOOD)
def test_a_configuration_that_makes_sense_has_no_problems(
    trigger_type: str, configuration: dict[str, Any]
) -> None:
    assert problems(trigger_type, configuration) == []


BAD: list[tuple[Any, Any, list[str]]] = [
    ("alarm", {}, ["A trigger's type must be one of"]),
    (None, {}, ["A trigger's type must be one of"]),
    ("event", [], ["must be a dictionary"]),
    ("event", {"a": 1, 5: 2}, ["has no key 'a'; known: none", "has no key 5"]),
    (
        "condition",
        {},
        ["needs a field such as", "operator must be one of eq, ne,"],
    ),
    (
        "condition",
        {"field": "a", "model": "app.Ticket", "operator": "gt", "value": "5", "filter": 1},
        ["filter must be a dictionary", "not both", "the value must be a number, not '5'"],
    ),
    (
        "condition",
        {"field": "", "filter": {}, "operator": "exists", "value": 1, "poll_seconds": 5},
        [
            "needs a field such as",
            "filter: it needs a model",
            "'exists' takes no value",
            "a condition without a model is not polled",
        ],
    ),
    ("condition", {"field": "a", "operator": ["eq"]}, ["operator must be one of"]),
    ("condition", {"field": "a", "operator": "eq"}, ["'eq' needs a value"]),
    ("condition", {"field": "a", "operator": "in", "value": 5}, ["'in' needs a list"]),
    ("condition", {"field": "a", "operator": "gt", "value": None}, ["needs a number, a text or"]),
    ("condition", {"field": "a", "operator": "ends_with", "value": 5}, ["needs a text"]),
    ("schedule", {}, ["Give interval_minutes"]),
    (
        "schedule",
        {
            **{"interval_minutes": 0, "cron": "0 25 * * *", "start_time": "9"},
            **{"timezone": "Mars/Olympus", "poll_seconds": 0, "colour": "red"},
        },
        [
            "has no key 'colour'",
            "one of them only",
            "interval_minutes must be whole minutes from 1 to 525600, not 0",
            "The cron '0 25 * * *' can't be read",
            "a cron says its own times",
            "start_time must be a time such as '09:00'",
            "'Mars/Olympus' is not an IANA time zone",
            "poll_seconds must be whole seconds from 1 to 86400, not 0",
        ],
    ),
    ("schedule", {"interval_minutes": True}, ["interval_minutes must be"]),
    ("schedule", {"cron": 5, "timezone": 5}, ["cron must be a text", "timezone must be a text"]),
    ("schedule", {"cron": "0 0 30 2 *"}, ["The cron '0 0 30 2 *'"]),
    (
        "schedule",
        {"interval_minutes": 5, "start_time": "09:00+02:00"},
        ["start_time must be a time"],
    ),
    (
        "schedule",
        {"interval_minutes": 5, "start_time": "09:00:30"},
        ["start_time goes by the minute, such as '09:00'; leave out the seconds of '09:00:30'"],
    ),
    ("custom", {"function": " "}, ["needs a function"]),
    ("custom", {"function": 5, "poll_seconds": "5"}, ["needs a function", "poll_seconds must be"]),
    (
        "outdated_check",
        {"model": "Ticket", "filter": {1: 2}, "max_age_minutes": 0},
        [
            "model must be written as 'app.Model'",
            "filter must be a dictionary",
            "date_field must name a date field",
            "max_age_minutes must be minutes above 0",
        ],
    ),
    (
        "outdated_check",
        {"model": "a.b.c", "date_field": "day", "max_age_minutes": float("nan")},
        ["model must be written as", "max_age_minutes must be"],
    ),
    (
        "outdated_check",
        {"model": "a.b", "date_field": "day", "max_age_minutes": Decimal("NaN")},
        ["max_age_minutes must be"],
    ),
]


@pytest.mark.parametrize(("trigger_type", "configuration", "expected"), BAD)
def test_all_problems_of_a_configuration_are_reported_at_once(
    trigger_type: Any, configuration: Any, expected: list[str]
) -> None:
    found = problems(trigger_type, configuration)
    assert len(found) == len(expected), found
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


KEYS = st.sampled_from(
    [
        *("field", "model", "filter", "operator", "value", "poll_seconds", "interval_minutes"),
        *("cron", "start_time", "timezone", "function", "date_field", "max_age_minutes"),
    ]
)


@given(st.sampled_from([*TYPES, "alarm"]), st.dictionaries(KEYS, JSON | OTHERS, max_size=6) | JSON)
@settings(max_examples=400, deadline=None)
def test_whatever_a_configuration_says_it_is_judged_and_not_stumbled_over(
    trigger_type: str, configuration: Any
) -> None:
    assert all(isinstance(each, str) for each in problems(trigger_type, configuration))
    assert is_polled(trigger_type, configuration) in (True, False)
    assert 1 <= poll_seconds(configuration) <= 86400


def test_every_operator_is_of_one_kind_and_known_to_the_oracle() -> None:
    assert not WITH_VALUE.keys() & WITHOUT_VALUE.keys()
    for operator in OPERATORS:
        oracle(operator, 1, 1)


def test_a_condition_is_polled_only_if_it_counts_rows() -> None:
    polled = {each: is_polled(each, {}) for each in TYPES}
    assert polled == {
        "condition": False,
        "schedule": True,
        "event": False,
        "custom": True,
        "outdated_check": True,
    }
    assert is_polled("condition", {"model": "app.Ticket"})


def test_a_schedules_configuration_is_a_rule() -> None:
    assert schedule_rule({"interval_minutes": 90}, "UTC") == IntervalRule(90, None, "UTC")
    assert schedule_rule({"interval_minutes": 5, "start_time": "09:30"}, "UTC") == IntervalRule(
        5, dt.time(9, 30), "UTC"
    )
    cron = {"cron": "0 9 * * *", "timezone": "Europe/London"}
    assert schedule_rule(cron, "UTC") == CronRule("0 9 * * *", "Europe/London")
    with pytest.raises(ScheduleError, match="Give interval_minutes"):
        schedule_rule({}, "UTC")
