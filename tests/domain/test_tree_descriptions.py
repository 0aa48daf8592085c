"""What wins: what the code said at the last sync, what it says now, and what the rows say.

Each line of the table in docs/trees-in-code.md is one of ``TABLE``.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain.tree_descriptions import (
    ABSENT,
    OF_TREE,
    TreeDescription,
    Why,
    differences,
    edited,
    merge,
    options_at,
    place_in_words,
    removed,
    same,
)
from tests.tools import TOP

TREE = TreeDescription(
    "close",
    {**OF_TREE, "processes": [{"name": "one", "func": "a:b"}]},
    schedules={"default": {"cron": "0 9 * * *", "interval_minutes": None, "enabled": True}},
    subscriptions={"paid": {"context": {}, "tags": {}, "enabled": True}},
)

OLD, NEW, EDIT = "what the code said", "what the code says now", "an edit"


def described(description: str) -> TreeDescription:
    return replace(TREE, content={**TREE.content, "description": description})


# what the code said | says now | the row | owned by operators | kept: the row is then | because
TABLE = [
    *((OLD, OLD, OLD, False, False, OLD, Why.SAME), (OLD, NEW, OLD, False, False, NEW, Why.CODE)),
    (OLD, OLD, EDIT, False, False, OLD, Why.EDITED),
    (OLD, NEW, EDIT, False, False, NEW, Why.BOTH),
    (OLD, NEW, NEW, False, False, NEW, Why.SAME),
    (OLD, NEW, OLD, True, False, NEW, Why.CODE),
    (OLD, OLD, EDIT, True, False, EDIT, Why.OPERATORS),
    (OLD, NEW, EDIT, True, False, EDIT, Why.OPERATORS),
    (OLD, OLD, EDIT, False, True, EDIT, Why.KEPT),
    (OLD, NEW, EDIT, False, True, EDIT, Why.KEPT),
    (None, NEW, EDIT, False, False, NEW, Why.FIRST),
    (None, NEW, EDIT, True, False, EDIT, Why.OPERATORS),
    (None, NEW, None, False, False, NEW, Why.NEW),
    (OLD, OLD, None, True, False, OLD, Why.NEW),
]


@pytest.mark.parametrize(("base", "code", "row", "owned", "kept", "then", "why"), TABLE)
def test_what_wins_is_what_the_table_says(
    base: str | None, code: str, row: str | None, owned: bool, kept: bool, then: str, why: Why
) -> None:
    found = merge(
        None if base is None else described(base),
        described(code),
        None if row is None else described(row),
        owned=("description",) if owned else (),
        kept={("description",)} if kept else (),
    )
    [decision] = [each for each in found if each.path == ("description",)]
    assert (decision.chosen, decision.why) == (then, why)


def test_the_page_has_a_line_for_each_of_these_reasons() -> None:
    page = (TOP / "docs/trees-in-code.md").read_text()
    assert [why.value for why in Why if why is not Why.SAME and f"*{why.value}*" not in page] == []


def test_a_schedules_rule_counts_as_one_value() -> None:
    every_hour = {"cron": "", "interval_minutes": 60, "enabled": True}
    row = TREE.with_part(("schedules", "default"), every_hour)
    [decision] = [each for each in merge(TREE, TREE, row, owned=("cron",)) if each.code != each.row]
    assert decision.path == ("schedules", "default", "rule")
    assert decision.chosen == {"cron": "", "interval_minutes": 60}
    assert options_at({decision.path: decision.chosen}, ("schedules", "default")) == {
        "cron": "",
        "interval_minutes": 60,
    }


def test_what_the_rows_have_besides_is_nobodys_business() -> None:
    row = TREE.with_part(("schedules", "by hand"), {"enabled": True})
    assert not any(each.changes_row for each in merge(TREE, TREE, row))
    assert edited(TREE, row) == []


def test_a_part_that_somebody_deleted_is_edited_and_made_again_unless_that_is_kept() -> None:
    part = ("subscriptions", "paid")
    row = TREE.with_part(part, None)
    assert edited(TREE, row) == [part]
    assert options_at({each.path: each.chosen for each in merge(TREE, TREE, row)}, part) == {
        "context": {},
        "tags": {},
        "enabled": True,
    }
    assert edited(TREE, row, kept={part}) == []
    kept = {each.why for each in merge(TREE, TREE, row, kept={part}) if each.path[:2] == part}
    assert kept == {Why.KEPT}


def test_a_part_that_the_code_does_not_say_any_more_is_removed() -> None:
    code = TREE.with_part(("schedules", "default"), None)
    assert removed(TREE, code) == [("schedules", "default")]
    assert removed(None, code) == []
    assert not any(each.path[0] == "schedules" for each in merge(TREE, code, TREE))


def test_what_operators_own_has_not_been_edited() -> None:
    off = {"cron": "0 9 * * *", "interval_minutes": None, "enabled": False}
    row = TREE.with_part(("schedules", "default"), off)
    assert edited(TREE, row) == []
    assert edited(TREE, row, owned=()) == [("schedules", "default", "enabled")]


def test_a_description_is_json_and_comes_back_from_it() -> None:
    assert TreeDescription.from_dict(TREE.to_dict()) == TREE
    unknown = {**TREE.to_dict(), "of a later release": 1}
    assert TreeDescription.from_dict(unknown) == TREE
    assert TreeDescription.from_dict({}).content == OF_TREE


def test_a_true_is_no_one_and_a_whole_float_is_the_number() -> None:
    assert not same(True, 1)
    assert same(1e16, 10**16)
    assert same((1, 2), [1, 2])
    assert not same(None, ABSENT)


def test_differences_of_processes_are_named_one_by_one() -> None:
    before = [{"name": "a", "func": "m:a", "timeout": 5}, {"name": "b", "func": "m:b"}]
    after = [{"name": "a", "func": "n:a", "retries": 1}, {"name": "c", "func": "m:c"}]
    assert differences(("processes",), before, after) == [
        ("func of process 'a'", "m:a", "n:a"),
        ("timeout of process 'a'", 5, ABSENT),
        ("retries of process 'a'", ABSENT, 1),
        ("process 'b'", {"name": "b", "func": "m:b"}, ABSENT),
        ("process 'c'", ABSENT, {"name": "c", "func": "m:c"}),
    ]
    turned = differences(("processes",), before, before[::-1])
    assert turned == [("order of the processes", ["a", "b"], ["b", "a"])]
    assert differences(("processes",), "broken", before) == [("processes", "broken", before)]


def test_places_are_called_what_people_call_them() -> None:
    assert place_in_words(("schedules", "default", "context")) == "context of its schedule"
    assert place_in_words(("schedules", "north")) == "its schedule 'north'"
    assert place_in_words(("triggers", "t", "configuration")) == "configuration of the trigger 't'"
    assert place_in_words(("subscriptions", "t")) == "its subscription to 't'"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
PARTS = st.dictionaries(
    st.sampled_from(["default", "x"]),
    st.fixed_dictionaries({"enabled": st.booleans(), "context": JSON}),
)


@st.composite
def trees(draw: Any) -> TreeDescription:
    content = {**OF_TREE, "description": draw(st.sampled_from("abc")), "processes": draw(JSON)}
    return TreeDescription("t", content, schedules=draw(PARTS), subscriptions=draw(PARTS))


@given(st.none() | trees(), trees(), trees())
def test_a_second_sync_changes_nothing(
    base: TreeDescription | None, code: TreeDescription, row: TreeDescription
) -> None:
    """Merged rows, with what the code says as the new base, are as they should be."""
    chosen = {each.path: each.chosen for each in merge(base, code, row)}
    synced = replace(row, content={path[0]: v for path, v in chosen.items() if len(path) == 1})
    for part in code.parts:
        synced = synced.with_part(part, options_at(chosen, part))
    assert not any(each.changes_row for each in merge(code, code, synced))
    assert edited(code, synced) == []


@pytest.mark.parametrize("odd", [5, [1], {"default": 5}, None])
def test_parts_that_only_sql_can_have_written_are_left_out(odd: Any) -> None:
    assert TreeDescription.from_dict({"name": "t", "schedules": odd}).parts == []
