"""The drawing of a tree's graph."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain.graph_layout import (
    BOX_HEIGHT,
    BOX_WIDTH,
    MOST_PLACES,
    Box,
    Drawing,
    Point,
    draw,
)

Graph = dict[str, list[str]]


@st.composite
def graphs(drawn: st.DrawFn, *, circles: bool = False) -> Graph:
    """Return the dependencies of up to a dozen processes, in any order; some are unknown."""
    count = drawn(st.integers(0, 12))
    names = [f"p{number}" for number in range(count)]
    graph: Graph = {}
    for number, name in enumerate(names):
        earlier = names if circles else names[:number]
        graph[name] = drawn(st.lists(st.sampled_from([*earlier, "unknown"]), max_size=4))
    return {name: graph[name] for name in drawn(st.permutations(names))}


def drawing_of(graph: Graph) -> Drawing:
    found = draw(graph)
    assert found is not None
    return found


@given(graph=graphs(circles=True))
def test_no_two_processes_overlap_and_all_are_within_the_drawing(graph: Graph) -> None:
    drawing = drawing_of(graph)
    assert [box.name for box in drawing.boxes] == list(graph)
    for number, one in enumerate(drawing.boxes):
        assert one.x >= 0
        assert one.y >= 0
        assert one.x + BOX_WIDTH <= drawing.width
        assert one.y + BOX_HEIGHT <= drawing.height
        for other in drawing.boxes[:number]:
            beside = abs(one.x - other.x) >= BOX_WIDTH
            assert beside or abs(one.y - other.y) >= BOX_HEIGHT


@given(graph=graphs(circles=True))
def test_each_arrow_leads_down_from_one_process_to_the_other(graph: Graph) -> None:
    drawing = drawing_of(graph)
    boxes = {box.name: box for box in drawing.boxes}
    for arrow in drawing.arrows:
        source, target = boxes[arrow.source], boxes[arrow.target]
        assert arrow.points[0] == (source.x + BOX_WIDTH / 2, source.y + BOX_HEIGHT)
        assert arrow.points[-1] == (target.x + BOX_WIDTH / 2, target.y)
        assert all(upper[1] < lower[1] for upper, lower in pairwise(arrow.points))
        assert all(0 <= x <= drawing.width for x, _ in arrow.points)


@given(graph=graphs())
def test_each_known_dependency_has_one_arrow(graph: Graph) -> None:
    arrows = [(arrow.source, arrow.target) for arrow in drawing_of(graph).arrows]
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == {
        (source, target) for target, sources in graph.items() for source in sources
    } - {("unknown", target) for target in graph}


@given(graph=graphs(circles=True))
def test_no_arrow_passes_through_a_process(graph: Graph) -> None:
    drawing = drawing_of(graph)
    for arrow in drawing.arrows:
        for upper, lower in pairwise(arrow.points):
            assert not any(_passes(upper, lower, box) for box in drawing.boxes)


def _passes(upper: Point, lower: Point, box: Box) -> bool:
    """Return whether a line enters a box; a line that spans a layer is vertical there."""
    beside = not box.x < upper[0] < box.x + BOX_WIDTH
    return not (lower[1] <= box.y or upper[1] >= box.y + BOX_HEIGHT or beside)


@given(graph=graphs(circles=True))
def test_a_graph_is_always_drawn_in_the_same_way(graph: Graph) -> None:
    assert draw(graph) == draw({name: list(names) for name, names in graph.items()})


def test_arrows_are_uncrossed_by_the_order_of_the_processes() -> None:
    crossed = drawing_of({"a": [], "b": [], "under b": ["b"], "under a": ["a"]})
    x_of = {box.name: box.x for box in crossed.boxes}
    assert (x_of["a"] < x_of["b"]) == (x_of["under a"] < x_of["under b"])


def test_a_process_stands_centered_under_what_it_depends_on() -> None:
    drawing = drawing_of({"a": [], "b": [], "c": ["a", "b"]})
    a, b, c = drawing.boxes
    assert c.x == pytest.approx((a.x + b.x) / 2)


def test_a_long_chain_is_drawn_and_what_is_too_large_is_not() -> None:
    chain: Graph = {"0": []}
    chain.update({str(number): [str(number - 1)] for number in range(1, MOST_PLACES)})
    assert drawing_of(chain).boxes[-1].y > drawing_of(chain).boxes[0].y
    assert draw({**chain, "one more": []}) is None
    every = {str(n): [str(other) for other in range(n)] for n in range(50)}
    assert draw(every) is None


def test_a_graph_without_processes_is_empty() -> None:
    assert drawing_of({}).boxes == ()
