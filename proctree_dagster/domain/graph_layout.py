"""A layered drawing of a tree's graph: where each process and each arrow goes. Pure.

The steps are those of Sugiyama's method: layers by the longest path, an order within each layer by
the barycenter of the neighbours, then coordinates. An arrow that passes layers is led through a
waypoint in each, so it crosses no box. The result depends on the input alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

BOX_WIDTH = 192.0
BOX_HEIGHT = 44.0
GAP_BESIDE = 20.0
"""Least space between two boxes of a layer."""

GAP_BELOW = 44.0
"""Space between two layers."""

MARGIN = 4.0
SWEEPS = 8
"""How often the order within the layers is improved, from the top down and back."""

MOST_PLACES = 1000
"""How many boxes and waypoints are laid out; a graph with more is not drawn."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A process in the drawing."""

    name: str
    x: float
    """The left edge."""

    y: float
    """The top edge."""


@dataclass(frozen=True)
class Arrow:
    """An arrow from a dependency down to what depends on it."""

    source: str
    target: str
    points: tuple[Point, ...]
    """Where it passes, from the lower edge of one box to the upper edge of the other."""


@dataclass(frozen=True)
class Drawing:
    """A graph with coordinates; they begin at (0, 0) and grow to the right and down."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    width: float
    height: float


@dataclass(frozen=True, order=True)
class _Waypoint:
    """The place in a layer that an arrow passes on its way further down."""

    layer: int
    source: str
    target: str


_Place = str | _Waypoint


def draw(dependencies: Mapping[str, Iterable[str]]) -> Drawing | None:
    """Lay out a graph; return ``None`` if it has too many processes or arrows to be drawn.

    Parameters
    ----------
    dependencies:
        What each process depends on. Unknown names are left out, and so is the last dependency of
        each circle: such a tree is invalid, but its page shows it.
    """
    graph = _without_circles(dependencies)
    layer_of = _layers(graph)
    span = sum(layer_of[name] - layer_of[each] - 1 for name in graph for each in graph[name])
    if len(graph) + span > MOST_PLACES:
        return None
    paths = _paths(graph, layer_of)
    rows = _rows(graph, layer_of, paths)
    above, below = _neighbours(paths.values())
    _order(rows, above, below)
    centers = _centers(rows, above, below)
    return _drawing(graph, layer_of, paths, centers)


def _without_circles(dependencies: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the known dependencies of each process, each once, without those that close a circle.

    It walks the graph depth first, without recursion: a tree may have a thousand layers.
    """
    known: dict[str, list[str]] = {name: [] for name in dependencies}
    finished: set[str] = set()
    for start in dependencies:
        path: dict[str, Iterator[str]] = {}
        if start not in finished:
            path[start] = iter(dict.fromkeys(dependencies[start]))
        while path:
            name = next(reversed(path))
            for each in path[name]:
                if each not in known or each in path:
                    continue
                known[name].append(each)
                if each not in finished:
                    path[each] = iter(dict.fromkeys(dependencies[each]))
                    break
            else:
                finished.add(name)
                del path[name]
    return known


def _layers(graph: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return each process's layer: below all that it depends on, as high as possible."""
    layer_of: dict[str, int] = {}
    for start in graph:
        waiting = [start]
        while waiting:
            name = waiting[-1]
            missing = [each for each in graph[name] if each not in layer_of]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            layer_of[name] = max((layer_of[each] + 1 for each in graph[name]), default=0)
    return layer_of


def _paths(
    graph: Mapping[str, Sequence[str]], layer_of: Mapping[str, int]
) -> dict[tuple[str, str], list[_Place]]:
    """Return the places of each arrow, one a layer, from its source to its target."""
    return {
        (source, target): [
            source,
            *(
                _Waypoint(layer, source, target)
                for layer in range(layer_of[source] + 1, layer_of[target])
            ),
            target,
        ]
        for target, sources in graph.items()
        for source in sources
    }


def _rows(
    graph: Iterable[str],
    layer_of: Mapping[str, int],
    paths: Mapping[tuple[str, str], Sequence[_Place]],
) -> list[list[_Place]]:
    """Return the places of each layer: the boxes in the order of the tree, then the waypoints."""
    rows: list[list[_Place]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for name in graph:
        rows[layer_of[name]].append(name)
    for path in paths.values():
        for place in path[1:-1]:
            if isinstance(place, _Waypoint):
                rows[place.layer].append(place)
    return rows


_Neighbours = dict[_Place, list[_Place]]


def _neighbours(paths: Iterable[Sequence[_Place]]) -> tuple[_Neighbours, _Neighbours]:
    """Return the places directly above each place, and those directly below."""
    above: _Neighbours = {}
    below: _Neighbours = {}
    for path in paths:
        for upper, lower in pairwise(path):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _order(rows: list[list[_Place]], above: _Neighbours, below: _Neighbours) -> None:
    """Order each layer by the mean position of the neighbours; keep the order with least crossings.

    Sorting is stable, so places without a preference stay where they are.
    """
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        downward = sweep % 2 == 0
        in_turn = rows if downward else rows[::-1]
        for fixed, row in pairwise(in_turn):
            _sort_by_mean(row, above if downward else below, fixed)
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _sort_by_mean(row: list[_Place], neighbours: _Neighbours, fixed: Sequence[_Place]) -> None:
    position = {place: number for number, place in enumerate(fixed)}
    means = {}
    for number, place in enumerate(row):
        near = [position[each] for each in neighbours.get(place, ())]
        means[place] = sum(near) / len(near) if near else float(number)
    row.sort(key=means.__getitem__)


def _crossings(rows: Sequence[Sequence[_Place]], below: _Neighbours) -> int:
    """Return how many pairs of arrows cross."""
    return sum(
        _inversions(
            [
                number
                for place in upper
                for number in sorted(position[each] for each in below.get(place, ()))
            ]
        )
        for upper, lower in pairwise(rows)
        for position in [{place: number for number, place in enumerate(lower)}]
    )


def _inversions(numbers: list[int]) -> int:
    """Return how many pairs are in the wrong order; counted as they are merged into order."""
    if len(numbers) < 2:
        return 0
    middle = len(numbers) // 2
    left, right = numbers[:middle], numbers[middle:]
    found = _inversions(left) + _inversions(right)
    merged = 0
    for number, each in enumerate(left):
        while merged < len(right) and right[merged] < each:
            numbers[number + merged] = right[merged]
            merged += 1
        numbers[number + merged] = each
        found += merged
    numbers[len(left) + merged :] = right[merged:]
    return found


def _centers(
    rows: Sequence[Sequence[_Place]], above: _Neighbours, below: _Neighbours
) -> dict[_Place, float]:
    """Return where the middle of each place is, as near to its neighbours' as the order allows."""
    centers: dict[_Place, float] = {}
    for row in rows:
        wanted = [_mean(centers, above.get(place, ()), 0.0) for place in row]
        centers.update(zip(row, _apart(wanted, _distances(row)), strict=True))
    for row in reversed(rows):
        wanted = [
            _mean(centers, [*above.get(place, ()), *below.get(place, ())], centers[place])
            for place in row
        ]
        centers.update(zip(row, _apart(wanted, _distances(row)), strict=True))
    left = min((center - _width(place) / 2 for place, center in centers.items()), default=0.0)
    return {place: center - left + MARGIN for place, center in centers.items()}


def _mean(centers: Mapping[_Place, float], places: Iterable[_Place], otherwise: float) -> float:
    found = [centers[place] for place in places]
    return sum(found) / len(found) if found else otherwise


def _width(place: _Place) -> float:
    return BOX_WIDTH if isinstance(place, str) else 0.0


def _distances(row: Sequence[_Place]) -> list[float]:
    """Return the least distance between the middles of places beside each other."""
    return [(_width(left) + _width(right)) / 2 + GAP_BESIDE for left, right in pairwise(row)]


def _apart(wanted: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Return the positions nearest to those wanted, in order, and far enough from each other.

    Nearest by the sum of squares: what is too close together moves as one block to its mean (the
    pool-adjacent-violators algorithm).
    """
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    blocks: list[tuple[float, int]] = []  # the sum of a block's wanted positions, and its length
    for want, offset in zip(wanted, offsets, strict=False):
        total, count = want - offset, 1
        while blocks and blocks[-1][0] * count >= total * blocks[-1][1]:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    starts = [total / count for total, count in blocks for _ in range(count)]
    return [start + offset for start, offset in zip(starts, offsets, strict=False)]


def _drawing(
    graph: Iterable[str],
    layer_of: Mapping[str, int],
    paths: Mapping[tuple[str, str], Sequence[_Place]],
    centers: Mapping[_Place, float],
) -> Drawing:
    step = BOX_HEIGHT + GAP_BELOW

    def points(path: Sequence[_Place]) -> Iterator[Point]:
        first = layer_of[str(path[0])]
        for number, place in enumerate(path):
            top = MARGIN + (first + number) * step
            x = round(centers[place], 1)
            if number:
                yield x, top
            if number < len(path) - 1:
                yield x, top + BOX_HEIGHT

    boxes = tuple(
        Box(name, round(centers[name] - BOX_WIDTH / 2, 1), MARGIN + layer_of[name] * step)
        for name in graph
    )
    arrows = tuple(
        Arrow(source, target, tuple(points(path))) for (source, target), path in paths.items()
    )
    right = max((center + _width(place) / 2 for place, center in centers.items()), default=0.0)
    layers = max(layer_of.values(), default=-1) + 1
    height = layers * step - GAP_BELOW if layers else 0.0
    return Drawing(boxes, arrows, round(right + MARGIN, 1), height + 2 * MARGIN)
