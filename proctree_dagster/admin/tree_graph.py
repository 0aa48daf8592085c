"""A tree's graph as SVG: what a template needs to draw it."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..domain import graph_layout
from ..domain.graph_layout import BOX_HEIGHT, BOX_WIDTH, Point

COLUMNS = 23
"""How many columns of a name fit in a box; a wide character takes two."""


@dataclass(frozen=True)
class Node:
    """A process in the graph."""

    name: str
    label: str
    """Its name, as much of it as fits."""

    note: str
    """Its outcome in the last run, in words; blank if there is none."""

    status: str
    """That outcome, as a class of the style sheet."""

    anchor: str
    """The id of the process's row."""

    x: str
    y: str


@dataclass(frozen=True)
class Graph:
    """The graph; numbers are texts, as a template would write them in the reader's language."""

    nodes: tuple[Node, ...]
    paths: tuple[str, ...]
    width: str
    height: str
    box_width: str = f"{BOX_WIDTH:g}"
    box_height: str = f"{BOX_HEIGHT:g}"
    inner_width: str = f"{BOX_WIDTH - 2:g}"
    inner_height: str = f"{BOX_HEIGHT - 2:g}"


@dataclass(frozen=True)
class Drawn:
    """What is known of a process that is drawn."""

    anchor: str
    dependencies: tuple[str, ...] = ()
    status: str = ""
    note: str = ""


def graph(processes: Mapping[str, Drawn]) -> Graph | None:
    """Return the graph of a tree's processes; ``None`` if it is too large, or they are none."""
    drawing = graph_layout.draw({name: each.dependencies for name, each in processes.items()})
    if drawing is None or not drawing.boxes:
        return None
    return Graph(
        nodes=tuple(_node(box, processes[box.name]) for box in drawing.boxes),
        paths=tuple(_path(arrow.points) for arrow in drawing.arrows),
        width=f"{drawing.width:g}",
        height=f"{drawing.height:g}",
    )


def _node(box: graph_layout.Box, process: Drawn) -> Node:
    return Node(
        name=box.name,
        label=clipped(box.name, COLUMNS),
        note=process.note,
        status=process.status,
        anchor=process.anchor,
        x=f"{box.x:g}",
        y=f"{box.y:g}",
    )


def _path(points: Iterable[Point]) -> str:
    """Return an arrow as the data of an SVG path: a smooth line through its points."""
    first, *others = points
    commands = [f"M{first[0]:g} {first[1]:g}"]
    (x, y) = first
    for to_x, to_y in others:
        middle = (y + to_y) / 2
        commands.append(f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}")
        x, y = to_x, to_y
    return " ".join(commands)


def clipped(text: str, columns: int) -> str:
    """Return a text on one line, cut to a number of columns; ``…`` stands for the rest.

    Control characters and those that change the direction of writing are left out.
    """
    plain = "".join(
        " " if each.isspace() else each
        for each in text
        if each.isspace() or unicodedata.category(each) not in ("Cc", "Cf", "Cs")
    )
    widths = [_columns(each) for each in plain]
    if sum(widths) <= columns:
        return plain
    room, kept = columns - 1, []
    for each, width in zip(plain, widths, strict=True):
        room -= width
        if room < 0:
            break
        kept.append(each)
    return f"{''.join(kept)}…"


def _columns(character: str) -> int:
    """Return how many columns a character takes: none if it combines with the one before it."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
