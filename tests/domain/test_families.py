"""Which runs belong together; pure."""

import itertools
import uuid
from typing import cast

import pytest

from proctree_dagster.domain import families
from proctree_dagster.domain.families import Kind, Link

A, B, C, D, S = range(1, 6)


def links(*several: tuple[int, int, str]) -> list[Link]:
    return [Link(source, target, cast(Kind, kind)) for source, target, kind in several]


def waits(family: families.Family) -> dict[int, set[int]]:
    """Return what each member waits for, in the family's order."""
    return {member.tree: set(member.after) for member in family.members}


DIAMOND = links((A, B, "dependent"), (A, C, "dependent"), (B, D, "dependent"), (C, D, "dependent"))


def test_a_tree_without_links_is_a_family_of_its_own() -> None:
    assert waits(families.plan(A, [])) == {A: set()}


def test_of_a_diamond_each_tree_runs_once_after_all_before_it() -> None:
    family = families.plan(A, DIAMOND)
    assert waits(family) == {A: set(), B: {A}, C: {A}, D: {B, C}}
    assert [member.tree for member in family.members][::3] == [A, D]
    assert {member.tree: set(member.follows) for member in family.members}[D] == {B, C}


def test_a_sibling_at_the_top_waits_for_nothing() -> None:
    family = families.plan(A, links((A, S, "sibling")))
    assert waits(family) == {A: set(), S: set()}


def test_a_sibling_waits_for_what_the_tree_beside_it_waits_for() -> None:
    family = families.plan(A, [*DIAMOND, *links((D, S, "sibling"))])
    assert waits(family)[S] == {B, C}
    assert {member.tree: member.follows for member in family.members}[S] == (D,)


def test_a_sibling_of_a_sibling_runs_at_the_same_time() -> None:
    family = families.plan(A, links((A, B, "sibling"), (B, C, "sibling"), (C, D, "dependent")))
    assert waits(family) == {A: set(), B: set(), C: set(), D: {C}}


def test_a_tree_that_is_a_sibling_of_one_and_depends_on_another_waits() -> None:
    family = families.plan(A, links((A, S, "sibling"), (A, B, "dependent"), (B, S, "dependent")))
    assert waits(family) == {A: set(), B: {A}, S: {B}}


def test_only_what_can_be_reached_from_the_first_counts() -> None:
    # D also follows C, which does not run.
    family = families.plan(B, DIAMOND)
    assert waits(family) == {B: set(), D: {B}}


def test_a_link_back_to_a_tree_that_comes_before_is_left_out() -> None:
    back = links((D, A, "dependent"))
    family = families.plan(A, [*DIAMOND, *back])
    assert waits(family) == waits(families.plan(A, DIAMOND))
    assert list(family.ignored) == back


def test_each_member_comes_after_those_it_waits_for() -> None:
    chain = [(each, each + 1, "dependent") for each in range(1, 3000)]
    family = families.plan(1, links(*chain[::-1], (1, 3000, "dependent")))
    assert [member.tree for member in family.members] == list(range(1, 3001))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (DIAMOND, None),
        (links((A, A, "sibling")), {A}),
        (links((A, B, "sibling"), (B, A, "dependent")), {A, B}),
        ([*DIAMOND, *links((D, A, "sibling"))], {A, B, D}),
    ],
)
def test_a_circle_is_found_whatever_the_kinds_of_its_links(
    given: list[Link], found: set[int] | None
) -> None:
    circle = families.circle(given)
    assert (circle and len(set(circle))) == (found and len(found))
    if circle:
        assert circle[0] == circle[-1]
        ends = {(link.source, link.target) for link in given}
        assert set(itertools.pairwise(circle)) <= ends


def test_a_run_id_follows_from_the_first_run_and_the_tree() -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    assert families.run_id(one, A) == families.run_id(one, A)
    assert len({families.run_id(run, tree) for run in (one, other) for tree in (A, B)}) == 4
