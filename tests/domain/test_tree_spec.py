"""What a saved tree says: every problem at once, and a round trip through JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.names import MAX_NAME_LENGTH, dagster_name
from proctree_dagster.domain.tree_spec import (
    MAX_RETRIES,
    MAX_SECONDS,
    RESPONSE_TYPES,
    ProcessSpec,
    TreeSpec,
    parse,
    problems,
    revision,
    without_defaults,
)
from proctree_dagster.exceptions import InvalidTree
from proctree_dagster.process import response_variables


def process(name: Any = "one", func: Any = "tests.app.processes:one", **options: Any) -> Any:
    return {"name": name, "func": func, **options}


def tree(*processes: Any, **values: Any) -> dict[str, Any]:
    return {"name": "a tree", "processes": list(processes), **values}


def test_a_tree_is_parsed_with_its_defaults() -> None:
    assert parse(tree(process())) == TreeSpec(
        name="a tree",
        description="",
        cache_enabled=True,
        processes=(ProcessSpec("one", "tests.app.processes:one"),),
    )


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        tree(
            process("", None, retries=-1),
            process("b", dependencies=["b", "nowhere"]),
            process("c", dependencies=["d"], timeout=0, colour="red"),
            process("d", dependencies=["c"]),
            process("d"),
            "not a process",
            name="",
            description=5,
            cache_enabled="yes",
            reuse_worker="yes",
        )
    )
    assert found == [
        "The tree must have a name that is not empty, not ''.",
        "The tree's description must be a string.",
        "The tree's cache_enabled must be true or false.",
        "The tree's reuse_worker must be true or false.",
        "Process 1 must have a name that is not empty, not ''.",
        "Process '' has no function.",
        f"Process '': retries must be from 0 to {MAX_RETRIES}, not -1.",
        f"Process 'c': timeout must be seconds above 0, at most {MAX_SECONDS}, not 0.",
        "Process 'c' has an unknown option 'colour'; known: dependencies, cache_key, cache_ttl, "
        "shared_cache_key, validation, required, metadata, response_vars, outdated_check, "
        "trigger, retries, retry_delay, retry_backoff, retry_jitter, timeout, pool.",
        "Process 6 must be an object with a name and a func.",
        "2 processes have the name 'd'; a name may be used once.",
        "Process 'b' depends on 'nowhere', which is not in the tree.",
        "The dependencies go round in a circle: 'b' → 'b'.",
        "The dependencies go round in a circle: 'c' → 'd' → 'c'.",
    ]
    with pytest.raises(InvalidTree) as raised:
        parse(tree(process("", None)))
    assert raised.value.problems == problems(tree(process("", None)))
    assert all(problem in str(raised.value) for problem in raised.value.problems)


@pytest.mark.parametrize("name", [None, "", "  ", 5, [], "a" * (MAX_NAME_LENGTH + 1), "a\x00b"])
def test_the_name_of_a_tree_and_of_a_process_is_a_text_that_its_column_holds(name: Any) -> None:
    assert len(problems(tree(process(), name=name))) == 1
    assert problems(tree(process(name)))


@pytest.mark.parametrize("name", ["a" * MAX_NAME_LENGTH, "with 'quotes'", "名前", " a "])
def test_a_name_may_hold_anything_else(name: str) -> None:
    assert problems(tree(process(name), name=name)) == []


@pytest.mark.parametrize("processes", [None, "one", {"one": 1}, 5])
def test_processes_that_are_no_list_are_refused(processes: Any) -> None:
    assert problems({"name": "a", "processes": processes}) == [
        "The tree's processes must be a list."
    ]


def test_a_tree_without_processes_is_refused() -> None:
    assert problems(tree()) == ["The tree has no processes; add at least one."]


@pytest.mark.parametrize("func", [None, "", " ", 5, ["a:b"]])
def test_a_process_without_a_function_is_refused(func: Any) -> None:
    assert problems(tree(process(func=func))) == ["Process 'one' has no function."]


# --- Options --------------------------------------------------------------------------------------

JSON_VALUE = {"a": [1, 2.5, None, True, {"b": "c"}]}

GOOD: list[tuple[str, Any]] = [
    ("cache_key", None),
    ("cache_key", "sync-{tenant}"),
    ("cache_ttl", None),
    ("cache_ttl", 1),
    ("cache_ttl", MAX_SECONDS),
    ("validation", []),
    ("validation", ["a:b", "key"]),
    ("required", False),
    ("metadata", JSON_VALUE),
    ("response_vars", {}),
    ("response_vars", {"total": {}}),
    *[("response_vars", {"x": {"type": each}}) for each in RESPONSE_TYPES],
    ("response_vars", {"x": {"type": "int", "default": 5, "key": "data.x"}}),
    ("response_vars", {"x": {"key": None}}),
    ("outdated_check", "a:b"),
    ("trigger", "books closed"),
    ("retries", 0),
    ("retries", MAX_RETRIES),
    ("retry_delay", 0),
    ("retry_delay", 0.5),
    ("retry_delay", MAX_SECONDS),
    ("timeout", None),
    ("timeout", 0.1),
    ("timeout", MAX_SECONDS),
    ("pool", "xero"),
]

BAD: list[tuple[str, Any]] = [
    ("dependencies", None),
    ("dependencies", "two"),
    ("dependencies", [""]),
    ("dependencies", [5]),
    ("dependencies", [["two"]]),
    ("dependencies", ["two", "two"]),
    ("cache_key", ""),
    ("cache_key", 5),
    ("cache_ttl", 0),
    ("cache_ttl", -1),
    ("cache_ttl", 1.5),
    ("cache_ttl", "60"),
    ("cache_ttl", True),
    ("cache_ttl", MAX_SECONDS + 1),
    ("validation", "a:b"),
    ("validation", [""]),
    ("validation", None),
    ("required", None),
    ("required", 1),
    ("required", "no"),
    ("metadata", None),
    ("metadata", []),
    ("metadata", {1: "a"}),
    ("metadata", {"a": {1, 2}}),
    ("metadata", {"a": math.nan}),
    ("metadata", {"a": [math.inf]}),
    ("response_vars", None),
    ("response_vars", ["x"]),
    ("response_vars", {"x": "int"}),
    ("response_vars", {"x": {"type": "complex"}}),
    ("response_vars", {"x": {"type": ["int"]}}),
    ("response_vars", {"x": {"kind": "int"}}),
    ("response_vars", {"x": {"key": ""}}),
    ("outdated_check", ""),
    ("outdated_check", 5),
    ("trigger", ""),
    ("trigger", 5),
    ("retries", -1),
    ("retries", MAX_RETRIES + 1),
    ("retries", 1.0),
    ("retries", True),
    ("retries", None),
    ("retries", "3"),
    ("retry_delay", -0.1),
    ("retry_delay", MAX_SECONDS + 1),
    ("retry_delay", math.nan),
    ("retry_delay", math.inf),
    ("retry_delay", None),
    ("retry_delay", False),
    ("timeout", 0),
    ("timeout", -5),
    ("timeout", MAX_SECONDS + 1),
    ("timeout", math.inf),
    ("timeout", math.nan),
    ("timeout", True),
    ("timeout", "60"),
    ("pool", ""),
    ("pool", 5),
]


@pytest.mark.parametrize(("option", "value"), GOOD)
def test_an_option_in_its_range_is_taken(option: str, value: Any) -> None:
    [parsed] = parse(tree(process(**{option: value}))).processes
    expected = tuple(value) if isinstance(value, list) else value
    assert getattr(parsed, option) == expected


@pytest.mark.parametrize(("option", "value"), BAD)
def test_an_option_out_of_its_range_is_refused_by_name(option: str, value: Any) -> None:
    [problem, *rest] = problems(tree(process(**{option: value}), process("two")))
    assert rest == []
    assert problem.startswith(f"Process 'one': {option} must be ")
    assert problem.endswith(f", not {value!r}.")


@pytest.mark.parametrize("option", ["cache_ttl", "retries", "retry_delay", "timeout"])
def test_a_number_that_no_float_can_hold_is_out_of_range(option: str) -> None:
    [problem] = problems(tree(process(**{option: 10**400})))
    assert problem.startswith(f"Process 'one': {option} must be ")


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    [problem] = problems(tree(process(retires=3)))
    assert "'retires'" in problem
    assert "retries" in problem


def test_options_left_at_their_default_are_not_saved() -> None:
    assert ProcessSpec("one", "a:b").to_dict() == {"name": "one", "func": "a:b"}
    options = {"retries": 0, "required": True, "dependencies": (), "timeout": 5}
    assert without_defaults(options) == {"timeout": 5}


@pytest.mark.parametrize(("option", "value"), [("retries", False), ("required", 1)])
def test_a_value_that_only_equals_the_default_is_kept_and_so_reported(
    option: str, value: Any
) -> None:
    assert without_defaults({option: value}) == {option: value}


# --- Names and dependencies -----------------------------------------------------------------------


def test_a_name_may_be_used_once() -> None:
    found = problems(tree(process("a"), process("a"), process("b"), process("a")))
    assert found == ["3 processes have the name 'a'; a name may be used once."]


def test_two_processes_that_would_be_the_same_op_are_refused() -> None:
    taken = dagster_name("a b")
    [problem] = problems(tree(process("a b"), process(taken)))
    assert repr("a b") in problem
    assert repr(taken) in problem
    assert "rename one" in problem


def test_names_that_differ_in_case_only_are_two() -> None:
    assert problems(tree(process("sync"), process("Sync"))) == []


def test_each_unknown_dependency_is_named_with_its_process() -> None:
    found = problems(tree(process("a", dependencies=["y", "x"]), process("b", dependencies=["x"])))
    assert found == [
        "Process 'a' depends on 'x', which is not in the tree.",
        "Process 'a' depends on 'y', which is not in the tree.",
        "Process 'b' depends on 'x', which is not in the tree.",
    ]


def test_a_process_that_depends_on_itself_is_a_circle() -> None:
    assert problems(tree(process("a", dependencies=["a"]))) == [
        "The dependencies go round in a circle: 'a' → 'a'."
    ]


def test_a_circle_is_named_from_a_dependency_to_what_depends_on_it() -> None:
    [problem] = problems(
        tree(
            process("a", dependencies=["c"]),
            process("b", dependencies=["a"]),
            process("c", dependencies=["b"]),
            process("outside", dependencies=["a"]),
        )
    )
    path = problem.removeprefix("The dependencies go round in a circle: ").rstrip(".")
    names = [name.strip("'") for name in path.split(" → ")]
    assert names[0] == names[-1]
    assert set(names) == {"a", "b", "c"}
    assert "'a' → 'b' → 'c' → 'a'" in f"{path} → {path.partition(' → ')[2]}"


def test_every_circle_is_named() -> None:
    found = problems(
        tree(
            process("a", dependencies=["b"]),
            process("b", dependencies=["a"]),
            process("c", dependencies=["d", "a"]),
            process("d", dependencies=["c"]),
        )
    )
    assert len(found) == 2
    assert all("circle" in each for each in found)
    assert {name for name in "abcd" if any(repr(name) in each for each in found)} == set("abcd")


def test_processes_are_put_in_order_each_after_those_that_it_depends_on() -> None:
    spec = parse(
        tree(
            process("last", dependencies=["left", "right"]),
            process("left", dependencies=["first"]),
            process("right", dependencies=["first"]),
            process("first"),
        )
    )
    order = [each.name for each in spec.in_order()]
    assert order[0] == "first"
    assert order[-1] == "last"
    assert sorted(order) == ["first", "last", "left", "right"]


def test_a_chain_of_two_thousand_processes_works() -> None:
    names = [f"process {number}" for number in range(2000)]
    chain = [
        process(name, dependencies=[before] if before else [])
        for name, before in zip(names, ["", *names[:-1]], strict=True)
    ]
    spec = parse(tree(*reversed(chain)))
    assert [each.name for each in spec.in_order()] == names
    assert parse(spec.to_dict()) == spec
    chain[0]["dependencies"] = [names[-1]]
    [problem] = problems(tree(*chain))
    assert problem.count("→") == 2000


# --- JSON and back --------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=12).filter(lambda each: each.strip() and "\x00" not in each)
references = st.sampled_from(["a:b", "tests.app.processes:one", "key", "名前"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


def subsets(values: list[str]) -> st.SearchStrategy[list[str]]:
    if not values:
        return st.just([])
    return st.lists(st.sampled_from(values), max_size=3, unique=True)


@st.composite
def specs(draw: st.DrawFn) -> TreeSpec:
    chosen = draw(st.lists(names, min_size=1, max_size=6, unique_by=dagster_name))
    processes = []
    for position, name in enumerate(chosen):
        processes.append(
            ProcessSpec(
                name=name,
                func=draw(references),
                dependencies=tuple(draw(subsets(chosen[:position]))),
                cache_key=draw(st.none() | names),
                cache_ttl=draw(st.none() | st.integers(1, MAX_SECONDS)),
                validation=tuple(draw(st.lists(references, max_size=2))),
                required=draw(st.booleans()),
                metadata=draw(objects),
                response_vars={
                    each: {"type": draw(st.sampled_from(RESPONSE_TYPES))}
                    for each in draw(st.lists(names, max_size=2))
                },
                outdated_check=draw(st.none() | references),
                trigger=draw(st.none() | names),
                retries=draw(st.integers(0, MAX_RETRIES)),
                retry_delay=draw(st.integers(0, 60) | st.floats(0, MAX_SECONDS)),
                timeout=draw(
                    st.none() | st.floats(0, MAX_SECONDS, exclude_min=True) | st.integers(1, 60)
                ),
                pool=draw(st.none() | names),
            )
        )
    return TreeSpec(draw(names), draw(st.text(max_size=10)), draw(st.booleans()), tuple(processes))


@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_tree_comes_back_from_its_dictionary_and_from_json_as_it_was(spec: TreeSpec) -> None:
    assert parse(spec.to_dict()) == spec
    assert parse(json.loads(json.dumps(spec.to_dict()))) == spec
    order = [each.name for each in spec.in_order()]
    for each in spec.processes:
        assert all(order.index(other) < order.index(each.name) for other in each.dependencies)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["name", "description", "cache_enabled", "processes", "other"]),
        json_values
        | st.lists(
            st.dictionaries(
                st.sampled_from([*ProcessSpec.__dataclass_fields__, "other"]), json_values
            )
        ),
    )
)
def test_whatever_json_a_row_holds_is_parsed_or_refused_with_reasons(data: dict[str, Any]) -> None:
    found = problems(data)
    if found:
        with pytest.raises(InvalidTree):
            parse(data)
    else:
        assert parse(data).name == data["name"]


def test_an_invalid_tree_survives_pickling() -> None:
    import pickle

    error = InvalidTree("a tree", ["one", "two"])
    again = pickle.loads(pickle.dumps(error))
    assert (again.tree_name, again.problems, str(again)) == ("a tree", ["one", "two"], str(error))


# --- Revision -------------------------------------------------------------------------------------


def test_a_revision_says_when_the_tree_or_its_default_context_has_changed() -> None:
    before = revision(tree(process()), {})
    assert revision(tree(process()), {}) == before
    assert revision(tree(process(retries=1)), {}) != before
    assert revision(tree(process(), description="x"), {}) != before
    assert revision(tree(process()), {"tenant": 1}) != before
    assert len(before) == 12


def test_a_revision_does_not_depend_on_the_order_of_keys() -> None:
    one = {"name": "a", "processes": [{"name": "one", "func": "a:b"}]}
    other = {"processes": [{"func": "a:b", "name": "one"}], "name": "a"}
    assert revision(one, {"x": 1, "y": 2}) == revision(other, {"y": 2, "x": 1})


def test_every_type_of_a_response_variable_can_be_made() -> None:
    assert set(response_variables.TYPES) == set(RESPONSE_TYPES)
