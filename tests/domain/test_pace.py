"""The pace of a removal: short batches, with pauses in which others write."""

import pytest

from proctree_dagster.domain import pace
from proctree_dagster.domain.pace import Pace


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def paced(seconds: float = 100.0) -> tuple[Pace, Clock]:
    clock = Clock()
    return Pace(seconds, clock, clock.sleep), clock


def test_batches_grow_while_they_are_short_and_shrink_when_one_is_long() -> None:
    found, clock = paced()
    sizes = []
    for seconds in (0.01, 0.01, 0.04, 0.1, 0.1):
        with found.batch():
            clock.now += seconds
        sizes.append(found.size)
    assert sizes == [40, 80, 80, 40, 20]
    assert found.longest == pytest.approx(0.1)


def test_a_batch_has_one_row_at_least_and_no_more_than_a_query_takes() -> None:
    found, clock = paced()
    for _ in range(20):
        with found.batch():
            pass
    assert found.size == pace.MOST
    for _ in range(20):
        with found.batch():
            clock.now += 1
    assert found.size == 1


def test_others_have_twice_as_long_as_a_batch_took() -> None:
    found, clock = paced()
    with found.batch():
        clock.now += 0.07
    with found.batch():
        pass
    with found.batch():
        clock.now += 30
    assert clock.slept == pytest.approx([0.14, pace.SHORTEST_PAUSE, pace.LONGEST_PAUSE])


def test_it_is_over_when_its_time_is_up_also_after_an_error() -> None:
    found, clock = paced(1.0)
    assert not found.is_over

    def fail() -> None:
        with found.batch():
            clock.now += 2
            raise ValueError("locked")

    with pytest.raises(ValueError, match="locked"):
        fail()
    assert found.is_over
    assert found.longest == 2
