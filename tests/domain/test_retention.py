"""The rules of ``PROCTREE["KEEP"]`` and ``keep_runs``: how they are written, and what they mean."""

import datetime as dt
from typing import Any

import pytest

from proctree_dagster.domain import retention
from proctree_dagster.domain.retention import KEEP_ALL, Bound, Keep, Rules


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90 days", Keep(age=dt.timedelta(days=90))),
        ("1 day", Keep(age=dt.timedelta(days=1))),
        (" 36 Hours ", Keep(age=dt.timedelta(hours=36))),
        ("30 minutes", Keep(age=dt.timedelta(minutes=30))),
        ("2 weeks", Keep(age=dt.timedelta(days=14))),
        ("6 months", Keep(age=dt.timedelta(days=180))),
        ("1 year", Keep(age=dt.timedelta(days=365))),
        ("100 years", Keep(age=dt.timedelta(days=36500))),
        (dt.timedelta(days=3), Keep(age=dt.timedelta(days=3))),
        ("last 500", Keep(last=500)),
        ("the last 500", Keep(last=500)),
        ("last 500 runs", Keep(last=500)),
        ("all", KEEP_ALL),
        (None, KEEP_ALL),
    ],
)
def test_a_rule_is_an_age_a_number_or_all(written: Any, meant: Keep) -> None:
    assert retention.parse(written) == meant
    assert retention.parse(str(meant)) == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", "90", "days", "-1 days", "0 days", "1.5 days", "ten days", "1 fortnight", "last"),
        *("last 0", "last -5", "last 99999999999", "101 years", "999999999 years", "90 days ago"),
        *(90, 1.5, True, [], {}, dt.timedelta(0), dt.timedelta(days=-1), dt.timedelta.max),
        "１ day",
    ],
)
def test_what_is_no_rule_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        retention.parse(written)
    assert "such as '90 days'" in retention.problem_of(written)


def test_each_problem_of_the_setting_names_the_key_and_what_it_may_be() -> None:
    found = list(
        retention.problems({"runs": "soon", "run": "1 day", "ticks": "last 5", "events": "last 5"})
    )
    assert len(found) == 3
    assert found[0].startswith("['runs'] must be an age such as '90 days'")
    assert "'last 500'" in found[0]
    assert "no key 'run'. Known keys: runs, failed_runs, events" in found[1]
    assert found[2].startswith("['ticks'] must be an age")
    assert "'last 500'" not in found[2], "only what belongs to runs is counted"
    assert list(retention.problems(["runs"])) != []


def test_nothing_but_the_outbox_is_removed_unless_the_setting_says_so() -> None:
    assert list(Rules().removing()) == ["outbox"]
    assert Rules().of_failed(None) == (KEEP_ALL,)


def test_failed_runs_follow_their_own_rule_and_else_that_of_runs() -> None:
    month, year = Keep(age=dt.timedelta(days=30)), Keep(age=dt.timedelta(days=365))
    assert Rules(runs=month).of_failed(None) == (month,)
    assert Rules(runs=month, failed_runs=year).of_failed(None) == (year,)
    assert Rules(runs=year, failed_runs=month).of_failed(None) == (month,)


def test_a_trees_own_rule_replaces_that_of_runs_and_shortens_none_of_failures() -> None:
    month, year, last = Keep(age=dt.timedelta(30)), Keep(age=dt.timedelta(365)), Keep(last=5)
    rules = Rules(runs=month, failed_runs=year)
    assert rules.of_tree(last) == (last,)
    assert rules.of_failed(last) == (last, year), "a failure that either keeps stays"
    assert Rules(runs=month).of_failed(last) == (last,)


@pytest.mark.parametrize("written", ["soon", 5, None, "x" * 300])
def test_a_trees_rule_that_sql_has_broken_removes_nothing(written: Any) -> None:
    assert next(iter(retention.tree_problems(written))).startswith("The tree's keep_runs must be")
    assert retention.own_rule(written) == KEEP_ALL


def test_a_tree_without_a_rule_has_none() -> None:
    assert retention.own_rule("") is None
    assert list(retention.tree_problems("")) == []
    assert retention.tree_option("") == {}


def test_a_bound_lets_go_what_ended_by_then_or_is_older_than_the_last_ones() -> None:
    assert Bound(ended_by=100.0).is_passed(1, 100.0)
    assert not Bound(ended_by=100.0).is_passed(1, 100.1)
    assert Bound(older_than=7).is_passed(6, 0.0)
    assert not Bound(older_than=7).is_passed(7, 0.0)
    assert not Bound().is_passed(1, 0.0), "everything is kept"
