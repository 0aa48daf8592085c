"""What a tree or a process is called in Dagster."""

import keyword
import re
import subprocess
import sys

import pytest
from dagster._core.definitions.utils import DISALLOWED_NAMES, check_valid_name
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.names import MAX_NAME_LENGTH, dagster_name, short_hash

ACCEPTED = re.compile(r"[A-Za-z0-9_]+")
texts = st.text(max_size=MAX_NAME_LENGTH)
valid = st.from_regex(r"[A-Za-z0-9_]{1,40}", fullmatch=True).filter(
    lambda name: name not in DISALLOWED_NAMES and not name.startswith("__ASSET_JOB")
)


@pytest.mark.parametrize("name", ["sync", "Sync_2", "_private", "0", "9_lives", "a" * 200, "match"])
def test_a_name_that_dagster_takes_is_used_as_it_is(name: str) -> None:
    assert dagster_name(name) == name


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("monthly close", "monthly_close"),
        ("a-b", "a_b"),
        ("a.b/c", "a_b_c"),
        ("  spaced  ", "spaced"),
        ("Übersicht", "bersicht"),
        ("名前", "unnamed"),
        ("…", "unnamed"),
        ("", "unnamed"),
        ("O'Brien's \"tree\"", "O_Brien_s_tree"),
        ("line\nbreak", "line_break"),
        ("trailing newline\n", "trailing_newline"),
        ("config", "config"),
        ("class", "class"),
        ("None", "None"),
        ("__ASSET_JOB_1", "ASSET_JOB_1"),
    ],
)
def test_any_other_name_is_sanitised_and_gets_a_short_hash_of_itself(
    name: str, readable: str
) -> None:
    assert dagster_name(name) == f"{readable}_{short_hash(name)}"
    assert re.fullmatch(r".+_[0-9a-f]{8}", dagster_name(name))


@pytest.mark.parametrize("name", sorted({*DISALLOWED_NAMES, *keyword.kwlist}))
def test_a_word_that_dagster_keeps_for_itself_is_not_used(name: str) -> None:
    assert dagster_name(name) != name
    check_valid_name(dagster_name(name))


def test_names_that_differ_only_in_what_dagster_refuses_stay_apart() -> None:
    alike = ["a b", "a-b", "a.b", "a  b", " a b", "a b ", "a_b", "á b"]
    assert len({dagster_name(name) for name in alike}) == len(alike)


@given(valid)
def test_a_valid_name_is_never_changed(name: str) -> None:
    assert dagster_name(name) == name


@given(texts)
def test_dagster_takes_whatever_comes_out(name: str) -> None:
    result = dagster_name(name)
    assert check_valid_name(result) == result
    assert ACCEPTED.fullmatch(result)  # stricter: Dagster's own check lets a last newline pass
    assert not result.startswith("__ASSET_JOB")
    assert len(result) <= MAX_NAME_LENGTH + 20  # its column's length


@given(texts)
def test_a_name_that_came_out_is_valid_and_so_stays_as_it_is(name: str) -> None:
    assert dagster_name(dagster_name(name)) == dagster_name(name)


@given(st.lists(texts, max_size=10, unique=True))
def test_distinct_names_stay_distinct_and_do_not_depend_on_their_neighbours(
    names: list[str],
) -> None:
    # A name that is somebody else's sanitised one is the tree's to report: see test_spec.
    assume(not any(name != dagster_name(name) and dagster_name(name) in names for name in names))
    results = [dagster_name(name) for name in names]
    assert len(set(results)) == len(names)
    assert [dagster_name(name) for name in reversed(names)] == results[::-1]


@settings(max_examples=200)
@given(
    st.text(alphabet="ab -._'\u00e9", min_size=1, max_size=6),
    st.text(alphabet="ab -._'\u00e9", min_size=1, max_size=6),
)
def test_names_that_look_alike_stay_distinct(one: str, other: str) -> None:
    assume(one != other)
    assert dagster_name(one) != dagster_name(other)


def test_a_name_is_the_same_in_every_process() -> None:
    names = ["monthly close", "名前", "class", "\ud800"]
    code = (
        "from proctree_dagster.domain.names import dagster_name; "
        f"print(*map(dagster_name, {names!r}))"
    )
    for seed in ("0", "1"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.split() == [dagster_name(name) for name in names]
