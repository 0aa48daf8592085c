"""Links between trees in the database, and the plans of families."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..domain import families
from ..domain import run_tags as tags
from ..exceptions import InvalidTree
from ..models import LinkKind, ProcessTree, TreeLink
from ..support.connections import writing
from . import revisions


@dataclass(frozen=True)
class PlannedRun:
    """A run of a family that is to be created."""

    tree: ProcessTree
    run_id: str
    after: tuple[str, ...]
    """Ids of the runs that must have succeeded first."""

    tags: dict[str, str]


@dataclass(frozen=True)
class FamilyPlan:
    """The runs that follow a first one, each after those that it waits for."""

    first_tags: dict[str, str]
    """The tags of the first run; none if nothing follows it."""

    runs: list[PlannedRun]
    problems: list[str]
    """Links that were left out, and why."""


def plan_family(tree: ProcessTree, first_run_id: str, family: str | None = None) -> FamilyPlan:
    """Return the runs that follow a run, by the present links.

    Parameters
    ----------
    tree:
        The tree that runs first.
    first_run_id:
        The id of its run.
    family:
        The id from which the other runs' ids are derived; the first run's if left out.
    """
    family = family or first_run_id
    found = TreeLink.objects.reachable_from([tree.pk])
    # Names only: the rest of a tree is read when it runs, and may be broken.
    named = ProcessTree.objects.only("name", "job_name")
    trees = {**named.in_bulk({link.target for link in found}), tree.pk: tree}
    # A tree that was deleted between the two queries has no followers.
    links = [link for link in found if link.source in trees and link.target in trees]
    planned = families.plan(tree.pk, links)
    members = planned.members[1:]
    ids = {member.tree: families.run_id(family, member.tree) for member in planned.members}
    ids[tree.pk] = first_run_id
    followed_by: dict[int, list[str]] = {}
    for member in members:
        for source in member.follows:
            followed_by.setdefault(source, []).append(ids[member.tree])

    def links_of(member: families.Member) -> dict[str, str]:
        values = {
            tags.FAMILY: [family],
            tags.FOLLOWS: [ids[source] for source in member.follows],
            tags.FOLLOWED_BY: followed_by.get(member.tree, []),
        }
        return {key: tags.join(several) for key, several in values.items() if several}

    return FamilyPlan(
        first_tags=links_of(planned.members[0]) if members else {},
        runs=[
            PlannedRun(
                trees[member.tree],
                ids[member.tree],
                tuple(sorted(ids[before] for before in member.after)),
                {tags.TRIGGERED_BY: "tree", **links_of(member)},
            )
            for member in members
        ],
        problems=[_ignored(trees[link.source], trees[link.target]) for link in planned.ignored],
    )


def _ignored(source: ProcessTree, target: ProcessTree) -> str:
    return (
        f"{target.name!r} does not run again after {source.name!r}: the trees follow one another "
        "in a circle. Delete one of the links in the admin."
    )


def problems(name: str, row: ProcessTree | None, followers: Iterable[str]) -> list[str]:
    """Return a sentence for each problem of a tree's followers.

    Parameters
    ----------
    name:
        The tree's name.
    row:
        The tree, if it is saved.
    followers:
        Names of the trees that are to follow it.
    """
    wanted = set(followers)
    rows = ProcessTree.objects.filter(name__in=wanted)
    found = {each.name: each.pk for each in rows}
    result = [_unknown(each, name) for each in sorted(wanted - found.keys() - {name})]
    result += [problem for each in rows if (problem := each.unattended_problem()) is not None]
    if row is None:
        return [*result, *(["A tree can't follow itself."] if name in wanted else [])]
    for each in sorted(found):
        circle = TreeLink.objects.circle_made_by([TreeLink(source=row, target_id=found[each])])
        result += [circle] if circle is not None else []
    return result


def _unknown(follower: str, name: str) -> str:
    return f"There is no process tree called {follower!r} to follow {name!r}; save it first."


def set_links(row: ProcessTree, dependents: Iterable[str], siblings: Iterable[str]) -> None:
    """Make these trees, by name, the followers of a tree, and no others.

    Raises
    ------
    InvalidTree
        They would follow one another in a circle, or one was deleted meanwhile.
    """
    wanted = {
        **dict.fromkeys(dependents, LinkKind.DEPENDENT),
        **dict.fromkeys(siblings, LinkKind.SIBLING),
    }
    with writing(TreeLink) as alias, revisions.together():
        links = TreeLink.objects.using(alias)
        if wanted or links.filter(source=row).exists():
            links.lock()  # before the query: another process may set the same links
        present = {link.target.name: link for link in links.filter(source=row)}
        gone = [link.pk for name, link in present.items() if wanted.get(name) != link.kind]
        links.filter(pk__in=gone).delete()
        new = [name for name in wanted if name not in present or present[name].pk in gone]
        if gone or new:  # neither sends a signal
            revisions.note(row.pk, alias)
        if new:
            found = ProcessTree.objects.using(alias).filter(name__in=new)
            trees = {tree.name: tree for tree in found}
            if missing := [name for name in new if name not in trees]:
                raise InvalidTree(row.name, [_unknown(name, row.name) for name in missing])
            links.bulk_create(
                [TreeLink(source=row, target=trees[name], kind=wanted[name]) for name in new]
            )
    getattr(row, "_prefetched_objects_cache", {}).pop("links_out", None)  # they have changed
