"""Which runs belong together: a tree's run, and those of the trees that are linked to it. Pure.

A *dependent* tree runs after the one that it is linked to has succeeded, a *sibling* beside it: it
waits for what that one waits for. A tree that is reached in several ways runs once.
"""

import graphlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["dependent", "sibling"]
"""How the target of a link follows its source."""


@dataclass(frozen=True)
class Link:
    """One tree follows another; trees by their primary keys."""

    source: int
    target: int
    kind: Kind


@dataclass(frozen=True)
class Member:
    """A tree of a family."""

    tree: int
    after: frozenset[int] = frozenset()
    """The trees that must have succeeded first."""

    follows: tuple[int, ...] = ()
    """The trees that it is linked from."""


@dataclass(frozen=True)
class Family:
    """The trees that run because one does."""

    members: tuple[Member, ...]
    """In topological order: each after the trees that it is linked from; the first is the root."""

    ignored: tuple[Link, ...] = ()
    """Links that close a circle; only SQL can write such a link."""


def plan(first: int, links: Iterable[Link]) -> Family:
    """Return the family that begins with a tree.

    Parameters
    ----------
    first:
        The tree.
    links:
        All links that can be reached from it, or more.
    """
    order, ignored = _order(first, list(links))
    after: dict[int, frozenset[int]] = {}
    members = []
    for tree, incoming in order.items():
        after[tree] = frozenset().union(
            *(
                {each.source} if each.kind == "dependent" else after[each.source]
                for each in incoming
            )
        )
        follows = tuple(each.source for each in incoming)
        members.append(Member(tree, after[tree], follows))
    return Family(tuple(members), tuple(ignored))


def _order(first: int, links: list[Link]) -> tuple[dict[int, list[Link]], list[Link]]:
    """Return the trees in order, each with the links to it, and the links that close a circle."""
    outgoing: dict[int, list[Link]] = {}
    for link in links:
        outgoing.setdefault(link.source, []).append(link)
    finished: list[int] = []
    incoming: dict[int, list[Link]] = {first: []}
    ignored: list[Link] = []
    path = {first}
    stack: list[tuple[int, Iterator[Link]]] = [(first, iter(outgoing.get(first, ())))]
    while stack:  # depth first, without recursion: a chain may be long
        tree, rest = stack[-1]
        for link in rest:
            if link.target in path:
                ignored.append(link)
                continue
            is_new = link.target not in incoming
            incoming.setdefault(link.target, []).append(link)
            if is_new:
                path.add(link.target)
                stack.append((link.target, iter(outgoing.get(link.target, ()))))
                break
        else:
            stack.pop()
            path.remove(tree)
            finished.append(tree)
    return {tree: incoming[tree] for tree in reversed(finished)}, ignored


def circle(links: Iterable[Link]) -> list[int] | None:
    """Return the trees of a circle, the first one again at the end; ``None`` if there is none."""
    graph: dict[int, set[int]] = {}
    for link in links:
        graph.setdefault(link.target, set()).add(link.source)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        trees: list[int] = error.args[1]
        return trees
    return None


def run_id(family: str, tree: int) -> str:
    """Return the id of a tree's run in a family: always the same, however often it is planned.

    Parameters
    ----------
    family:
        Id of the family's first run, a UUID.
    tree:
        Primary key of the tree.
    """
    return str(uuid.uuid5(uuid.UUID(family), str(tree)))
